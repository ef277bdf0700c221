// Bad input while the daemon runs: the last good state stays, the daemon lives,
// and the pods' traffic goes on meanwhile.

import { writeFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import t from 'tap'
import type { ReloadResult } from '../../src/control/api.js'
import { control, plain, servedLab, status, undisturbed } from '../forwarding/served.js'
import { sleep, until } from '../lab/process.js'

t.test('bad input', async (t) => {
  const lab = await servedLab(t)
  const node = lab.node(0)
  const { daemon } = node

  await t.test('a reload with a broken configuration keeps the last good one', (t) =>
    undisturbed(t, node, async () => {
      daemon.writeConfig('lease: [\n')
      const { value } = await control(node)
        .post<ReloadResult>('/v1/reload')
        .catch((error: Error) => ({ value: error }))
      t.match(JSON.stringify(value), /config\.yaml:1|config\.yaml:2/, 'the answer names the line')
      process.kill(daemon.pid, 'SIGHUP')
      await until('told', () => daemon.log.includes('the configuration in force stays'))
      t.match(await status(node), { mode: 'enabled', configuration: { error: /config\.yaml/ } })
      daemon.writeConfig({ ...plain, snat: { masqueradeFiles: [daemon.masqueradeFile] } })
      t.match((await control(node).post<ReloadResult>('/v1/reload')).value, { ok: true, problems: [] })
      t.equal((await status(node)).configuration.error, null, 'and repaired it counts')
    })
  )

  await t.test('[M2] [M3] a broken ip-masq-agent file keeps the last good one', (t) =>
    undisturbed(t, node, async () => {
      const before = (await status(node)).masquerade.policy
      const broken = [
        'nonMasqueradeCIDRs: [10.0.0.1/8]\n',
        'nonMasqueradeCIDRs:\n  - 300.1.2.0/24\n',
        '{',
        'nonMasqueradeCIDRs: 7\n',
        '\u0000\u0001\u0002'
      ]
      for (const text of broken) {
        writeFileSync(daemon.masqueradeFile, text)
        const bad = async () => (await status(node)).masquerade.files[0]?.error ?? null
        await until(`refused: ${JSON.stringify(text)}`, async () => (await bad()) !== null, 5_000)
        t.match(await bad(), /ip-masq-agent/, `${JSON.stringify(text)}: ${await bad()}`)
        t.strictSame((await status(node)).masquerade.policy, before, 'the policy stays')
        daemon.writeMasquerade({ nonMasqueradeCIDRs: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fd00::/8'] })
        await until('good again', async () => (await bad()) === null, 5_000)
      }
    })
  )

  await t.test('garbage on the control socket', (t) =>
    undisturbed(t, node, async () => {
      const wrong = [
        '\r\n\r\n',
        '\u0000'.repeat(5000),
        'GET',
        'POST /v1/enable HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{',
        'POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{{{{{',
        `GET /${'x'.repeat(100_000)} HTTP/1.1\r\n\r\n`
      ]
      const sockets = wrong
        .flatMap((text) => [text, text])
        .map((text) => {
          const socket = createConnection(daemon.socket)
          socket.on('error', () => {})
          socket.write(text)
          return socket
        })
      const idle = Array.from({ length: 50 }, () => createConnection(daemon.socket).on('error', () => {}))
      await sleep(300)
      t.match(await status(node), { mode: 'enabled' }, 'others are answered meanwhile')
      for (const socket of [...sockets, ...idle]) socket.destroy()
      await until('answers', async () => (await status(node)).mode === 'enabled')
      t.notMatch(daemon.log, /^\s+at /m, 'no stack trace in the log')
    })
  )
})
