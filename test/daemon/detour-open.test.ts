// Opening the detour where that does not work at once, in what order, and what is
// said about it.

import t from 'tap'
import { Detour, type DetourOptions } from '../../src/datapath/detour.js'
import type { BpfObject, NativeError, TapDevice } from '../../src/native.js'

function failure(code: string, syscall: string): NativeError {
  return Object.assign(new Error(`cannot do it: ${code}`), { code, syscall, errno: 1 })
}

/** A detour whose calls are written down; `refuse` throws for the names and calls that do not work. */
function fake(refuse: (what: string) => void = () => {}) {
  const calls: string[] = []
  const logged: string[] = []
  const state = { refuse }
  const note = (what: string) => {
    state.refuse(what)
    calls.push(what)
  }
  let receive: (frames: Buffer[] | null) => void = () => {}
  const options = {
    native: {
      openTap: (name: string, onFrames: typeof receive): TapDevice => {
        note(`open ${name}`)
        receive = onFrames
        return {
          name,
          ifindex: 17,
          write: (frame) => {
            note(`write ${frame.length}`)
            return true
          },
          close: () => note('close device')
        }
      }
    },
    control: { setDetour: (ifindex: number) => note(`control ${ifindex}`) },
    log: {
      info: (text: string) => logged.push(`info ${text}`),
      warn: (text: string) => logged.push(`warn ${text}`)
    }
  } as unknown as DetourOptions
  const object = {
    linkTcx: () => {
      note('attach')
      return { fd: 5, close: () => note('detach') }
    },
    updateLink: () => note('replace'),
    attachClsact: () => {
      note('clsact')
      return { replaced: false }
    }
  } as unknown as BpfObject
  const detour = new Detour(options)
  return { detour, object, calls, logged, state, receive: (frames: Buffer[] | null) => receive(frames) }
}

t.test('the programs are told after all is ready, and before it goes; what waits is not lost', async (t) => {
  const { detour, object, calls, logged, receive } = fake()
  t.strictSame(calls.splice(0), ['control 0'], 'an earlier daemon’s device is gone')
  detour.open(object)
  t.strictSame(calls.splice(0), ['open hostroute0', 'attach', 'control 17'])
  t.match(logged, [/^info .* is open: hostroute0$/])
  receive([Buffer.from('02687264090000000000000008000102', 'hex')])
  t.match(detour.status(), { device: 'hostroute0', why: null, waiting: 1, packets: { held: 1 } })
  detour.open(object)
  detour.keep(object, true)
  t.strictSame(calls, [], 'it is open')
  detour.close()
  t.strictSame(calls, ['control 0', 'write 16', 'detach', 'close device'])
  t.match(detour.status(), { device: null, waiting: 0 })
})

t.test('without the module, or refused: told once with the remedy, tried again, and told when it works', async (t) => {
  for (const [code, remedy] of [
    ['ENOENT', /modprobe tun/],
    ['ENODEV', /modprobe tun/],
    ['EPERM', /DeviceAllow=\/dev\/net\/tun rw/]
  ] as const) {
    const { detour, object, logged, state, calls } = fake((what) => {
      if (what.startsWith('open')) throw failure(code, 'open')
    })
    for (let round = 0; round < 3; round++) detour.keep(object, true)
    t.equal(logged.length, 1, code)
    t.match(logged[0], /^warn /)
    t.match(logged[0], remedy)
    t.match(detour.status(), { device: null, why: remedy })
    t.notOk(calls.includes('control 17'))
    state.refuse = () => {}
    detour.keep(object, true)
    t.match(detour.status(), { device: 'hostroute0', why: null })
    t.match(logged, [remedy, /^info .* is open again: hostroute0$/])
  }
})

t.test('a program that cannot be attached: no device is left, and none is named', async (t) => {
  const { detour, object, calls, logged } = fake((what) => {
    if (what === 'attach') throw failure('EPERM', 'bpf(BPF_LINK_CREATE)')
  })
  calls.length = 0
  detour.open(object)
  t.strictSame(calls, ['open hostroute0', 'control 0', 'close device'])
  t.match(logged, [/cannot do it: EPERM; tried again$/])
})

t.test('a kernel without TCX gets a clsact filter', async (t) => {
  const { detour, object, calls } = fake((what) => {
    if (what === 'attach') throw failure('EINVAL', 'bpf(BPF_LINK_CREATE)')
  })
  calls.length = 0
  detour.open(object)
  t.strictSame(calls, ['open hostroute0', 'clsact', 'control 17'])
})

t.test('names of others are passed over, and when all are taken it says so', async (t) => {
  const taken = new Set(['hostroute0', 'hostroute1'])
  const { detour, object, state } = fake((what) => {
    if (taken.has(what.slice(5))) throw failure('EBUSY', 'ioctl(TUNSETIFF)')
  })
  detour.open(object)
  t.equal(detour.status().device, 'hostroute2')
  detour.close()
  state.refuse = (what) => {
    if (what.startsWith('open')) throw failure('EBUSY', 'ioctl(TUNSETIFF)')
  }
  detour.open(object)
  t.match(detour.status().why, /devices hostroute0 to hostroute9 of another program's/)
})

t.test(
  'another object’s program takes the place of the first; one that somebody detached hangs there again',
  async (t) => {
    const { detour, object, calls, state } = fake()
    t.strictSame(detour.attachAgain(object), [], 'nothing while it is closed')
    detour.open(object)
    calls.length = 0
    t.strictSame(detour.attachAgain(object), [])
    t.strictSame(calls.splice(0), ['replace'])
    state.refuse = (what) => {
      if (what === 'replace') throw failure('ENOLINK', 'bpf(BPF_LINK_UPDATE)')
    }
    t.match(detour.attachAgain(object), [/somebody detached from_detour from hostroute0; attached again/])
    t.strictSame(calls, ['detach', 'attach'])
    state.refuse = (what) => {
      if (what === 'replace') throw failure('EPERM', 'bpf(BPF_LINK_UPDATE)')
    }
    t.match(detour.attachAgain(object), [/could not be attached again: cannot do it: EPERM/])
  }
)
