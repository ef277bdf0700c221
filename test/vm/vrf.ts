// Runs inside a test machine, where the kernel has VRFs: their devices stay with
// the kernel, beside pods that are served.

import t from 'tap'
import { counted, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { run, until } from '../lab/process.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

await run(['modprobe', 'vrf'])
const families = ['v4', 'v6'] as const
const near = { count: 5, interval: 50, wait: 5_000 }

t.test('[F10] a pod and an uplink of a VRF are the kernel’s, said in status; the others stay served', async (t) => {
  const lab = await servedLab(t, { pods: 2, uplinks: 2, counters: true }, { timeout: 60_000 })
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  const uplink = node.uplinks[1]!
  const back = families.map((family) => `route replace ${two.address[family]} via ${uplink.address[family]}`)
  await lab.router.ip(...back)
  await node.ip('link add red type vrf table 20', 'link set red up')
  await node.ip(`link set ${uplink.device} master red`, `link set ${two.hostDevice} master red`)
  await node.ip(
    // a device that joins goes down and up: what was IPv6 is gone
    `addr replace ${uplink.address.v6}/64 dev ${uplink.device} nodad`,
    `addr replace fe80::1/64 dev ${two.hostDevice} nodad`,
    ...families.flatMap((family) => [
      `route replace ${two.address[family]} dev ${two.hostDevice} table 20`,
      `route replace ${family === 'v4' ? 'default' : '::/0'} via ${uplink.router[family]} dev ${uplink.device} table 20`
    ])
  )
  const reason = async (device: string) => (await status(node)).hooks.find((hook) => hook.device === device)?.why ?? ''
  for (const { device } of [uplink, { device: two.hostDevice }])
    await until(`${device}: left to the kernel`, async () => /VRF red/.test(await reason(device)))
  for (const family of families) {
    const { forward } = await node.readCounters()
    t.match(await two.ping(uplink.router[family], near), { received: 5, ttl: 63 }, `${family}: in the VRF`)
    const between = (await node.readCounters()).forward
    t.ok(between > forward, 'by the kernel')
    const answer = await one.ask({ protocol: 'tcp', address: OUTSIDE[family], port: 7, timeout: 20_000 })
    t.match(answer, { echoed: 32, peer: node.address[family] }, `${family}: beside it`)
    t.equal((await node.readCounters()).forward, between, 'by the programs')
    t.match(await one.ping(two.address[family], { ...near, count: 2, wait: 1_000 }), { received: 0 }, 'no way between')
  }
  t.equal(await counted(node, 'drop'), 0, 'nothing dropped')
  t.equal((await node.hostroute(['verify'], 60_000)).status, 0, 'the maps are in step')
})
