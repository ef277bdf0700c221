// `hostroute guard …`: its grammar, what each does, and how it is written.

import type { Argv } from 'yargs'
import { parseDuration } from '../config/duration.js'
import type {
  GuardAllowance,
  GuardBackendRow,
  GuardEventRow,
  GuardMode,
  GuardRefuses,
  GuardStatus,
  GuardVerdict,
  GuardWitness
} from '../control/guard-api.js'
import { exitStatus, type GlobalOptions, type Session } from './session.js'
import { count, facts, type Paint, plural, section, since, span, table } from './text.js'

type Run = (action: (session: Session) => Promise<number>) => (options: GlobalOptions) => Promise<void>

interface WriterOptions {
  unit?: string | undefined
  cgroup?: string | undefined
  executable?: string | undefined
}

/** Adds the command to the grammar. `run` opens the session. */
export function guardCommand(cli: Argv<GlobalOptions>, run: Run): void {
  cli.command('guard', 'Who may write iptables rules on this node', (y) => {
    subcommands(y as unknown as Argv<GlobalOptions>, run)
    return y.demandCommand(1, 'Which one? See: hostroute guard --help')
  })
}

function subcommands(cli: Argv<GlobalOptions>, run: Run): void {
  const writer = (y: Argv<GlobalOptions>) =>
    y
      .option('unit', { type: 'string', requiresArg: true, describe: 'A systemd unit' })
      .option('cgroup', { type: 'string', requiresArg: true, describe: 'A cgroup by its path, and those below it' })
      .option('executable', { type: 'string', requiresArg: true, describe: 'A program by its path' })
      .check((o) => {
        if ([o.unit, o.cgroup, o.executable].filter((given) => given !== undefined).length === 1) return true
        throw usageError('Name one of --unit, --cgroup and --executable')
      })
  cli.command('status', 'Backend, mode, counts, exemptions', {}, (o) => run(status)(o as unknown as GlobalOptions))
  cli.command(
    'events',
    'Attempts to write, newest last',
    (y) => y.option('limit', { type: 'number', requiresArg: true, default: 50, describe: 'Most rows to print' }),
    (o) => run((session) => events(session, o.limit))(o)
  )
  cli.command(
    'mode <mode>',
    'Refuse writes, only report them, or do not look',
    (y) => y.positional('mode', { choices: ['enforce', 'audit', 'off'] as const, demandOption: true }),
    (o) => run((session) => setMode(session, o.mode))(o)
  )
  cli.command(
    'allow',
    'Exempt one writer, until the daemon ends or for a time',
    (y) => writer(y).option('for', { type: 'string', requiresArg: true, describe: 'How long, e.g. 10m' }),
    (o) => run((session) => allow(session, o, o.for === undefined ? undefined : secondsOf(o.for)))(o)
  )
  cli.command('deny', 'Remove such an exemption', writer, (o) => run((session) => deny(session, o))(o))
}

async function status(session: Session): Promise<number> {
  const answer = await session.client.get<GuardStatus>('/v1/guard')
  session.show(answer, (value) => renderGuard(value, session.paint, Date.now()))
  return answer.value.mode === 'enforce' && answer.value.backend === null ? exitStatus.refused : exitStatus.fine
}

async function events(session: Session, limit: number): Promise<number> {
  const answer = await session.client.get<GuardEventRow[]>('/v1/guard/events', { limit })
  session.show(answer, (rows) => renderGuardEvents(rows, session.paint))
  return exitStatus.fine
}

async function setMode(session: Session, mode: GuardMode): Promise<number> {
  const answer = await session.client.post<GuardStatus>('/v1/guard/mode', { mode })
  session.show(answer, (value) => renderGuard(value, session.paint, Date.now()))
  return exitStatus.fine
}

async function allow(session: Session, options: WriterOptions, seconds: number | undefined): Promise<number> {
  const answer = await session.client.post<GuardStatus>('/v1/guard/allow', { ...writerOf(options), seconds })
  session.show(answer, (value) =>
    section(session.paint, 'Exemptions', allowances(value.allowances, session.paint, Date.now()))
  )
  return exitStatus.fine
}

