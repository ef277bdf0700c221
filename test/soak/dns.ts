// DNS questions of many pods to one resolver, at a steady pace.

import { OUTSIDE } from '../lab/addresses.js'
import { count, type Report } from './report.js'
import { finish, onlyByHostroute, openLab, SERVER_PORT, startProgram, startServer, type Way } from './way.js'

export interface DnsOptions {
  pods: number
  /** Of all pods together. */
  perSecond: number
  seconds: number
}

export async function dns(report: Report, { pods, perSecond, seconds }: DnsOptions, way: Way = 'hostroute') {
  const lab = await openLab(report, way, { pods })
  const node = lab.node(0)
  await startServer(report, lab.outside)
  const questions = Math.round((perSecond * seconds) / pods)
  const clients = node.pods.map((pod) =>
    startProgram(report, pod, 'questions', OUTSIDE.v4, SERVER_PORT, questions, Math.round(perSecond / pods))
  )
  const all = questions * pods
  const result = await finish(
    clients,
    ({ done, failed }) => report.progress(`${count(done)} of ${count(all)} answered, ${failed} failed`),
    seconds * 5_000 + 60_000
  )
  report.check(result.done === all, `${count(all - result.done)} of ${count(all)} not answered: ${result.errors}`)
  report.figure(
    `${count(result.done)} of ${count(all)} answered at ${count(all / result.seconds)}/s from ${pods} pods, slowest ${result.slowest} ms`
  )
  if (way === 'hostroute') await onlyByHostroute(report, node)
}
