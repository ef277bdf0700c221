// A routing daemon of the real world beside hostroute: BIRD in the node learns
// 1,200 routes by BGP from BIRD in the router, half of which come and go.

import { writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { RouteAnswer, VerifyReport } from '../../src/control/api.js'
import { control, servedLab, status } from '../forwarding/served.js'
import { readPing } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { type Background, until } from '../lab/process.js'

/** Routes of each kind and family. */
const count = 300
const prefixes = {
  stable4: (index: number) => `100.64.${index >> 8}.${index & 255}/32`,
  churn4: (index: number) => `100.65.${index >> 8}.${index & 255}/32`,
  stable6: (index: number) => `2001:db8:64::${index.toString(16)}/128`,
  churn6: (index: number) => `2001:db8:65::${index.toString(16)}/128`
}
const names = Object.keys(prefixes) as (keyof typeof prefixes)[]

/** Two sessions, one for each family. */
function sessions(own: { v4: string; v6: string }, other: { v4: string; v6: string }, filters: string): string {
  return (['v4', 'v6'] as const)
    .map(
      (family) => `
protocol bgp bgp${family} {
  local ${own[family]} as 65000;
  neighbor ${other[family]} as 65000;
  direct;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 1;
  ip${family} { ${filters} };
}`
    )
    .join('\n')
}

/** Runs BIRD until the test ends; its control socket. */
async function startBird(
  t: Test,
  lab: Lab,
  host: LabNode | Lab['router'],
  name: string,
  text: string
): Promise<string> {
  const [file, socket] = [`${lab.directory}/${name}.conf`, `${lab.directory}/${name}.ctl`]
  writeFileSync(file, text)
  const bird: Background = host.start(['bird', '-f', '-c', file, '-s', socket, '-P', `${lab.directory}/${name}.pid`])
  t.teardown(() => bird.stop())
  await until(`${name} runs`, async () => (await host.exec(['birdc', '-s', socket, 'show', 'status'])).status === 0)
  return socket
}

t.test('[Y11] BIRD feeds and churns 1,200 routes', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  await lab.router.ip(
    'route add local 100.64.0.0/10 dev lo',
    'route add local 2001:db8:64::/48 dev lo',
    'route add local 2001:db8:65::/48 dev lo'
  )
  const before = (await status(node)).counts
  const statics = names.map((name) => {
    const lines = Array.from({ length: count }, (_, index) => `  route ${prefixes[name](index)} blackhole;`)
    return `protocol static ${name} {\n  ipv${name.at(-1)};\n${lines.join('\n')}\n}`
  })
  const device = 'log stderr all;\nprotocol device { scan time 1; }\n'
  const teacher = await startBird(
    t,
    lab,
    lab.router,
    'teacher',
    `router id ${router.v4};\n${device}${statics.join('\n')}\n${sessions(router, node.address, 'import none; export where source = RTS_STATIC; next hop self;')}`
  )
  await startBird(
    t,
    lab,
    node,
    'learner',
    `router id ${node.address.v4};\n${device}${['4', '6']
      .map((family) => `protocol kernel { ipv${family} { import none; export all; }; scan time 1; }`)
      .join('\n')}\n${sessions(node.address, router, 'import all; export none;')}`
  )
  const learned = async () => {
    const { routes4, routes6 } = (await status(node)).counts
    return [routes4.used - before.routes4.used, routes6.used - before.routes6.used].join()
  }
  const wait = (wanted: number) =>
    until(`${wanted} routes of each family`, async () => (await learned()) === `${wanted},${wanted}`, 30_000, 100)
  const prefixOf = async (address: string) =>
    (await control(node).get<RouteAnswer>('/v1/routes/get', { address })).value.route?.prefix
  const agrees = async (when: string) =>
    t.match((await control(node).get<VerifyReport>('/v1/verify')).value, { ok: true, total: 0 }, `${when}: verify`)

  await wait(2 * count)
  await agrees('all learned')
  const pings = ['100.64.0.7', '2001:db8:64::7', '100.65.0.7', '2001:db8:65::7'].map((address) =>
    pod.startPing(address, { interval: 10 })
  )
  const churn = async (verb: 'disable' | 'enable') => {
    for (const name of ['churn4', 'churn6']) await lab.router.run(['birdc', '-s', teacher, verb, name])
  }
  for (let round = 1; round <= 3; round++) {
    await churn('disable')
    await wait(count)
    t.strictSame(
      [await prefixOf('100.65.0.7'), await prefixOf('2001:db8:65::7'), await prefixOf('100.64.0.7')],
      ['0.0.0.0/0', '::/0', '100.64.0.7/32'],
      `${round}: what went is answered by the default route`
    )
    await churn('enable')
    await wait(2 * count)
    await agrees(`round ${round}`)
  }
  for (const each of ['disable', 'enable', 'disable', 'enable'] as const) await churn(each)
  await wait(2 * count)
  await agrees('after changes without a pause')
  t.equal(await prefixOf('2001:db8:65::12b'), '2001:db8:65::12b/128')
  for (const ping of pings) {
    await ping.stop('SIGINT')
    const { sent, lost } = readPing(ping.stdout, 3)
    t.strictSame(lost, [], `${sent} pings, none lost`)
  }
})
