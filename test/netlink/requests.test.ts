import t from 'tap'
import { hexAddress } from '../../src/address.js'
import { openNeighbourRequests } from '../../src/netlink/requests.js'
import { hex } from '../plan/node.js'
import { enterNamespace, ip, peerNamespace, settle } from './namespace.js'

enterNamespace(import.meta.url)

const peer = peerNamespace()
const peerAddress = hex('10.0.0.2')
const peerAddress6 = hex('2001:db8::2')
ip(`link add v0 type veth peer name v1 netns ${peer.pid}`)
peer.run('link set v1 up')
peer.run('addr add 10.0.0.2/24 dev v1')
peer.run('addr add 2001:db8::2/64 dev v1 nodad')
ip('link set v0 up')
ip('addr add 10.0.0.1/24 dev v0')
ip('addr add 2001:db8::1/64 dev v0 nodad')
const ifindex = JSON.parse(ip('-j link show v0'))[0].ifindex as number

interface Entry {
  state: string[]
  lladdr?: string
  managed?: null
  extern_learn?: null
}

function entry(address: string): Entry | undefined {
  return JSON.parse(ip(`-j -d neigh show to ${address} dev v0 nud all`))[0]
}

/** What is not as expected, as sentences; empty when all is well. */
function complaints(address: string, wanted: { managed: boolean; states: string[]; mac?: string }): string[] {
  const found = entry(address)
  if (!found) return ['no entry']
  const wrong: string[] = []
  if ((found.managed !== undefined) !== wanted.managed) wrong.push(`managed is ${found.managed !== undefined}`)
  if (!wanted.states.includes(found.state[0] ?? '')) wrong.push(`state is ${found.state}`)
  if (wanted.mac && found.lladdr !== wanted.mac) wrong.push(`MAC is ${found.lladdr}`)
  return wrong
}

const live = ['REACHABLE', 'DELAY', 'PROBE', 'STALE']
const requests = openNeighbourRequests()
t.teardown(() => {
  requests.close()
  peer.stop()
})

for (const [text, address] of [
  ['10.0.0.2', peerAddress],
  ['2001:db8::2', peerAddress6]
] as const) {
  t.test(`${text} is marked managed, resolved, and unmarked without losing its MAC`, async (t) => {
    t.equal(await requests.setManaged(ifindex, address, true), 'done')
    t.same(await settle(() => complaints(text, { managed: true, states: ['REACHABLE'] })), [])
    const mac = entry(text)?.lladdr as string
    t.equal(await requests.setManaged(ifindex, address, true), 'unchanged')
    t.equal(await requests.probe(ifindex, address), 'done')
    t.same(complaints(text, { managed: true, states: live, mac }), [], 'a probe keeps the mark')
    t.equal(await requests.setManaged(ifindex, address, false), 'done')
    t.same(complaints(text, { managed: false, states: live, mac }), [])
    t.equal(await requests.setManaged(ifindex, address, false), 'unchanged')
  })
}

t.test('unmarking an unknown neighbour makes none', async (t) => {
  t.equal(await requests.setManaged(ifindex, hex('10.0.0.77'), false), 'unchanged')
  t.equal(entry('10.0.0.77'), undefined)
})

t.test('a probe makes the kernel resolve at once', async (t) => {
  ip('neigh flush dev v0')
  t.equal(await requests.probe(ifindex, peerAddress), 'done')
  t.same(await settle(() => complaints('10.0.0.2', { managed: false, states: ['REACHABLE'] })), [])
})

t.test('a permanent entry keeps its static MAC', async (t) => {
  ip('neigh replace 10.0.0.5 lladdr 02:00:00:00:00:05 dev v0 nud permanent')
  const address = hex('10.0.0.5')
  t.equal(await requests.setManaged(ifindex, address, true), 'fixed')
  t.equal(await requests.probe(ifindex, address), 'fixed')
  t.same(complaints('10.0.0.5', { managed: false, states: ['PERMANENT'], mac: '02:00:00:00:00:05' }), [])
})

t.test('many requests at once are answered in order', async (t) => {
  const addresses = Array.from({ length: 200 }, (_, i) => hexAddress(`0a0000${(20 + i).toString(16).padStart(2, '0')}`))
  const outcomes = await Promise.all(addresses.map((address) => requests.setManaged(ifindex, address, true)))
  t.same(new Set(outcomes), new Set(['done']))
  const managed = (JSON.parse(ip('-j -d neigh show dev v0 nud all')) as Entry[]).filter(
    (found) => found.managed !== undefined
  )
  t.equal(managed.length, 200)
  const off = await Promise.all(addresses.map((address) => requests.setManaged(ifindex, address, false)))
  t.same(new Set(off), new Set(['done']))
})

t.test('[Y7] a device that is gone is no error, and a refusal names the request', async (t) => {
  t.equal(await requests.setManaged(4711, peerAddress, true), 'gone')
  t.equal(await requests.probe(4711, peerAddress), 'gone')
  await t.rejects(requests.setManaged(0, peerAddress, true), {
    message: /cannot set neighbour 10\.0\.0\.2 on device 0 managed: E/
  })
  t.equal(await requests.probe(ifindex, peerAddress), 'done', 'the next request works')
})

t.test('after close every request is refused', async (t) => {
  const other = openNeighbourRequests()
  const pending = other.probe(ifindex, peerAddress).then(
    () => 'answered',
    (error) => error.code
  )
  other.close()
  t.match(await pending, 'ECANCELED')
  await t.rejects(other.probe(ifindex, peerAddress), { code: 'ECANCELED' })
})
