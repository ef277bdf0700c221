// Runs lint and the test files, and sums up. Each test file is a process of its
// own that prints TAP. Two run side by side, for four minutes at most; a file
// that needs more says so:
//   // Runs alone: <why>          no other test file meanwhile
//   // Mostly waits: <for what>   beside two others, one such file at a time
//   t.setTimeout(MILLISECONDS)    its own limit; 0: half an hour

import { spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Parser, type Result } from 'tap-parser'

interface Report {
  name: string
  passed: number
  failures: string[]
  skips: string[]
  seconds: number
}

interface TestFile {
  source: string
  alone: boolean
  waits: boolean
  /** Seconds. */
  limit: number
}

const JOBS = 2
const root = new URL('../../../', import.meta.url).pathname
const { values: flags, positionals: words } = parseArgs({
  allowPositionals: true,
  options: {
    lint: { type: 'boolean' },
    'no-lint': { type: 'boolean' },
    coverage: { type: 'boolean' },
    'all-kernels': { type: 'boolean' }
  }
})
if (flags['all-kernels']) process.env['HOSTROUTE_VM_ALL'] = '1'
const running = new Set<ReturnType<typeof spawn>>()

function testFiles(): TestFile[] {
  const sources = readdirSync(`${root}test`, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.test.ts'))
    .map((path) => `test/${path}`)
    .filter((path) => words.length === 0 || words.some((word) => path.includes(word)))
  return sources.sort().map((source) => {
    const text = readFileSync(root + source, 'utf8')
    const asked = /^t\.setTimeout\(([\d_]+)\)/m.exec(text)?.[1]
    const limit = asked === undefined ? 240 : Number(asked.replaceAll('_', '')) / 1_000 || 1_800
    return { source, limit, alone: /^\/\/ Runs alone\b/m.test(text), waits: /^\/\/ Mostly waits\b/m.test(text) }
  })
}

function runFile(file: TestFile): Promise<Report> {
  const start = Date.now()
  const report: Report = { name: file.source, passed: 0, failures: [], skips: [], seconds: 0 }
  const compiled = `build/js/${file.source.replace(/\.ts$/, '.js')}`
  const child = spawn(process.execPath, ['--enable-source-maps', compiled], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TAP: '1', TAP_TIMEOUT: `${file.limit}` }
  })
  running.add(child)
  const parser = new Parser()
  follow(parser, [], report)
  let errors = ''
  child.stdout.pipe(parser as unknown as NodeJS.WritableStream)
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-4_000)
  })
  const timer = setTimeout(() => {
    report.failures.push(`ran for more than ${file.limit} s and was ended`)
    child.kill('SIGTERM')
    setTimeout(() => child.kill('SIGKILL'), 5_000).unref()
  }, file.limit * 1_000)
  return new Promise((resolve) => {
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      running.delete(child)
      report.seconds = (Date.now() - start) / 1_000
      const total = report.passed + report.failures.length + report.skips.length
      if (total === 0) report.failures.push(`holds no test (status ${status ?? signal})\n${errors}`)
      else if (status !== 0 && report.failures.length === 0) {
        report.failures.push(`exited with ${status ?? signal} though no test failed\n${errors}`)
      }
      resolve(report)
    })
  })
}

/** Counts the assertions of a TAP stream and of the subtests in it. Returns by report. */
function follow(parser: Parser, path: string[], report: Report): void {
  let before = 0
  const seen = () => report.passed + report.failures.length + report.skips.length
  parser.on('child', (child: Parser) => {
    before = seen()
    follow(child, [...path, child.name], report)
  })
  parser.on('assert', (result: Result) => {
    const inside = result.closingTestPoint ? seen() - before : 0
    before = seen()
    const name = [...path, result.name].filter(Boolean).join(' › ')
    const put = result.skip || result.todo
    if (put) report.skips.push(`${name}: ${typeof put === 'string' ? put : 'no reason given'}`)
    else if (!result.ok && (inside === 0 || report.failures.length === 0)) report.failures.push(name + details(result))
    else if (result.ok && inside === 0) report.passed += 1
  })
}

function details(result: Result): string {
  const { diff, stack, at, ...rest } = (result.diag ?? {}) as Record<string, unknown>
  const place = at as { fileName?: string; lineNumber?: number } | undefined
  const lines: string[] = []
  if (place?.fileName) lines.push(`at ${place.fileName}:${place.lineNumber}`)
  else if (typeof stack === 'string') lines.push(...stack.split('\n').slice(0, 3))
  if (typeof diff === 'string') lines.push(...diff.split('\n'))
  else {
    for (const key of ['found', 'wanted', 'pattern', 'error', 'signal', 'timeout']) {
      if (rest[key] !== undefined) lines.push(`${key}: ${JSON.stringify(rest[key])}`)
    }
  }
  return lines.map((line) => `\n      ${line}`).join('')
}