async function deny(session: Session, options: WriterOptions): Promise<number> {
  const answer = await session.client.post<{ done: boolean }>('/v1/guard/deny', writerOf(options))
  session.show(answer, ({ done }) => (done ? 'Exemption removed.' : 'No such exemption.'))
  return answer.value.done ? exitStatus.fine : exitStatus.error
}

function writerOf({ unit, cgroup, executable }: WriterOptions): WriterOptions {
  return { unit, cgroup, executable }
}

/** What main.ts ends with the status for wrong usage. */
function usageError(text: string): Error {
  return Object.assign(new Error(text), { name: 'YError' })
}

function secondsOf(text: string): number {
  const duration = parseDuration(text)
  if (duration === null || duration < 1000)
    throw usageError(`--for takes a duration of a second or more like 10m, not ${text}`)
  return Math.round(duration / 1000)
}

/** now: milliseconds since 1970. */
export function renderGuard(status: GuardStatus, paint: Paint, now: number): string {
  const { counts } = status
  const parts = [
    headline(status, paint),
    section(
      paint,
      'Attempts',
      facts(paint, [
        ['refused', count(counts.refused)],
        ['audited', `${count(counts.audited)} let through, would have been refused`],
        ['exempt', `${count(counts.exempt)} let through by exemption`],
        ['missed', `${count(counts.appeared)} not refused, present in the kernel despite the guard`],
        ['removals', `${count(counts.removals)} replacements of legacy tables that only removed`],
        ['lost', `${count(counts.lost)} events counted but not recorded`]
      ])
    ),
    section(paint, 'Backends', backends(status.backends, paint))
  ]
  if (status.witness) parts.push(section(paint, 'Who writes to nf_tables', `  ${witnessWords(status.witness, paint)}`))
  if (status.tables.length > 0) parts.push(section(paint, 'Owned tables', tables(status)))
  if (status.allowances.length > 0) parts.push(section(paint, 'Exemptions', allowances(status.allowances, paint, now)))
  if (status.present.length > 0) parts.push(section(paint, 'Existing rules', present(status)))
  if (status.last)
    parts.push(section(paint, `Last event, ${since(status.last.time, now)}`, `  ${eventLine(status.last)}`))
  return parts.join('\n\n')
}

function headline(status: GuardStatus, paint: Paint): string {
  const why = status.why === null ? '' : `\n  ${status.why}`
  if (status.backend === null) return `${paint.bad('●')} Nothing is guarded.${why}`
  const by = `by ${status.backend}`
  if (status.mode === 'enforce')
    return `${paint.good('●')} ${refusedWords(status.refuses).replace('refused', paint.good('refused'))}, ${by}.${why}`
  if (status.mode === 'audit')
    return `${paint.warn('●')} iptables writes are ${paint.warn('reported only')}, ${by}.${why}`
  return `${paint.warn('●')} The guard is ${paint.warn('off')}: iptables writes are not monitored.${why}`
}

/** Mode enforce. */
export function refusedWords(refuses: GuardRefuses): string {
  if (refuses === 'all writes' || refuses === 'nothing') return 'iptables writes are refused'
  return `${refuses} are refused, other nf_tables writes are reported`
}

function backends(rows: GuardBackendRow[], paint: Paint): string {
  const painted = (row: GuardBackendRow) =>
    row.state === 'in use'
      ? paint.good(row.state)
      : row.state === 'failed'
        ? paint.warn(row.state)
        : paint.dim(row.state)
  return rows
    .map((row) => `  ${row.name.padEnd(8)}  ${painted(row)}${row.why === null ? '' : `: ${row.why}`}`)
    .join('\n')
}

function witnessWords({ name, why }: GuardWitness, paint: Paint): string {
  if (name !== null) return `is seen by ${name}${why === null ? '' : paint.dim(` (not by ${why})`)}`
  return paint.warn(`is not seen: what iptables-nft tries is refused without a report (${why ?? ''})`)
}

