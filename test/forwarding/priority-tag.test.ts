// Frames tagged with a priority and VLAN id 0 (802.1p), as switches and network
// cards with quality of service send them: no VLAN, so they are ours like others.

import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import { counted, servedLab } from './served.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const object = `${root}build/test/priority_tag.bpf.o`

async function tagFrom(host: LabHost, device: string): Promise<void> {
  await host.run(['tc', 'qdisc', 'add', 'dev', device, 'clsact'])
  await host.run(['tc', 'filter', 'add', 'dev', device, 'egress', 'bpf', 'da', 'obj', object, 'sec', 'tc'])
}

t.test('[P6] [S1] [S2] [S3] frames with a priority and VLAN id 0, from outside and from pods', async (t) => {
  mkdirSync(`${root}build/test`, { recursive: true })
  execFileSync(`${root}scripts/build-native`, ['--bpf', `${root}test/forwarding/priority_tag.bpf.c`, object])
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  const tagged = await node.capture('up0', 'vlan 0')
  await tagFrom(lab.router, 'n1u0')
  await tagFrom(one, 'eth0')
  await two.echo(7)
  const into = await one.capture('eth0', 'inbound and vlan')
  const before = await counted(node, 'stack')
  for (const family of ['v4', 'v6'] as const) {
    for (const protocol of ['tcp', 'udp'] as const) {
      for (const address of [OUTSIDE[family], two.address[family]]) {
        const answer = await one.ask({ protocol, address, port: 7, bytes: 3000 })
        t.match(answer, { error: null, echoed: 3000 }, `${protocol}, ${address}`)
      }
    }
    t.match(await one.ping(OUTSIDE[family], { count: 3 }), { received: 3 })
  }
  t.equal(await counted(node, 'vlan'), 0, 'none was left to the stack for its tag')
  t.comment(`left to the stack for other reasons: ${(await counted(node, 'stack')) - before}`)
  t.ok((await tagged.stop()).length > 10, 'they were tagged')
  t.equal((await into.stop()).length, 0, 'the pod gets none')
})
