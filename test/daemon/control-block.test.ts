// The word that the hot path looks at, when the kernel arms the timer of
// the lease and when it does not. The programs themselves: test/bpf/lease.test.ts.

import t from 'tap'
import { ControlBlock } from '../../src/datapath/control-block.js'
import { STRUCTS } from '../../src/maps/layout.js'

const ENOMEM = 12

/** A control section in memory; `error`: what arming the timer says. */
function fake() {
  const bytes = Buffer.alloc(STRUCTS.control.size)
  const state = { error: 0 }
  const warnings: string[] = []
  const control = new ControlBlock(
    {
      readControl: () => Buffer.from(bytes),
      writeControl: (at, value) => void value.copy(bytes, at),
      testRun: (name) => ({
        retval: name === 'arm_lease' ? -state.error : 0,
        duration: 0,
        data: Buffer.alloc(0),
        context: Buffer.alloc(40)
      })
    },
    250,
    (text) => warnings.push(text)
  )
  return { control, state, warnings, straight: () => bytes.readUInt32LE(STRUCTS.control.offset.straight) }
}

t.test('[L3] without a timer for its lease the hot path stays off, and that is told once', async (t) => {
  const { control, state, warnings, straight } = fake()
  control.switchOn(true)
  t.equal(straight(), 0, 'not before the lease')
  control.renewLease(60_000)
  t.equal(straight(), 1)
  control.monitor('told')
  t.equal(straight(), 1, 'whoever is told of what the programs say anyway costs nobody anything')
  control.monitor('all')
  t.equal(straight(), 0, 'nor while somebody watches every packet')
  control.monitor('told')
  t.equal(straight(), 1)
  control.monitor('all')
  control.monitor('nothing')
  t.equal(straight(), 1)
  state.error = ENOMEM
  control.renewLease(60_000)
  control.renewLease(60_000)
  t.equal(straight(), 0, 'off as soon as it cannot be armed again')
  t.match(warnings, [/timer of the lease \(error 12\).*a later renewal tries again/])
  state.error = 0
  control.renewLease(60_000)
  t.equal(straight(), 1, 'and back')
  control.switchOn(false)
  t.equal(straight(), 0)
})
