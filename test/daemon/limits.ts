// What must not notice that maps are replaced: long flows, pings and whoever begins
// just then.

import { readdirSync } from 'node:fs'
import type { Test } from 'tap'
import type { ReloadResult, VerifyReport } from '../../src/control/api.js'
import type { FlowList } from '../../src/control/flow-api.js'
import { control, plain, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { run, sleep } from '../lab/process.js'
import { dial } from './dialler.js'

/** Long flows, pings at 1 ms and new connections all the time around `action`: nothing may be lost. */
export async function nothingLost(t: Test, lab: Lab, action: () => Promise<void>, udpMayBeLost = false): Promise<void> {
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  const pings = [OUTSIDE.v4, OUTSIDE.v6, two.address.v4].map((address) => one.startPing(address, { interval: 1 }))
  const flows = await Promise.all([
    one.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 }),
    one.flow({ protocol: 'tcp', address: OUTSIDE.v6, port: 7 }),
    one.flow({ protocol: 'udp', address: OUTSIDE.v4, port: 7 })
  ])
  const dialled = await Promise.all([dial(two, OUTSIDE.v4), dial(one, OUTSIDE.v6)])
  await sleep(300)
  await action()
  await sleep(300)
  for (const { finish } of dialled) {
    const report = await finish()
    // what waits in a daemon that is killed, or beyond the 1,000 that may wait; TCP asks again
    const failed = report.failed.filter((text) => !udpMayBeLost || text.startsWith('tcp'))
    t.strictSame(failed, [], `${report.made} new connections, the slowest took ${report.longest.toFixed(0)} ms`)
  }
  for (const ping of pings) {
    await ping.stop('SIGINT')
    const { sent, lost } = readPing(ping.stdout, 2)
    t.strictSame(lost, [], `none of ${sent} pings lost`)
  }
  for (const flow of flows) {
    const { received, sent, error, longestGap } = await flow.finish()
    t.match({ received, error }, { received: sent, error: null }, `a flow with a longest gap of ${longestGap} ms`)
  }
}

/** Rows that the pinned map was made for. */
export async function sizeOf(node: LabNode, map: string): Promise<number> {
  const text = await run(['bpftool', '-j', 'map', 'show', 'pinned', `${node.daemon.pinDirectory}/${map}`])
  return (JSON.parse(text) as { max_entries: number }).max_entries
}

export async function reload(node: LabNode, limits: Record<string, number>): Promise<ReloadResult> {
  node.daemon.writeConfig({ ...plain, limits })
  return (await control(node).post<ReloadResult>('/v1/reload')).value
}

/** No trace of a change of maps in the pin directory. */
export function nothingLeft(t: Test, node: LabNode): void {
  const left = readdirSync(node.daemon.pinDirectory).filter((name) => /^next(-|$)/.test(name))
  t.strictSame(left, [], 'nothing half done is pinned')
}

export async function consistent(t: Test, node: LabNode): Promise<void> {
  t.equal((await control(node).get<VerifyReport>('/v1/verify')).value.total, 0, 'the maps hold what they should')
  const { counts } = await status(node)
  const flows = (await control(node).get<FlowList>('/v1/flows', { limit: '100000' })).value.flows
  const used = counts.flows4.used + counts.flows6.used
  t.ok(Math.abs(used - flows.length) <= 20, `${used} flows are in the accounts, ${flows.length} in the tables`)
}

export const small = { routes4: 2048, routes6: 2048, neighbours: 1024, masquerade: 256, devices: 16, flows: 16_384 }
export const large = { routes4: 4096, routes6: 8192, neighbours: 2048, masquerade: 512, devices: 64, flows: 262_144 }
