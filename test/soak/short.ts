// Short TCP connections, as fast as they go, to one remote socket: many times
// more than there are ports.

import { OUTSIDE } from '../lab/addresses.js'
import { count, type Report } from './report.js'
import { finish, onlyByHostroute, openLab, SERVER_PORT, startProgram, startServer, type Way } from './way.js'

export interface ShortOptions {
  connections: number
  pods: number
  /** At a time, of each pod. */
  parallel: number
}

export async function short(report: Report, options: ShortOptions, way: Way = 'hostroute'): Promise<void> {
  const { connections, pods, parallel } = options
  const lab = await openLab(report, way, { pods })
  const node = lab.node(0)
  await startServer(report, lab.outside)
  const each = connections / pods
  const clients = node.pods.map((pod) => startProgram(report, pod, 'short', OUTSIDE.v4, SERVER_PORT, each, parallel))
  const result = await finish(
    clients,
    ({ done, failed }) => report.progress(`${count(done)} of ${count(connections)} connections, ${failed} failed`),
    1_800_000
  )
  report.check(
    result.done === connections,
    `${count(connections - result.done)} of ${count(connections)} connections failed: ${result.errors}`
  )
  report.figure(
    `${count(result.done)} of ${count(connections)} connections, ${count(connections / result.seconds)}/s from ${pods} pods, ${count(result.late)} took a second or more, slowest ${result.slowest} ms`
  )
  if (way === 'hostroute') await onlyByHostroute(report, node)
}