function tables(status: GuardStatus): string {
  const owned = status.tables.filter((row) => row.owned).map((row) => `${row.family} ${row.table}`)
  const lines = owned.length > 0 ? [`  ${owned.join(', ')}`] : []
  for (const row of status.tables) if (!row.owned) lines.push(`  not ${row.family} ${row.table}: ${row.why ?? ''}`)
  return lines.join('\n')
}

/** Defaults that are not on this node and never were take one line. */
function allowances(rows: GuardAllowance[], paint: Paint, now: number): string {
  const until = (row: GuardAllowance) => (row.until === null ? '-' : span((Date.parse(row.until) - now) / 1000))
  const absent = rows.filter((row) => row.source === 'default' && !row.present && row.used === 0)
  const shown = rows.filter((row) => !absent.includes(row))
  const listed = table(
    paint,
    [
      { title: 'KIND' },
      { title: 'NAME' },
      { title: 'FROM' },
      { title: 'LEFT' },
      { title: 'WRITES', right: true },
      { title: '' }
    ],
    shown.map((row) => [
      row.kind,
      row.name,
      row.source,
      until(row),
      count(row.used),
      row.present ? '' : paint.warn('not there now')
    ]),
    '  '
  )
  const rest = wrapped(absent.map(({ name }) => name))
  const lines = shown.length > 0 ? [listed] : []
  if (absent.length > 0) lines.push(paint.dim(`  by default as well, not on this node now:\n${rest}`))
  return lines.join('\n')
}

function wrapped(names: string[]): string {
  const lines: string[] = []
  for (const name of names) {
    const last = lines.at(-1)
    if (last === undefined || last.length + name.length > 76) lines.push(`    ${name}`)
    else lines[lines.length - 1] = `${last}, ${name}`
  }
  return lines.join(',\n')
}

function present(status: GuardStatus): string {
  return status.present
    .map(({ system, family, table: name, rules }) => `  ${plural(rules, 'rule')} in ${family} ${name} (${system})`)
    .join('\n')
}

const colours: Record<GuardVerdict, 'bad' | 'warn' | 'dim'> = {
  refused: 'bad',
  audited: 'warn',
  exempt: 'dim',
  appeared: 'warn',
  removed: 'bad'
}

/** A table; what was asked for stands last because it is longest. */
export function renderGuardEvents(rows: GuardEventRow[], paint: Paint): string {
  if (rows.length === 0) return 'No events.'
  return table(
    paint,
    [
      { title: 'TIME' },
      { title: 'VERDICT' },
      { title: 'TIMES', right: true },
      { title: 'PID', right: true },
      { title: 'UNIT' },
      { title: 'WHAT' },
      { title: 'WHERE' },
      { title: 'COMMAND' }
    ],
    rows.map((row) => [
      row.time.slice(0, 19).replace('T', ' '),
      paint[colours[row.verdict]](row.verdict),
      count(row.repeated),
      row.pid === 0 ? '-' : String(row.pid),
      row.unit ?? row.cgroup ?? '-',
      what(row),
      where(row),
      (row.arguments ?? (row.command === '' ? '-' : row.command)) + exemptWords(row)
    ])
  )
}

function what(row: GuardEventRow): string {
  const odd = row.reason === 'write' ? '' : ` (${row.reason})`
  return `${row.system} ${row.message}${odd}`
}

function exemptWords({ exemption }: GuardEventRow): string {
  return exemption === null ? '' : ` [exempt: ${exemption}]`
}

function where(row: GuardEventRow): string {
  return [row.family, row.table, row.chain].filter((part) => part !== null && part !== '').join(' ')
}

function eventLine(row: GuardEventRow): string {
  const by = row.arguments ?? row.command
  const unit = row.unit === null ? '' : `, ${row.unit}`
  const path = row.executable === null ? '' : `, ${row.executable}`
  return `${row.verdict}: ${what(row)} in ${where(row)} by "${by}" (pid ${row.pid}${path}${unit})${exemptWords(row)}`
}
