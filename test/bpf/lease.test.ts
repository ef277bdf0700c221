// The timer that takes the hot path away when the lease is over: only the
// clock of the kernel is asked, no packet and no daemon.
import './namespace.js'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { STRUCTS } from '../../src/maps/layout.js'
import { Control } from './layout.js'
import { testNode } from './node.js'

/** Waits until the program could have noticed the end of a lease of so many jiffies; the slowest kernels count 100 a second. */
const past = (jiffies: number) => sleep(jiffies * 10 + 300)

t.test('[L3] the hot path ends with the lease, and comes back with the next', async (t) => {
  const node = testNode({ flags: Control.on })
  const straight = () => node.object.readControl().readUInt32LE(STRUCTS.control.offset.straight)
  const lease = (jiffies: number) => {
    node.setControl({ lease: node.expire(0).jiffies + BigInt(jiffies) })
    t.equal(node.object.testRun('arm_lease', {}).retval, 0, 'armed')
    t.equal(straight(), 1, 'on')
  }
  lease(40)
  await past(40)
  t.equal(straight(), 0, 'off when it is over')
  lease(30)
  lease(100_000)
  await past(30)
  t.equal(straight(), 1, 'one that was renewed meanwhile counts')
  node.setControl({ lease: 0n })
  t.equal(node.object.testRun('arm_lease', {}).retval, 0)
  await past(1)
  t.equal(straight(), 0, 'one that is over already ends at once')
  node.close()
})
