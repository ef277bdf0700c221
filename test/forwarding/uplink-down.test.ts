// An uplink is set down while a default route of higher metric leads elsewhere.
// The kernel takes the IPv4 routes of a device that goes down away without a
// message: what is lost is the time until hostroute does the same.

import t from 'tap'
import { OUTSIDE, routerAddress } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import { sleep, until } from '../lab/process.js'
import { counted, servedLab, status } from './served.js'

const rounds = 5
/** To dump and compare them takes a while. */
const others = 30_000
const interval = 2

t.test('[Y5] traffic goes on by the other uplink at once, not after a dump', async (t) => {
  const lab = await servedLab(t, { uplinks: 2 })
  const node = lab.node(0)
  const [first, second] = [routerAddress(0), routerAddress(1)]
  await node.ip(`route add default via ${second.v4} dev up1 metric 200`)
  // asked for as long as the other way is in use, so that the gateway is known when it is needed
  await node.run(['ping', '-c', '1', '-I', 'up1', second.v4])
  const routes = Array.from({ length: others }, (_, i) => `route add 20.${i >> 8}.${i & 255}.0/24 via ${second.v4}`)
  await node.ip(...routes)
  await until('all are known', async () => (await status(node)).sync.events > others, 30_000)
  const lost: number[] = []
  for (let round = 0; round < rounds; round++) {
    const ping = node.pod(0).startPing(OUTSIDE.v4, { interval })
    await until('answers come', () => readPing(ping.stdout).received > 50)
    const forwarded = await counted(node, 'forwarded')
    await node.ip('link set up0 down')
    const before = readPing(ping.stdout).received
    await until('answers come again', () => readPing(ping.stdout).received > before + 50)
    await ping.stop('SIGINT')
    const { sent, received } = readPing(ping.stdout, 2)
    lost.push((sent - received) * interval)
    t.ok((await counted(node, 'forwarded')) > forwarded, 'by the fast path')
    await node.ip('link set up0 up', `route add default via ${first.v4} dev up0`)
    await sleep(1500)
  }
  t.comment(`milliseconds without answers: ${lost.join(', ')}`)
  t.ok(Math.min(...lost) <= 20, `${Math.min(...lost)} ms at best, of ${rounds}`)
})
