// Pods' devices that go, move and give their ifindex to others while packets
// flow to and from them.

import t from 'tap'
import type { VerifyReport } from '../../src/control/api.js'
import { readPing } from '../lab/host.js'
import { until } from '../lab/process.js'
import { attached, control, counted, servedLab, status, undisturbed } from './served.js'

t.test('[F15] [F16] devices moved, deleted and made anew with the same ifindex in mid flow', async (t) => {
  const lab = await servedLab(t, { pods: 4 })
  const node = lab.node(0)
  const [one, moved, deleted] = [node.pod(0), node.pod(2), node.pod(3)]
  const hooks = async () => (await status(node)).hooks.map(({ device }) => device).sort()
  const agrees = async (when: string) =>
    t.match((await control(node).get<VerifyReport>('/v1/verify')).value, { ok: true, total: 0 }, `${when}: verify`)

  const flows = [moved, deleted].flatMap((pod) => [
    one.startPing(pod.address.v4, { interval: 2 }),
    pod.startPing(one.address.v6, { interval: 2 })
  ])
  await until('all flow', () => flows.every((ping) => readPing(ping.stdout).received > 20))
  await undisturbed(t, node, async () => {
    await node.ip(`link set ${moved.hostDevice} netns ${lab.outside.namespace}`, `link del ${deleted.hostDevice}`)
    await until('both are gone', async () => (await hooks()).join() === 'pod1,pod2,up0')
  })
  await Promise.all(flows.map((ping) => ping.stop('SIGINT')))
  await agrees('gone')
  t.strictSame((await attached(node)).sort(), ['from_pod', 'from_pod', 'from_uplink'], 'no program is left behind')
  t.notMatch(await lab.outside.run(['bpftool', '-j', 'net']), /from_pod|from_uplink/, 'nor has one moved along')
  const told = await one.ping(deleted.address.v4, { count: 3, interval: 200 })
  t.equal(told.received, 0, 'the pod is not there')

  // The same ifindex for a pod with another address, again and again.
  await undisturbed(t, node, async () => {
    for (let round = 0; round < 10; round++) {
      const address = { v4: `10.244.1.${100 + round}`, v6: `fd00:244:1::${100 + round}` }
      await node.ip(
        `link add again index 77 type veth peer name eth9 netns ${lab.outside.namespace}`,
        'link set again up',
        `route add ${address.v4}/32 dev again scope link`,
        `route add ${address.v6}/128 dev again`
      )
      if (round % 3 === 0) await until('served', async () => (await hooks()).includes('again'))
      one.startPing(address.v4, { interval: 2, count: 5, wait: 100 })
      await node.ip('link del again')
    }
  })
  await until('gone for good', async () => (await hooks()).join() === 'pod1,pod2,up0')
  await agrees('after ten lives of one ifindex')
  t.equal(await counted(node, 'drop'), 0, 'nothing dropped')
})
