// What the daemon does by the clock goes on however often it is told to read its
// configuration again.

import t from 'tap'
import { Lab } from '../lab/lab.js'
import { exec, until } from '../lab/process.js'

t.test('reloads in quick succession do not keep the watchdog from its turn', async (t) => {
  const lab = await Lab.create({ pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const socket = `${node.daemon.runDirectory}-notify`
  const told = node.start(['socat', '-u', `UNIX-RECV:${socket}`, 'STDOUT'])
  t.teardown(() => told.stop())
  await until('systemd listens', async () => (await exec(['test', '-S', socket])).status === 0)
  await node.startDaemon({ environment: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '1500000' } })
  const watchdogs = () => told.stdout.split('WATCHDOG=1').length - 1
  const before = watchdogs()
  await until(
    'the watchdog is told three times',
    () => {
      process.kill(node.daemon.pid, 'SIGHUP')
      return watchdogs() >= before + 3
    },
    10_000,
    50
  )
  const reloads = node.daemon.log.split('configuration read again').length - 1
  t.ok(reloads > 5, `${reloads} reloads meanwhile`)
})
