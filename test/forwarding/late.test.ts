// What the kernel has and the maps do not have yet: the daemon is stopped
// meanwhile, so that the moment between the two lasts as long as the test likes.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { until } from '../lab/process.js'
import { counted, servedLab, status } from './served.js'

const families = ['v4', 'v6'] as const

t.test('[F18] a pod that the maps do not have yet is answered, not sent out by the default route', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const old = node.pod(0)
  const uplink = await node.capture('up0', 'icmp or icmp6')
  process.kill(node.daemon.pid, 'SIGSTOP')
  const young = await node.addPod(2)
  for (const family of families) {
    t.equal((await young.ping(old.address[family], { count: 3 })).received, 3, `${family}: the new pod asks`)
    t.equal((await old.ping(young.address[family], { count: 3 })).received, 3, `${family}: the new pod is asked`)
  }
  t.ok(
    (await uplink.stop()).every(({ packet }) => packet.l4?.type !== 128 && packet.l4?.type !== 8),
    'by no uplink'
  )
  process.kill(node.daemon.pid, 'SIGCONT')
  await until('served', async () => (await status(node)).hooks.some((hook) => hook.device === 'pod2' && hook.served))
  t.ok((await counted(node, 'unknown-device')) > 0, 'counted as what the maps do not have yet')
  for (const family of families) {
    t.match(await old.ping(young.address[family], { count: 3 }), { received: 3, ttl: 63 }, `${family}: then served`)
  }
})

t.test('[F17] [F18] an address that a served pod has just got is not taken for spoofed', async (t) => {
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const [pod, other] = [node.pod(0), node.pod(1)]
  const late = { v4: '10.244.1.88', v6: 'fd00:244:1::88' }
  process.kill(node.daemon.pid, 'SIGSTOP')
  await pod.ip(`addr add ${late.v4}/32 dev eth0`, `addr add ${late.v6}/128 dev eth0 nodad`)
  await node.ip(`route add ${late.v4}/32 dev pod1 scope link`, `route add ${late.v6}/128 dev pod1`)
  for (const family of families) {
    const from = ['-I', late[family]]
    t.equal((await pod.ping(other.address[family], { count: 3, arguments: from })).received, 3, `${family}: its own`)
    // the kernel's way back to these leads elsewhere: the other pod, the uplink, the node
    for (const lie of [other.address[family], OUTSIDE[family], node.address[family]]) {
      await pod.ip(`addr add ${lie}/${family === 'v4' ? '32' : '128 nodad'} dev eth0`)
      await pod.ping(`${family === 'v4' ? '10.244.1.200' : 'fd00:244:1::200'}`, {
        count: 2,
        wait: 50,
        arguments: ['-I', lie]
      })
      await pod.ip(`addr del ${lie}/${family === 'v4' ? '32' : '128'} dev eth0`)
    }
  }
  process.kill(node.daemon.pid, 'SIGCONT')
  await until('all spoofed packets are counted', async () => (await counted(node, 'drop-spoof')) === 12)
  t.pass('what is spoofed is dropped all the same')
})
