// Many short questions to one resolver, each from a socket of its own, as
// resolvers' clients ask: more of them than there are ports to it.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { counted, plain, servedLab } from './served.js'

const PORTS = 1000
const QUERIES = 2000
const EACH = 4 // milliseconds between two

const asking = `
  import { createSocket } from 'node:dgram'
  let [answered, open] = [0, 0]
  const ask = () => {
    const socket = createSocket('udp4')
    const done = (ok) => {
      clearTimeout(timer)
      socket.close()
      answered += ok
      open--
    }
    const timer = setTimeout(done, 5000, 0)
    open++
    socket.on('message', () => done(1))
    socket.on('error', () => done(0))
    socket.send('x', 7, '${OUTSIDE.v4}')
  }
  // never faster, however late: in the second for which a port is not used again there are enough
  for (let asked = 0; asked < ${QUERIES}; asked++) {
    ask()
    await new Promise((go) => setTimeout(go, ${EACH}))
  }
  while (open > 0) await new Promise((go) => setTimeout(go, 10))
  console.log(answered)`

t.test(`[S2] [S9] ${2 * QUERIES} questions in some 10 s through ${PORTS} ports: all are answered`, async (t) => {
  const config = { ...plain, snat: { ports: `20000-${20000 + PORTS - 1}` } }
  const lab = await servedLab(t, { pods: 2 }, { config })
  const node = lab.node(0)
  const half = node.pods.map((pod) =>
    pod.run([process.execPath, '--input-type=module', '-e', asking], { timeout: 90_000 })
  )
  const answered = (await Promise.all(half)).map(Number)
  t.same(answered, [QUERIES, QUERIES])
  t.equal(await counted(node, 'drop-ports'), 0)
})
