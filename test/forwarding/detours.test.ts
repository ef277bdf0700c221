// What the programs cannot finish by themselves, and what has options, through
// SNAT: real sockets, and the node with hostroute off and a MASQUERADE rule as
// the oracle.

import t, { type Test } from 'tap'
import { OUTSIDE } from '../lab/addresses.js'

import type { LabHost } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import { asTheKernelDoes, counted, servedLab } from './served.js'

/** Sends 10 datagrams without DF, whatever the path's MTU is known to be; how many come back. */
const WITHOUT_DF = `
import socket, sys
mode, port, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 10, mode)
s.bind(('', port)); s.connect((address, 7)); s.settimeout(5)
answered = 0
for i in range(10):
    s.send(bytes([65 + i]) * 1450)
    while True:
        got = s.recv(4000)
        if got.endswith(bytes([65 + i]) * 1450): break
    answered += 1
print(answered)`

/** Asks with a datagram in fragments, the last one first; prints what comes back. */
const REVERSED = `
import socket, struct, sys
source, destination, port, ident = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
body = b'r' * 2000
l = len(body) + 8
def csum(b):
    if len(b) % 2: b += b'\\0'
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b)); s = (s >> 16) + (s & 0xffff); s += s >> 16
    return (~s) & 0xffff
pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack('!BBH', 0, 17, l)
udp = struct.pack('!HHHH', port, int(sys.argv[5]), l, 0) + body
udp = udp[:6] + struct.pack('!H', csum(pseudo + udp) or 0xffff) + udp[8:]
listener = None
if sys.argv[6] == 'ask':
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(('', port)); listener.settimeout(5)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for at in (1200, 600, 0):
    piece = udp[at:at + 600] if at < 1200 else udp[at:]
    more = 0x2000 if at < 1200 else 0
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(piece), ident, more | at // 8, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(destination))
    raw.sendto(head + piece, (destination, 0))
if listener:
    got, peer = listener.recvfrom(4000)
    print(len(got), got.endswith(body))`

/** Answers each datagram on port 98 in fragments, the last one first. */
const REVERSING = `
import socket, subprocess, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 98)); print('ready', flush=True)
ident = 100
while True:
    got, peer = s.recvfrom(4000); ident += 1
    subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2], peer[0], '98', str(ident), str(peer[1]), 'tell'])`

const ASK_REVERSING = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', int(sys.argv[2]))); s.settimeout(5)
s.sendto(b'q', (sys.argv[1], 98))
print(len(s.recv(4000)))`

/** Asks port 7 with these IP options; prints whether it was answered. */
const WITH_OPTIONS = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 4, bytes.fromhex(sys.argv[3]))
s.bind(('', int(sys.argv[2]))); s.connect((sys.argv[1], 7)); s.settimeout(5 if sys.argv[4] == 'wait' else 0.5)
s.send(b'with options')
try: print('answered' if s.recv(100) else '')
except OSError: print('nothing')`

const python = async (host: LabHost, script: string, ...args: (string | number)[]) =>
  (await host.run(['python3', '-c', script, ...args.map(String)])).trim()

const lab = (t: Test): Promise<Lab> => servedLab(t, { pods: 1, mtu: 1400, podMtu: 1500, legacy: 1 })

t.test('[P2] [S2] datagrams without DF, larger than the next hop takes, are cut and answered', async (t) => {
  const made = await lab(t)
  const node = made.node(0)
  const pod = node.pod(0)
  let port = 30_000
  const measure = async () => [
    await python(pod, WITHOUT_DF, 0, port++, OUTSIDE.v4),
    // BIND's and Unbound's way: it never learns of a smaller MTU
    await python(pod, WITHOUT_DF, 5, port++, OUTSIDE.v4)
  ]
  t.same(await asTheKernelDoes(node, measure), ['10', '10'], 'by the kernel')
  t.same(await measure(), ['10', '10'], 'by hostroute')
  t.equal(await counted(node, 'mtu'), 0, 'none was the kernel’s')
  const { value } = await node.hostroute(['status', '--json']).then(({ stdout }) => ({ value: JSON.parse(stdout) }))
  t.ok(value.detour.packets.cut >= 20, `${value.detour.packets.cut} were cut`)
})

