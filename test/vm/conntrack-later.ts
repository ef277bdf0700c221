// nf_conntrack as a module: absent when hostroute starts, loaded by the first
// rule that needs it. For the machines: this one's own kernel has it built in.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import t from 'tap'
import { Lab } from '../lab/lab.js'

const loaded = () => existsSync('/sys/module/nf_conntrack')

/** What an earlier test file of the machine has loaded; namespaces that use it go a moment after their last process. */
function unload(): void {
  const modules = ['nft_masq', 'nft_chain_nat', 'nft_nat', 'nf_nat', 'nft_ct', 'nf_conntrack_netlink', 'nf_conntrack']
  for (const module of modules) spawnSync('modprobe', ['-r', module])
}
for (let tries = 0; loaded() && tries < 50; tries++) {
  unload()
  await new Promise((resolve) => setTimeout(resolve, 200))
}

t.test('[K8] conntrack is loaded after hostroute: from then on the programs ask it', async (t) => {
  t.notOk(loaded(), 'the module is not there yet')
  const lab = await Lab.create({ nodes: 2, pods: 2, counters: false })
  t.teardown(() => lab.close())
  const [node, other] = [lab.node(0), lab.node(1)]
  const [client, local, remote] = [node.pod(0), node.pod(1), other.pod(0)]
  await node.startDaemon({ timeout: 90_000, config: { checks: 'off', guard: { mode: 'off' } } })
  t.notOk(loaded(), 'nor does hostroute load it')
  await Promise.all([local.echo(8080), remote.echo(8080)])
  const direct = await client.askAll([{ protocol: 'tcp', address: local.address.v4, port: 8080, timeout: 5000 }])
  t.equal(direct[0]?.error, null, 'pods reach each other without conntrack')
  const rules = `table ip services {
    chain prerouting { type nat hook prerouting priority dstnat
      ip daddr 10.96.0.1 tcp dport 80 dnat to ${local.address.v4}:8080
      ip daddr 10.96.0.2 tcp dport 80 dnat to ${remote.address.v4}:8080
      ip daddr 10.96.0.1 udp dport 53 dnat to ${local.address.v4}:8080
      ip daddr 10.96.0.2 udp dport 53 dnat to ${remote.address.v4}:8080
    }
  }`
  await node.run(['nft', '-f', '-'], { input: rules })
  t.ok(loaded())
  for (const start = Date.now(); !node.daemon.log.includes('nf_conntrack has been loaded'); ) {
    if (Date.now() - start > 60_000) t.fail('the programs were not loaded again within a minute')
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  const questions = (['tcp', 'udp'] as const).flatMap((protocol) =>
    ['10.96.0.1', '10.96.0.2'].map((address) => ({
      protocol,
      address,
      port: protocol === 'tcp' ? 80 : 53,
      timeout: 5000
    }))
  )
  for (const [at, answer] of (await client.askAll(questions)).entries()) {
    const { protocol, address } = questions[at] as (typeof questions)[number]
    t.equal(answer.error, null, `${protocol} to ${address}`)
  }
})
