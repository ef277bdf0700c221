// Demo, third part: rules that would have no effect are refused, or reported
// where the kernel offers no way to refuse them, and by whom they were tried is
// told. Listing and deleting work as before, and pods are left alone.

import type { GuardEventRow, GuardStatus } from '../../src/control/guard-api.js'
import type { Lab } from './lab.js'
import { until } from './process.js'
import type { Story } from './story.js'

const RULES = '*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 198.51.100.0/24 -j DROP\nCOMMIT\n'
const RULESET = 'add table inet demo\nadd chain inet demo way { type filter hook forward priority 0; policy drop; }\n'

interface Attempt {
  words: string
  argv: string[]
  input?: string
}

const ATTEMPTS: Attempt[] = [
  { words: 'iptables-legacy -A FORWARD -j DROP', argv: ['iptables-legacy', '-A', 'FORWARD', '-j', 'DROP'] },
  { words: 'iptables-nft -A FORWARD -j DROP', argv: ['iptables-nft', '-A', 'FORWARD', '-j', 'DROP'] },
  { words: 'iptables-legacy-restore', argv: ['iptables-legacy-restore', '--noflush'], input: RULES },
  { words: 'nft -f, a table of its own', argv: ['nft', '-f', '-'], input: RULESET }
]

export async function showGuard(story: Story, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const status = await node.daemon.json<GuardStatus>('guard', 'status')
  story.chapter(`iptables on node 1, where rules would have no effect (guard: ${status.backend ?? 'none'})`)
  const events = () => node.daemon.json<GuardEventRow[]>('guard', 'events')
  for (const { words, argv, input } of ATTEMPTS) {
    const before = (await events()).length
    const outcome = await node.exec(argv, input === undefined ? {} : { input })
    await until('the attempt to be told', async () => (await events()).length > before, 2_000).catch(() => {})
    const event = (await events())[before]
    const reported = event?.verdict === 'appeared' ? 'reported at once' : 'let through'
    const how = outcome.status !== 0 ? 'refused' : reported
    const by = event
      ? `, told: ${event.command} (pid ${event.pid}), ${event.message} ${event.family} ${event.table ?? ''}`
      : ''
    story.fact(how !== 'let through' && event !== undefined, words, how + by)
  }
  const rules = await node.run(['iptables-legacy', '-S'])
  story.fact(!rules.includes('DROP'), 'nothing stands of what was refused', 'iptables -S works')
  const deleted = await node.exec(['sh', '-c', 'nft list table inet demo && nft delete table inet demo'])
  if (!status.refuses.startsWith('all'))
    story.fact(deleted.status === 0, 'deleting works', 'nft delete table inet demo')
  const pod = await node.pod(0).exec(['iptables-legacy', '-A', 'OUTPUT', '-d', '192.0.2.99', '-j', 'DROP'])
  story.fact(pod.status === 0, 'a pod in its own namespace writes its own rules', 'iptables-legacy -A OUTPUT: allowed')
}