/** Asks 30 times with a datagram that the pod itself has to cut, without a pause; how many come back whole. */
const MANY_FRAGMENTS = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 10, 5)
s.bind(('', int(sys.argv[1]))); s.connect((sys.argv[2], 7)); s.settimeout(5)
answered = 0
for i in range(30):
    s.send(bytes([65 + i]) * 9000)
    try: answered += s.recv(20000).endswith(bytes([65 + i]) * 9000)
    except OSError: break
print(answered)`

t.test('[P2] [P4] datagrams of many fragments, each larger than the next hop takes, in order', async (t) => {
  const made = await lab(t)
  const node = made.node(0)
  const pod = node.pod(0)
  t.equal(await asTheKernelDoes(node, () => python(pod, MANY_FRAGMENTS, 30_500, OUTSIDE.v4)), '30', 'by the kernel')
  t.equal(await python(pod, MANY_FRAGMENTS, 30_501, OUTSIDE.v4), '30', 'by hostroute')
  t.equal(await counted(node, 'drop-fragment'), 0)
})

t.test('[P4] fragments that come with the last one first, from the pod and to it', async (t) => {
  const made = await lab(t)
  const node = made.node(0)
  const pod = node.pod(0)
  const server = made.outside.start(['python3', '-c', REVERSING, REVERSED, OUTSIDE.v4])
  t.teardown(() => server.stop())
  await server.waitFor('ready')
  let port = 31_000
  const measure = async () => [
    await python(pod, REVERSED, pod.address.v4, OUTSIDE.v4, port++, port, 7, 'ask'),
    await python(pod, ASK_REVERSING, OUTSIDE.v4, port++)
  ]
  const wanted = [/^\d+ True$/, /^2000$/]
  t.match(await asTheKernelDoes(node, measure), wanted, 'by the kernel')
  t.match(await measure(), wanted, 'by hostroute')
  t.equal(await counted(node, 'drop-fragment'), 0)
})

t.test('[P5] options through SNAT: passed on, or dropped by name', async (t) => {
  const made = await lab(t)
  const node = made.node(0)
  const pod = node.pod(0)
  const ask = (port: number, options: string, how: string) => python(pod, WITH_OPTIONS, OUTSIDE.v4, port, options, how)
  const security = '820b0000000000000000ab01'
  t.equal(await asTheKernelDoes(node, () => ask(32_000, security, 'wait')), 'answered', 'by the kernel')
  const capture = await made.outside.capture('eth0', `host ${pod.address.v4}`)
  t.equal(await ask(32_001, security, 'wait'), 'answered', 'by hostroute')
  t.equal(await ask(32_002, '01010101', 'wait'), 'answered', 'no operation')
  const record = `01070f04${'00'.repeat(12)}`
  t.equal(await ask(32_003, record, 'short'), 'nothing', 'record route')
  t.equal(await counted(node, 'drop-options'), 1)
  t.same(await capture.stop(), [], 'never with the pod’s address')
  t.match((await node.hostroute(['drops'])).stdout, /drop-options/)
})

/** Answers each datagram with 1,450 bytes that may be cut. */
const BIG_ANSWERS = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(0, 10, 5)
s.bind(('', 96)); print('ready', flush=True)
while True:
    got, peer = s.recvfrom(4000)
    s.sendto(got * 1450, peer)`

/** Asks five times, from one port; prints how many large answers came from the asked address and port. */
const ASK_BIG = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('', int(sys.argv[2]))); s.settimeout(2)
right = 0
for i in range(5):
    s.sendto(b'q', (sys.argv[1], 96))
    try: got, peer = s.recvfrom(4000)
    except OSError: continue
    right += len(got) == 1450 and peer == (sys.argv[1], 96)
print(right)`

t.test('[S13] [S17] large answers to connections from outside are cut, and keep the pod’s address', async (t) => {
  const made = await lab(t)
  const node = made.node(0)
  const pod = node.pod(0)
  const server = pod.start(['python3', '-c', BIG_ANSWERS])
  t.teardown(() => server.stop())
  await server.waitFor('ready')
  await made.router.ip(`route add 10.244.1.0/24 via ${node.address.v4}`)
  await made.outside.ip('route add 10.244.1.0/24 via 203.0.113.1')
  let port = 33_000
  const measure = () => python(made.outside, ASK_BIG, pod.address.v4, port++)
  t.equal(await asTheKernelDoes(node, measure), '5', 'by the kernel, MASQUERADE beside')
  t.equal(await measure(), '5', 'by hostroute, MASQUERADE beside')
})
