// The address behind which pods hide goes, or their way out takes another
// uplink, while they talk.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import { until } from '../lab/process.js'
import { servedLab, status } from './served.js'

/** One UDP socket that goes on asking; each new answer to who it is seen as is a line. */
function talker(pod: LabHost) {
  return pod.start([
    process.execPath,
    '--input-type=module',
    '-e',
    `
    import { createSocket } from 'node:dgram'
    const socket = createSocket('udp4')
    let last = ''
    socket.on('message', (bytes) => {
      const { peer } = JSON.parse(bytes.toString().split('\\n')[0])
      if (peer !== last) console.log((last = peer))
    })
    socket.connect(7, '${OUTSIDE.v4}', () => setInterval(() => socket.send('x'), 50))`
  ])
}

t.test('[S14] the address is replaced, as a DHCP client does it: UDP goes on, TCP fails at once', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const talking = talker(pod)
  t.teardown(() => talking.stop())
  await talking.waitFor(node.address.v4)
  const stream = pod.start(['socat', '-', `TCP4:${OUTSIDE.v4}:7`])
  t.teardown(() => stream.stop())
  stream.child.stdin?.write('x\n')
  await stream.waitFor('peer')
  await node.sysctl({ 'net.ipv4.conf.all.promote_secondaries': 1, 'net.ipv4.conf.up0.promote_secondaries': 1 })
  await node.ip(
    'addr add 192.168.100.77/24 dev up0',
    `addr del ${node.address.v4}/24 dev up0`,
    'route replace default via 192.168.100.1 dev up0'
  )
  await talking.waitFor('192.168.100.77')
  const writing = setInterval(() => stream.child.stdin?.write('x\n'), 100)
  const { status: code } = await stream.finished(10_000).finally(() => clearInterval(writing))
  t.not(code, 0, 'the remote knows nothing of the connection from the new address, and says so')
  t.ok((await status(node)).counts.movedFlows >= 2)
  await until(
    'the log says so, in sum',
    () => /\d+ flows through SNAT were decided again/.test(node.daemon.log),
    15_000
  )
})
