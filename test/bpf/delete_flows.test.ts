// Flows that an operator has chosen are deleted by programs in the kernel, with
// what belongs to them, and their next packet is decided anew.
import './namespace.js'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { hexAddress } from '../../src/address.js'
import type { Deletion } from '../../src/maps/deletion.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { ip, tcp, udp } from '../packets/packet.js'
import { hex } from '../plan/node.js'
import { devices, onLink, type PodName, type TestNode, testNode, to } from './node.js'

type Family = 4 | 6

function send(
  node: TestNode,
  family: Family,
  pod: PodName,
  sourcePort: number,
  remote: string = to.external[family],
  port = 53
) {
  const addresses = { source: devices[pod][`v${family}`], destination: remote }
  return node.send(pod, ip(addresses, udp({ sourcePort, destinationPort: port })))
}

const outsidePort = (result: ReturnType<TestNode['send']>) => result.packet.l4?.sourcePort ?? -1

for (const family of [4, 6] as const) {
  const length = family === 4 ? 32 : 128
  const local = (node: TestNode) =>
    node
      .flows(family)
      .map(({ localPort }) => localPort)
      .sort((a, b) => a - b)

  t.test(`an IPv${family} flow goes with its reverse entry, whatever its age`, async (t) => {
    const node = testNode()
    for (const port of [1, 2, 3]) send(node, family, 'a', port)
    t.same(node.deleteFlows(family), { chosen: 3, deleted: 3 })
    t.same([node.flows(family).length, node.reverses(family).length], [0, 0])
    t.same(node.deleteFlows(family), { chosen: 0, deleted: 0 })
    node.close()
  })

  t.test(`each filter chooses IPv${family} flows, and all of them have to fit`, async (t) => {
    const near = onLink[family]
    const make = () => {
      const node = testNode()
      send(node, family, 'a', 1)
      send(node, family, 'a', 2, to.external[family], 443)
      send(node, family, 'a', 3, near)
      send(node, family, 'b', 4)
      return node
    }
    const pod = hex(devices.a[`v${family}`])
    const remote = hex(to.external[family])
    const cases: [name: string, Partial<Deletion>, left: number[]][] = [
      ['nothing', {}, []],
      ["the pod's address", { podAddress: pod }, [4]],
      ["the pod's id", { podId: 101 }, [1, 2, 3]],
      ['the remote', { remote: { address: remote, length } }, [3]],
      ['a prefix with bits beyond it', { remote: { address: remote, length: length - 3 } }, [3]],
      ['every address', { remote: { address: remote, length: 0 } }, []],
      ['a port', { remotePort: 443 }, [1, 3, 4]],
      ['remote and port', { remote: { address: remote, length }, remotePort: 53 }, [2, 3]],
      ['pod and remote', { podAddress: pod, remote: { address: remote, length } }, [3, 4]],
      ['a verdict that none has', { verdict: 3 }, [1, 2, 3, 4]],
      ['the verdict of all', { verdict: 2 }, []],
      ['too young', { age: 1_000_000 }, [1, 2, 3, 4]],
      ['not idle for so long', { idle: 1_000_000 }, [1, 2, 3, 4]],
      ['the other family', { podAddress: hex(devices.a[family === 4 ? 'v6' : 'v4']) }, [1, 2, 3, 4]],
      [
        'any remote of the other family',
        { remote: { address: hexAddress('0'.repeat(family === 4 ? 32 : 8)), length: 0 } },
        family === 4 ? [] : [1, 2, 3, 4]
      ],
      ['only counted', { dryRun: true }, [1, 2, 3, 4]]
    ]
    for (const [name, deletion, left] of cases) {
      const node = make()
      const { chosen, deleted } = node.deleteFlows(family, deletion)
      t.same(local(node), left, name)
      t.equal(deleted, 4 - left.length, `${name}: deleted`)
      t.equal(chosen, deletion.dryRun ? 4 : deleted, `${name}: chosen`)
      if (!deletion.dryRun) t.ok(node.reverses(family).length <= left.length, `${name}: no port is left over`)
      node.close()
    }
  })

  t.test(`age counts from an IPv${family} flow's first packet, idleness from the last of either side`, async (t) => {
    const node = testNode()
    const spoken = outsidePort(send(node, family, 'a', 1))
    send(node, family, 'a', 2)
    send(node, family, 'a', 3)
    const before = node.expire(0).jiffies
    await sleep(600)
    const began = node.expire(0).jiffies
    send(node, family, 'a', 2)
    const answer = udp({ sourcePort: 53, destinationPort: spoken })
    t.equal(
      node.send('up0', ip({ source: to.external[family], destination: devices.up0[`v${family}`] }, answer)).reason,
      'to-pod'
    )
    send(node, family, 'a', 4)
    const passed = Number(node.expire(0).jiffies - began)
    const idle = passed + Math.floor(Number(began - before) / 2)
    t.equal(node.deleteFlows(family, { idle, dryRun: true }).chosen, 1, 'the one that nobody used')
    t.equal(node.deleteFlows(family, { age: idle, dryRun: true }).chosen, 3)
    t.equal(node.deleteFlows(family, { idle }).deleted, 1)
    t.same(local(node), [1, 2, 4])
    t.equal(node.deleteFlows(family, { age: idle }).deleted, 2)
    t.same(local(node), [4])
    node.close()
  })

  t.test(`an IPv${family} flow that began after the command stays`, async (t) => {
    const node = testNode()
    send(node, family, 'a', 1)
    const started = Number(node.expire(0).jiffies & 0xffffffffn)
    await sleep(30)
    send(node, family, 'a', 2)
    t.equal(node.deleteFlows(family, { started }).deleted, 1)
    t.same(local(node), [2])
    node.close()
  })

  t.test(`the age of an IPv${family} flow counts beyond 2^31 jiffies`, async (t) => {
    const { created } = STRUCTS.flow.offset
    const make = () => {
      const node = testNode()
      for (const port of [1, 2, 3]) send(node, family, 'a', port)
      const now = Number(node.expire(0).jiffies & 0xffffffffn)
      const flows = node.map(`flows${family}`)
      const { keys, values, count } = flows.dump()
      const size = values.length / count
      const ages: Record<number, number> = { 1: 0x8000_0010, 2: 0xf000_0000, 3: 1000 }
      for (const [row, { localPort }] of node.flows(family).entries())
        values.writeUInt32LE((now - (ages[localPort] ?? 0)) >>> 0, row * size + created)
      flows.updateBatch(keys, values, count)
      return node
    }
    const cases: [name: string, deletion: Partial<Deletion>, left: number[]][] = [
      ['all', {}, []],
      ['older than 2^31 jiffies', { age: 0x8000_0000 }, [3]],
      ['older than more', { age: 0x9000_0000 }, [1, 3]],
      ['older than anything', { age: 0xffff_ffff }, [1, 2, 3]],
      ['older than 900 jiffies', { age: 900 }, []]
    ]
    for (const [name, deletion, left] of cases) {
      const node = make()
      node.deleteFlows(family, deletion)
      t.same(local(node), left, name)
      node.close()
    }
  })

  t.test(`the next packet of a deleted IPv${family} flow is decided anew`, async (t) => {
    const node = testNode()
    const first = send(node, family, 'a', 1)
    t.equal(first.reason, 'to-uplink')
    node.deleteFlows(family)
    node.setMasquerade(2, { [family === 4 ? '0.0.0.0/0' : '::/0']: false })
    node.setControl({ epoch: 2 })
    const next = send(node, family, 'a', 1)
    t.match(next.packet.ip, { source: devices.a[`v${family}`] }, 'by the policy of now')
    node.close()
  })

  t.test(
    `an IPv${family} socket gets its port again after its flow was deleted, a TCP connection does not`,
    async (t) => {
      const node = testNode()
      const nat = outsidePort(send(node, family, 'a', 22222))
      const back = { source: to.external[family], destination: devices.up0[`v${family}`] }
      const answer = () => node.send('up0', ip(back, udp({ sourcePort: 53, destinationPort: nat }))).reason
      t.equal(answer(), 'to-pod')
      node.deleteFlows(family)
      t.not(answer(), 'to-pod', 'nobody knows whose it is')
      t.equal(outsidePort(send(node, family, 'a', 22222)), nat)
      t.equal(answer(), 'to-pod')
      const addresses = { source: devices.a[`v${family}`], destination: to.external[family] }
      const say = (flags: string) =>
        outsidePort(node.send('a', ip(addresses, tcp({ sourcePort: 3333, destinationPort: 443, flags }))))
      const before = say('S')
      node.deleteFlows(family)
      t.not(say('PA'), before, 'the remote will reset it')
      node.close()
    }
  )
}

t.test('5,000 flows of one pod are deleted and the other pod keeps its own', async (t) => {
  const ports = Array.from({ length: 12_000 }, (_, at) => 20_000 + at)
  const sizes = { flows4: 16_384, reverse4: 16_384 }
  const node = testNode({ ports, sizes })
  for (let port = 1; port <= 5000; port++) send(node, 4, 'a', port)
  for (let port = 1; port <= 50; port++) send(node, 4, 'b', port)
  let deleted = 0
  deleted += node.deleteFlows(4, { podId: 100 }).deleted
  t.equal(deleted, 5000)
  t.equal(node.flows(4).length, 50)
  t.equal(node.reverses(4).length, 50)
  node.close()
})
