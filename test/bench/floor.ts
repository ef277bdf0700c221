// Runs inside the floor's node: attaches floor.bpf.c, says "ready", and stays.
//
//   node build/js/test/bench/floor.js OBJECT '[{ "device": "pod1", "to": "up0", … }]'

import { execFileSync } from 'node:child_process'
import { native } from '../../src/native.js'
import { macBytes } from '../packets/bytes.js'

/** Everything from `device` goes to `to`, an uplink or a pod's host-side device, with these MACs. */
export interface Redirect {
  device: string
  program: 'to_pod' | 'to_uplink'
  to: string
  mac: string
  sourceMac: string
}

const [objectFile = '', redirects = '[]'] = process.argv.slice(2)
const links = JSON.parse(execFileSync('ip', ['-json', 'link'], { encoding: 'utf8' })) as {
  ifindex: number
  ifname: string
}[]
const ifindexOf = (name: string) => links.find((link) => link.ifname === name)?.ifindex ?? 0

for (const { device, program, to, mac, sourceMac } of JSON.parse(redirects) as Redirect[]) {
  const object = native().loadObject({ objectFile, programs: [program] })
  const target = Buffer.alloc(4)
  target.writeUInt32LE(ifindexOf(to))
  object.writeControl(4, Buffer.concat([target, macBytes(mac), macBytes(sourceMac)]))
  object.attachTcx(program, ifindexOf(device))
}
console.log('ready')
setInterval(() => {}, 1 << 30)
