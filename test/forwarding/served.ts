// A lab whose nodes run hostrouted, and what its counters say: the start of
// each test of forwarding and of the daemon's life.

import type { Test } from 'tap'
import type { NexthopRow, Status } from '../../src/control/api.js'
import { type ControlClient, controlClient } from '../../src/control/client.js'
import type { DropRow } from '../../src/control/packet-api.js'
import type { ReasonKind } from '../../src/reasons.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { DaemonOptions } from '../lab/daemon.js'
import { readPing } from '../lab/host.js'
import { Lab, type LabOptions } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'

/** Neither checks nor guard: these tests put rules beside hostroute on purpose. */
export const plain = { checks: 'off', guard: { mode: 'off' } }

/**
 * A lab with an echo server outside (port 7) and a daemon on each node; gone when the test ends. One node when `nodes`
 * is absent. The gateways' MACs are known: no packet through them is the kernel's for want of one.
 */
export async function servedLab(
  t: Pick<Test, 'teardown'>,
  options: LabOptions = {},
  daemon: Omit<DaemonOptions, 'config'> & { config?: Record<string, unknown> } = {}
): Promise<Lab> {
  const lab = await Lab.create({ nodes: 1, ...options })
  t.teardown(() => lab.close())
  const config = { ...plain, ...daemon.config }
  await Promise.all([...lab.nodes.map((node) => node.startDaemon({ ...daemon, config })), lab.outside.echo(7)])
  for (const node of lab.nodes) {
    const resolved = async () => {
      const { value } = await control(node).get<NexthopRow[]>('/v1/nexthops')
      return value.every(({ gateway, mac }) => gateway === null || mac !== null)
    }
    await until(`${node.name} knows its gateways`, resolved, daemon.timeout ?? 15_000)
  }
  return lab
}

/** The daemon's control socket, without a process for each question. */
export function control(node: LabNode): ControlClient {
  return controlClient(node.daemon.socket)
}

export async function status(node: LabNode): Promise<Status> {
  return (await control(node).get<Status>('/v1/status')).value
}

/** Packets the programs have counted, of one class or of one reason. */
export async function counted(node: LabNode, what: ReasonKind | string, device?: string): Promise<number> {
  const rows = (await control(node).get<DropRow[]>('/v1/drops')).value
  return rows
    .filter((row) => (row.class === what || row.reason === what) && (!device || row.device === device))
    .reduce((sum, row) => sum + row.packets, 0)
}

/** Names of our programs on the node's devices, as the kernel lists them. */
export async function attached(node: LabNode): Promise<string[]> {
  const text = await node.run(['bpftool', '-j', 'net'])
  return text.match(/from_pod|from_uplink|uplink_filter/g) ?? []
}

/** Runs `action` with hostroute switched off, so that the kernel itself forwards. */
export async function asTheKernelDoes<Result>(node: LabNode, action: () => Promise<Result>): Promise<Result> {
  await control(node).post('/v1/disable', { force: true })
  try {
    return await action()
  } finally {
    await control(node).post('/v1/enable')
  }
}

/** A ping at 5 ms through SNAT and one to the other pod around `action`; asserts that none was lost. */
export async function undisturbed(t: Test, node: LabNode, action: () => Promise<void>): Promise<void> {
  const targets = [OUTSIDE.v4, node.pod(1).address.v6]
  const pings = targets.map((address) => node.pod(0).startPing(address, { interval: 5 }))
  await sleep(100)
  await action()
  await sleep(100)
  for (const ping of pings) {
    await ping.stop('SIGINT')
    const report = readPing(ping.stdout, 2)
    t.strictSame(report.lost, [], `${report.sent} pings, none lost`)
  }
}