/** One check that is a command: it fails with what it printed. */
async function runCheck(name: string, argv: string[]): Promise<Report> {
  const start = Date.now()
  const [file = '', ...rest] = argv
  const child = spawn(file, rest, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  }
  const status = await new Promise((resolve) => {
    child.on('close', resolve).on('error', ({ message }) => {
      output += message
    })
  })
  running.delete(child)
  const seconds = (Date.now() - start) / 1_000
  if (status === 0) return { name, passed: 1, failures: [], skips: [], seconds }
  const shown = output.trim().split('\n').slice(0, 80).join('\n')
  return { name, passed: 0, failures: [`${argv.slice(0, 3).join(' ')} …\n${shown}`], skips: [], seconds }
}

function lintChecks(): [string, string[]][] {
  const node = (script: string, ...rest: string[]) => [process.execPath, `node_modules/${script}`, ...rest]
  const inside = (folder: string, ends: RegExp) =>
    readdirSync(root + folder, { recursive: true, encoding: 'utf8' })
      .filter((path) => ends.test(path))
      .map((path) => `${folder}/${path}`)
  const native = [...inside('bpf', /\.[ch]$/), ...inside('native', /\.(cc|h)$/)]
  return [
    ['biome: format and rules', node('@biomejs/biome/bin/biome', 'check', '.')],
    ['eslint: rules that need types', node('eslint/bin/eslint.js', '--max-warnings=0', 'src', 'test')],
    ['clang-format: bpf and native', [clangFormat(), '--dry-run', '--Werror', ...native]]
  ]
}

function clangFormat(): string {
  const names = ['clang-format-19', 'clang-format', ...[22, 21, 20, 18, 17, 16].map((each) => `clang-format-${each}`)]
  return names.find((name) => spawnSync(name, ['--version']).status === 0) ?? 'clang-format'
}

const reports: Report[] = []

function show(report: Report): void {
  reports.push(report)
  const { name } = report
  const skips = report.skips.length > 0 ? `, ${report.skips.length} skipped` : ''
  const failed = report.failures.length > 0 ? `, ${report.failures.length} FAILED` : ''
  const word = report.failures.length > 0 ? 'not ok' : 'ok    '
  console.log(
    `${word} ${name.padEnd(48)} ${`${report.passed} passed${failed}${skips}`.padEnd(24)} ${report.seconds.toFixed(1)} s`
  )
  for (const failure of report.failures) console.log(`    ✗ ${failure}`)
  for (const skip of report.skips) console.log(`    – skipped: ${skip}`)
}

/** The checks first, as if they were test files. */
async function runAll(checks: [string, string[]][], files: TestFile[]): Promise<void> {
  const beside = files.filter((file) => !file.alone)
  const jobOf = (file: TestFile) => () => runAndShow(file.source, () => runFile(file))
  const busy = [
    ...checks.map(
      ([name, argv]) =>
        () =>
          runAndShow(name, () => runCheck(name, argv))
    ),
    ...beside.filter((file) => !file.waits).map(jobOf)
  ]
  const waiting = beside.filter((file) => file.waits).map(jobOf)
  const work = async (queue: (() => Promise<void>)[]) => {
    for (let job = queue.shift(); job; job = queue.shift()) await job()
  }
  await Promise.all([...Array.from({ length: JOBS }, () => work(busy)), work(waiting)])
  for (const file of files) if (file.alone) await jobOf(file)()
}

async function runAndShow(name: string, run: () => Promise<Report>): Promise<void> {
  const start = Date.now()
  const note = setInterval(() => {
    console.log(`       ${name} is still running … ${Math.round((Date.now() - start) / 1_000)} s`)
  }, 60_000)
  const report = await run()
  clearInterval(note)
  show(report)
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    for (const child of running) child.kill(signal)
    console.log(`ended by ${signal}`)
    process.exit(130)
  })
}

const linting = flags.lint || (words.length === 0 && !flags['no-lint'])
const checks = linting ? lintChecks() : []
if (flags.lint) await runAll(checks, [])
else {
  const files = testFiles()
  if (files.length === 0) {
    console.error(`No test file has ${words.map((word) => `"${word}"`).join(' or ')} in its path.`)
    process.exit(1)
  }
  const covered = `${root}.cache/coverage`
  if (flags.coverage) {
    rmSync(covered, { recursive: true, force: true })
    process.env['NODE_V8_COVERAGE'] = covered
  }
  await runAll(checks, files)
  if (flags.coverage) {
    delete process.env['NODE_V8_COVERAGE']
    const options = [
      '--temp-directory',
      covered,
      '--all',
      '--include',
      'src/**',
      '--exclude-after-remap',
      '--reporter',
      'text'
    ]
    spawnSync(process.execPath, ['node_modules/c8/bin/c8.js', 'report', ...options], { cwd: root, stdio: 'inherit' })
  }
}
const sum = (count: (report: Report) => number) => reports.reduce((total, report) => total + count(report), 0)
const failed = sum(({ failures }) => failures.length)
const skipped = sum(({ skips }) => skips.length)
if (failed > 0) console.log('\nFailed:')
for (const { name, failures } of reports) for (const failure of failures) console.log(`${name}\n    ✗ ${failure}`)
console.log(`\n${sum(({ passed }) => passed)} passed, ${failed} failed, ${skipped} skipped`)
process.exitCode = failed > 0 ? 1 : 0
