// Pods made and removed by the CNI plugins themselves, not by the lab. The node
// keeps a MASQUERADE rule, as a node with hostroute does in practice: until a
// new pod's device is served, the kernel does all of its work.
//
// Takes up to 30 s: 200 pods up and down.

import { existsSync, readdirSync } from 'node:fs'
import t from 'tap'
import type { Counts, VerifyReport } from '../../src/control/api.js'
import { OUTSIDE } from '../lab/addresses.js'
import { addCniPod, type CniNetwork, type CniPod } from '../lab/cni.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { asTheKernelDoes, attached, control, counted, servedLab, status, undisturbed } from './served.js'

const families = ['v4', 'v6'] as const
const ptp: CniNetwork = { name: 'routed', type: 'ptp', subnets: ['10.244.1.64/26', 'fd00:244:1:0:4000::/80'] }
const bridge: CniNetwork = {
  name: 'bridged',
  type: 'bridge',
  subnets: ['10.244.1.128/26', 'fd00:244:1:0:8000::/80'],
  keys: { bridge: 'cni0', isGateway: true }
}

/** Rows of the maps that belong to pods. */
async function rows(node: LabNode): Promise<Pick<Counts, 'pods' | 'devices' | 'nexthops' | 'routes4' | 'routes6'>> {
  const { pods, devices, nexthops, routes4, routes6 } = (await status(node)).counts
  return { pods, devices, nexthops, routes4, routes6 }
}

/** Pings from the new pod as soon as it is there; what was lost. The kernel, too, may take a second to join the gateway's group. */
async function talks(pod: CniPod, address: string): Promise<string[]> {
  const { received, output } = await pod.ping(address, { count: 3, interval: 5, wait: 5_000 })
  return received === 3 ? [] : [`${pod.name}: ${output}`]
}

/** Makes pods, lets them talk and removes them, `atOnce` at a time; what was lost. */
async function upAndDown(lab: Lab, total: number, atOnce: number, directory: string): Promise<string[]> {
  const node = lab.node(0)
  const lost: string[] = []
  let next = 0
  const targets = [OUTSIDE.v4, node.pod(1).address.v6, node.pod(1).address.v4, OUTSIDE.v6]
  const worker = async () => {
    while (next < total) {
      const number = next++
      const pod = await addCniPod(node, ptp, `c${number}`, directory)
      lost.push(...(await talks(pod, targets[number % targets.length] ?? '')))
      await pod.remove(directory)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
  return lost
}

t.test('200 pods up and down by ptp and host-local: no ping lost, no row left', async (t) => {
  const lab = await servedLab(t, { legacy: 1 })
  const node = lab.node(0)
  const directory = `${lab.directory}/addresses`
  const before = await rows(node)
  const isAsBefore = async () => JSON.stringify(await rows(node)) === JSON.stringify(before)

  const pod = await addCniPod(node, ptp, 'first', directory)
  await until('served', async () =>
    (await status(node)).hooks.some((hook) => hook.device === pod.hostDevice && hook.served)
  )
  await pod.ping(node.pod(0).address.v4, { count: 2 })
  await until('its MAC is known', async () => (await pod.ping(OUTSIDE.v6, { count: 2 })).received === 2)
  const forwarded = await counted(node, 'forwarded', pod.hostDevice)
  for (const family of families) {
    const answers = await pod.askAll(
      (['tcp', 'udp'] as const).map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7, bytes: 900 }))
    )
    const wanted = { echoed: 900, error: null, peer: node.address[family] }
    t.match(answers, [wanted, wanted], `${family}: SNAT for a pod of the plugin`)
    t.match(await pod.ping(node.pod(0).address[family], { count: 3 }), { received: 3, ttl: 63 }, `${family}: to a pod`)
    t.match(
      await node.pod(0).ping(pod.address[family], { count: 3 }),
      { received: 3, ttl: 63 },
      `${family}: from a pod`
    )
    t.equal((await node.ping(pod.address[family], { count: 2 })).received, 2, `${family}: from the node`)
    t.equal((await pod.ping(pod.gateway[family], { count: 2 })).received, 2, `${family}: its gateway answers`)
  }
  t.ok((await counted(node, 'forwarded', pod.hostDevice)) > forwarded + 20, 'on the fast path')
  await pod.remove(directory)

  await until('its rows are gone', isAsBefore)
  await undisturbed(t, node, async () => {
    t.strictSame(await upAndDown(lab, 200, 10, directory), [], 'nothing that a new pod sent or was sent is lost')
  })
  await until('every row is gone', isAsBefore)
  t.match((await control(node).get<VerifyReport>('/v1/verify')).value, { ok: true, total: 0 }, 'verify finds nothing')
  t.strictSame((await attached(node)).sort(), ['from_pod', 'from_pod', 'from_uplink'], 'no program is left')
  t.equal(await counted(node, 'drop'), 0, 'nothing was dropped')
  const leases = existsSync(`${directory}/routed`) ? readdirSync(`${directory}/routed`) : []
  t.strictSame(
    leases.filter((file) => /^\d|:/.test(file)),
    [],
    'host-local has all addresses back'
  )
})

t.test('pods on a bridge are left to the kernel, said in status, and reach everybody', async (t) => {
  const lab = await servedLab(t, { legacy: 1, counters: true })
  const node = lab.node(0)
  const directory = `${lab.directory}/addresses`
  const [one, two] = [await addCniPod(node, bridge, 'b1', directory), await addCniPod(node, bridge, 'b2', directory)]
  const why = async (device: string) => (await status(node)).hooks.find((hook) => hook.device === device)?.why ?? ''
  await until('said', async () => (await why('cni0')) !== '')
  t.match(await why('cni0'), /bridge/, 'the bridge')
  t.match(await why(one.hostDevice), /port of bridge cni0/, 'its port')
  t.match((await node.hostroute(['status'])).stdout, /cni0 .*bridge/, 'the command says so')

  const routed = node.pod(0)
  await routed.echo(7)
  const server = await one.echo(7)
  const ways = () =>
    Promise.all(
      families.flatMap((family) => {
        const ask = async (from: CniPod | typeof routed, address: string) => {
          const questions = (['tcp', 'udp'] as const).map((protocol) => ({ protocol, address, port: 7, bytes: 900 }))
          return (await from.askAll(questions)).map(({ peer, echoed, error }) => ({ peer, echoed, error }))
        }
        const ping = async (from: CniPod | typeof node | typeof routed, address: string) => {
          const { received, ttl } = await from.ping(address, { count: 3 })
          return { received, ttl }
        }
        return [
          ping(one, two.address[family]),
          ping(one, routed.address[family]),
          ping(routed, two.address[family]),
          ping(node, one.address[family]),
          ping(one, OUTSIDE[family]),
          ask(one, routed.address[family]),
          ask(routed, one.address[family]),
          ask(two, OUTSIDE[family])
        ]
      })
    )
  const { forward } = await node.readCounters()
  const served = await ways()
  t.ok((await node.readCounters()).forward > forward + 20, 'through the forward hook')
  t.strictSame(served, await asTheKernelDoes(node, ways), 'as with the kernel alone')
  t.notMatch(JSON.stringify(served), /"received":[012]\b|"error":"/, 'and all of it arrived')
  t.equal(await counted(node, 'drop'), 0, 'nothing dropped')

  await server.stop()
  await one.remove(directory)
  await two.remove(directory)
  t.equal((await control(node).get<VerifyReport>('/v1/verify')).value.total, 0, 'verify finds nothing')
})
