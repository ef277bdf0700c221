// Stands in for tap inside test machines, where importing the real one costs an
// emulated processor several seconds a file, and each of its assertions
// milliseconds. It prints the same TAP, which the host's tap then counts.
//
// It has what our tests use of tap and no more: a method that it lacks throws
// and so fails the file. Comparing is tap's own library (tcompare).
//
// A file ends when nothing is left to wait for, and then its teardowns run. A
// file that never ends is ended by the time limit outside.

import { match, same, strict } from 'tcompare'

type Body = (t: LightTest) => unknown
type Comparison = { match: boolean; diff: string }
type Checked = object | RegExp | (new () => Error)

class LightTest {
  passing = true
  private readonly lines: string[] = []
  private count = 0
  private readonly teardowns: (() => unknown)[] = []
  private queue: Promise<unknown> = Promise.resolve()

  constructor(private readonly print: ((line: string) => void) | null) {}

  /** Runs after the tests queued before it. */
  test(name: string, ...rest: [Body] | [object, Body]): Promise<void> {
    const body = rest.at(-1) as Body
    const done = this.queue.then(() => this.runChild(name, body))
    this.queue = done
    return done
  }

  teardown(action: () => unknown): void {
    this.teardowns.unshift(action)
  }

  /** Time is limited from outside only. */
  setTimeout(_milliseconds: number): void {}

  comment(...words: unknown[]): void {
    for (const line of words.join(' ').split('\n')) this.say(`# ${line}`)
  }

  pass(name = 'pass'): boolean {
    return this.result(true, name)
  }

  fail(name = 'fail', details: unknown = {}): boolean {
    return this.result(false, name, details)
  }

  ok(value: unknown, name = 'expect truthy value'): boolean {
    return this.result(Boolean(value), name, { found: value })
  }

  notOk(value: unknown, name = 'expect falsey value'): boolean {
    return this.result(!value, name, { found: value })
  }

  equal(found: unknown, wanted: unknown, name = 'should be equal'): boolean {
    return this.result(Object.is(found, wanted), name, { found, wanted })
  }

  not(found: unknown, unwanted: unknown, name = 'should not be equal'): boolean {
    return this.result(!Object.is(found, unwanted), name, { found })
  }

  same(found: unknown, wanted: unknown, name = 'should be equivalent'): boolean {
    return this.compared(same(found, wanted) as Comparison, name)
  }

  strictSame(found: unknown, wanted: unknown, name = 'should be equivalent strictly'): boolean {
    return this.compared(strict(found, wanted) as Comparison, name)
  }

  match(found: unknown, pattern: unknown, name = 'should match pattern provided'): boolean {
    return this.compared(match(found, pattern) as Comparison, name)
  }

  notMatch(found: unknown, pattern: unknown, name = 'should not match pattern provided'): boolean {
    return this.result(!(match(found, pattern) as Comparison).match, name, { found, pattern: String(pattern) })
  }

  type(found: object, wanted: new () => object, name = 'type is as wanted'): boolean {
    return this.result(found instanceof wanted, name, { found })
  }

  /** `wanted`: nothing, or what the error has to match; a string is the name. */
  throws(action: () => unknown, wanted?: Checked | string, name = 'expected to throw'): boolean {
    try {
      action()
    } catch (error) {
      return this.thrown(error, wanted, name)
    }
    return this.result(false, name, { found: 'it did not throw' })
  }

  doesNotThrow(action: () => unknown, name = 'expected to not throw'): boolean {
    try {
      action()
      return this.pass(name)
    } catch (error) {
      return this.fail(name, describe(error))
    }
  }

  async rejects(
    promise: Promise<unknown> | (() => Promise<unknown>),
    wanted?: Checked | string,
    name = 'expected to reject'
  ): Promise<boolean> {
    try {
      await (typeof promise === 'function' ? promise() : promise)
    } catch (error) {
      return this.thrown(error, wanted, name)
    }
    return this.result(false, name, { found: 'it did not reject' })
  }

  private thrown(error: unknown, wanted: Checked | string | undefined, name: string): boolean {
    if (wanted === undefined || typeof wanted === 'string') return this.pass(wanted ?? name)
    const found = wanted instanceof RegExp && error instanceof Error ? error.message : error
    return this.compared(match(found, wanted) as Comparison, name)
  }

  private compared({ match: ok, diff }: Comparison, name: string): boolean {
    return this.result(ok, name, { diff })
  }

  private result(ok: boolean, name: string, details: unknown = {}): boolean {
    this.count += 1
    this.passing &&= ok
    this.say(`${ok ? 'ok' : 'not ok'} ${this.count} - ${escaped(name)}`)
    if (!ok) {
      const at = new Error().stack?.split('\n').find((line) => line.includes('/test/') && !line.includes('light-tap'))
      for (const line of yaml({ at: at?.trim(), ...(details as object) })) this.say(line)
    }
    return ok
  }

  private say(line: string): void {
    if (this.print) this.print(line)
    else this.lines.push(line)
  }

  private async runChild(name: string, body: Body): Promise<void> {
    const child = new LightTest(null)
    try {
      await body(child)
    } catch (error) {
      child.fail('it threw', describe(error))
    }
    await child.end()
    this.say(`# Subtest: ${escaped(name)}`)
    for (const line of child.lines) this.say(`    ${line}`)
    this.result(child.passing, name, { found: 'see above' })
  }

  /** Once its own body is through: waits for what it queued, then cleans up. */
  async end(): Promise<void> {
    for (let last: unknown; last !== this.queue; ) {
      last = this.queue
      await last
    }
    for (const action of this.teardowns) {
      try {
        await action()
      } catch (error) {
        this.fail('teardown threw', describe(error))
      }
    }
    if (this.count === 0) this.fail('it holds no assertion')
    this.say(`1..${this.count}`)
  }
}

function escaped(text: string): string {
  return text.replaceAll('\n', ' ').replaceAll('\\', '\\\\').replaceAll('#', '\\#')
}

function describe(error: unknown): object {
  return { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }
}

function yaml(details: Record<string, unknown>): string[] {
  const given = Object.entries(details).filter(([, value]) => value !== undefined)
  const lines = given.flatMap(([key, value]) => {
    const text = typeof value === 'string' ? value : (JSON.stringify(value, plainly) ?? String(value))
    return text.includes('\n')
      ? [`  ${key}: |`, ...text.split('\n').map((line) => `    ${line}`)]
      : [`  ${key}: ${JSON.stringify(text)}`]
  })
  return ['  ---', ...lines, '  ...']
}

function plainly(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}` : value
}

const root = new LightTest((line) => process.stdout.write(`${line}\n`))
process.stdout.write('TAP version 14\n')

let state: 'running' | 'ending' | 'ended' = 'running'
process.on('beforeExit', () => {
  if (state !== 'running') return
  state = 'ending'
  void root.end().then(() => {
    state = 'ended'
    process.exitCode = root.passing ? 0 : 1
  })
})
process.on('exit', () => {
  if (state === 'ended') return
  root.fail('it ended while a test was still waiting')
  process.exitCode = 1
})
process.on('uncaughtException', (error) => {
  root.fail('uncaught', describe(error))
  process.exit(1)
})

export default root
