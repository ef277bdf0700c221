// How the node's SNAT behaves in the terms of RFC 4787, asked by STUN clients
// of coturn, or of a small server of our own.

import { fileURLToPath } from 'node:url'
import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import type { Report } from './report.js'
import type { Behaviour } from './stun-client.js'
import { openLab, type Way, wayName } from './way.js'

const CLIENT = fileURLToPath(new URL('./stun-client.js', import.meta.url))
const SERVER = fileURLToPath(new URL('./stun-server.js', import.meta.url))
const OTHER = '203.0.113.11'

export interface StunOptions {
  server: 'coturn' | 'own'
  /** Seconds after which mappings are looked for. */
  lifetimes: number[]
  ways: Way[]
}

export async function stun(report: Report, { server, lifetimes, ways }: StunOptions): Promise<Behaviour[]> {
  const behaviours = await Promise.all(
    ways.map(async (way) => {
      const lab = await openLab(report, way, { pods: 1 })
      await startStunServer(report, lab, server)
      report.progress(`asking, ${lifetimes.at(-1) ?? 1} s`)
      const pod = lab.node(0).pod(0)
      const timeout = 1_000 * (lifetimes.at(-1) ?? 0) + 120_000
      const words = [process.execPath, CLIENT, OUTSIDE.v4, lifetimes.join()]
      const behaviour = JSON.parse(await pod.run(words, { timeout })) as Behaviour
      if (server === 'coturn' && way === 'hostroute') await others(report, lab, behaviour)
      return behaviour
    })
  )
  const [ours] = behaviours
  if (ours) {
    report.check(ours.mapping === 'endpoint-independent', `mapping is ${ours.mapping}: ${ours.seen.join()}`)
    const [kept, of] = ours.preservedLow
    report.check(kept === of, `${kept} of ${of} ports that SNAT may take are kept`)
    report.figure(`${ours.mapping} mapping, ${ours.filtering} filtering`)
  }
  report.table([['', ...ways.map((way) => wayName[way])], ...rows(behaviours)])
  return behaviours
}

function rows(behaviours: readonly Behaviour[]): string[][] {
  const of = ([kept, all]: [number, number]) => `${kept} of ${all}`
  const life = ([there, gone]: [number | null, number | null]) =>
    there === null && gone === null ? 'not measured' : `there after ${there ?? '-'} s, gone after ${gone ?? '-'} s`
  const row = (name: string, cell: (behaviour: Behaviour) => string) => [name, ...behaviours.map(cell)]
  return [
    row('mapping', ({ mapping }) => mapping),
    row('filtering', ({ filtering }) => filtering),
    row('port preserved, 20001-20032', ({ preservedLow }) => of(preservedLow)),
    row('port preserved, kernel’s choice', ({ preservedHigh }) => of(preservedHigh)),
    row('port parity, kernel’s choice', ({ parity }) => of(parity)),
    row('hairpinning', ({ hairpinning }) => (hairpinning ? 'yes' : 'no')),
    row('mapping lifetime, one question', ({ lifetimeAfterOne }) => life(lifetimeAfterOne)),
    row('mapping lifetime, in use for 2 s', ({ lifetimeAfterMore }) => life(lifetimeAfterMore))
  ]
}

async function startStunServer(report: Report, lab: Lab, server: 'coturn' | 'own'): Promise<void> {
  await lab.outside.ip(`addr add ${OTHER}/24 dev eth0`)
  if (server === 'own') {
    const own = lab.outside.start([process.execPath, SERVER, OUTSIDE.v4, OTHER])
    report.teardown(() => own.stop('SIGKILL'))
    return own.waitFor('ready')
  }
  // It also tries SCTP, says "socket: Protocol not supported" where the kernel has none, and goes on.
  const turnserver = lab.outside.start([
    ...['turnserver', '-n', '--listening-ip', OUTSIDE.v4, '--listening-ip', OTHER],
    ...['--stun-only', '--no-auth', '--no-tls', '--no-dtls', '--no-cli', '--no-tcp-relay', '--log-file', 'stdout'],
    ...['--pidfile', `${lab.directory}/turnserver.pid`, '--userdb', `${lab.directory}/turnserver.db`]
  ])
  report.teardown(() => turnserver.stop('SIGKILL'))
  await turnserver.waitFor('Total General servers', 15_000)
  await lab.outside.run(['sh', '-c', 'until ss -Hlun | grep -q 3479; do sleep 0.1; done'])
}

/** coturn's own clients come to the same. */
async function others(report: Report, lab: Lab, ours: Behaviour): Promise<void> {
  const [node, pod] = [lab.node(0), lab.node(0).pod(0)]
  // after the first answer it waits for ever for one from the other address, which the filtering does not let in
  const simple = pod.start(['turnutils_stunclient', OUTSIDE.v4])
  await simple.waitFor(`reflexive addr: ${node.address.v4}:`)
  await simple.stop('SIGKILL')
  const found = await pod.run(['turnutils_natdiscovery', '-m', '-f', OUTSIDE.v4], { timeout: 60_000 })
  const verdicts = [...found.matchAll(/^NAT with (.*)!$/gm)].map((match) => match[1])
  const plain = (text: string) => text.toLowerCase().replace(/[^a-z]/g, '')
  const wanted = [`${ours.mapping} mapping`, `${ours.filtering} filtering`].map(plain).join()
  const same = verdicts.map((each) => plain(each ?? '')).join() === wanted
  report.check(same, `turnutils_natdiscovery finds: ${verdicts.join(', ')}`)
  report.figure(`turnutils_natdiscovery: ${verdicts.join(', ')}`)
}
