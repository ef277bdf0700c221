// hostrouted as systemd and people see it: systemctl, journalctl, bpftool, files.

import { readFileSync, writeFileSync } from 'node:fs'
import { exec, type Outcome, run, until } from '../lab/process.js'

export interface JournalLine {
  MESSAGE: string
  PRIORITY: string
  SYSLOG_IDENTIFIER: string
  _SYSTEMD_UNIT?: string
  _PID?: string
}

export const configFile = '/etc/hostroute/config.yaml'
/** Emulated machines are slow. */
export const patience = 120_000

export const systemctl = (...words: string[]): Promise<Outcome> => exec(['systemctl', ...words], { timeout: patience })

/** A property of the service as `systemctl show` prints it. */
export async function show(property: string): Promise<string> {
  return (await run(['systemctl', 'show', '-p', property, '--value', 'hostrouted.service'])).trim()
}

/** What the service has written; with an invocation of journalctl's own options before it. */
export async function journal(...options: string[]): Promise<JournalLine[]> {
  await run(['journalctl', '--sync'])
  const text = await run(['journalctl', '-u', 'hostrouted', '-o', 'json', '--no-pager', ...options])
  return text
    .trim()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as JournalLine)
}

/** A mark in the journal's time; `since(mark)` gives the options to read from there. */
export async function mark(): Promise<string[]> {
  const text = await run(['journalctl', '-n', '0', '--show-cursor', '--no-pager'])
  const cursor = /-- cursor: (.+)/.exec(text)?.[1]
  return cursor ? [`--after-cursor=${cursor}`] : []
}

/** Waits until the service is active with another main process than `before`; returns the new one's id. */
export async function restarted(before: string): Promise<string> {
  let now = before
  await until(
    'the service is active again',
    async () => {
      now = await show('MainPID')
      return now !== before && now !== '0' && (await show('ActiveState')) === 'active'
    },
    patience,
    200
  )
  return now
}

export const hostroute = (...words: string[]): Promise<Outcome> => exec(['hostroute', ...words], { timeout: patience })

/** The command as a user without rights, in the groups given. */
export function hostrouteAs(groups: number[], ...words: string[]): Promise<Outcome> {
  const membership = groups.length > 0 ? ['--groups', groups.join(',')] : ['--clear-groups']
  const user = ['setpriv', '--reuid', '4242', '--regid', '4242', ...membership, '--']
  return exec([...user, 'hostroute', ...words], { timeout: patience })
}

export function groupId(name: string): number | null {
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((each) => each.startsWith(`${name}:`))
  return line ? Number(line.split(':')[2]) : null
}

/** Programs of ours on the machine's devices. */
export async function attached(): Promise<number> {
  const text = await run(['bpftool', '-j', 'net'])
  return (text.match(/from_pod|from_uplink/g) ?? []).length
}

/** Replaces the configuration. */
export function configure(text: string): void {
  writeFileSync(configFile, text)
}

/** What an installation could leave: files where it writes, BPF objects (systemd's own apart), groups, managed neighbours. */
export async function snapshot(): Promise<string[]> {
  const folders =
    '/etc /usr/bin /usr/sbin /usr/lib/systemd/system /usr/lib/sysusers.d /usr/lib/tmpfiles.d /usr/share/bash-completion /run/systemd/system /sys/fs/bpf'
  const files = await run(['sh', '-c', `find ${folders} ! -path '/etc/*-'; ls -d /usr/lib/* /run/* /var/lib/*`])
  const groups = readFileSync('/etc/group', 'utf8').trim().split('\n')
  const neighbours = await run(['sh', '-c', 'ip -d neigh show | grep -w managed || true'])
  return [...files.trim().split('\n').sort(), ...groups, ...(await bpfObjects()), neighbours.trim()]
}

async function bpfObjects(): Promise<string[]> {
  const lists = await Promise.all(
    ['prog', 'map', 'link'].map(async (kind) => {
      const rows = JSON.parse((await run(['bpftool', '-j', kind, 'list'])) || '[]') as {
        type?: string
        name?: string
      }[]
      return rows.filter(({ name }) => !name?.startsWith('sd_')).map(({ type, name }) => `${kind} ${type} ${name}`)
    })
  )
  return lists.flat().sort()
}
