// A preload for the lab's daemon (node --import): makes chosen calls of the native
// addon fail, as a file says that is read at each call. Production code knows
// nothing of it: what require() returns for the addon is replaced.

import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import Module from 'node:module'
import { constants } from 'node:os'
import { HELPER, type Orders } from './fault-orders.js'

type Call = (...values: unknown[]) => unknown
type Loader = (module: { exports: Record<string, Call> }, file: string) => void

const file = process.env['HOSTROUTE_FAULTS']
const unfailing = new Set([
  'close',
  'notify',
  'trimMemory',
  'libbpfVersion',
  'capabilities',
  'readControl',
  'become',
  'constructor'
])
/** A rejection where others throw. */
const promising = new Set(['loadObjectLater', 'dumpNetlink', 'dumpRoutes', 'readOption'])
const children: Record<string, string> = {
  loadObject: 'object',
  loadObjectLater: 'object',
  map: 'map',
  openPinnedMap: 'map',
  openNetfilter: 'netfilter',
  openTap: 'tap',
  openNetlinkReader: 'reader',
  linkTcx: 'link'
}
const names = new WeakMap<object, string>()
const patched = new WeakSet<object>()
let text = ''
let orders: Orders = {}
let signalled = false
let counts = new Map<string, number>()

function readOrders(): void {
  const now = readFileSync(file as string, 'utf8')
  if (now === text) return
  text = now
  counts = new Map()
  orders = now === '' ? {} : (JSON.parse(now) as Orders)
}

/** Which of many: the program, the map, the object. */
function detail(self: unknown, name: string, [first]: unknown[]): string {
  const own = names.get(self as object)
  if (own !== undefined) return ` ${own}`
  if (name.startsWith('loadObject')) return ` ${(first as { object?: string }).object ?? 'hostroute'}`
  if (name === 'openPinnedMap' || name === 'detachPinned') return ` ${String(first).split('/').at(-1)}`
  return typeof first === 'string' && !first.includes('/') ? ` ${first}` : ''
}

/** Counts it, and throws when it is the one. */
function meet(label: string): void {
  readOrders()
  const { record, fail, signal } = orders
  if (record) appendFileSync(record, `${label}\n`)
  if (signal?.label === label && !signalled) {
    signalled = true
    process.kill(process.pid, signal.name)
  }
  if (!fail || fail.label !== label) return
  const count = (counts.get(label) ?? 0) + 1
  counts.set(label, count)
  if (count < fail.from) return
  if (fail.once) writeFileSync(file as string, JSON.stringify({ ...orders, fail: undefined, fired: label }))
  else if (count === fail.from) appendFileSync(`${file}.fired`, `${label}\n`)
  const errno = constants.errno[fail.code as keyof typeof constants.errno]
  throw Object.assign(new Error(`${HELPER}: ${label}: ${fail.code}`), { code: fail.code, errno, syscall: label })
}

function wrap(kind: string, name: string, call: Call): Call {
  return function (this: unknown, ...values) {
    const label = `${kind}${name}${detail(this, name, values)}`
    try {
      meet(label)
    } catch (error) {
      if (promising.has(name)) return Promise.reject(error)
      throw error
    }
    const result = call.apply(this, values)
    const adopt = (made: unknown) => {
      const child = children[name]
      if (!child || typeof made !== 'object' || made === null) return made
      patch(child, made)
      if (child === 'map')
        names.set(made, name === 'map' ? String(values[0]) : (String(values[0]).split('/').at(-1) ?? ''))
      return made
    }
    return result instanceof Promise ? result.then(adopt) : adopt(result)
  }
}

/** On the object: what its prototype has cannot be changed, and the addon takes only objects that it made itself. */
function patch(kind: string, made: object): void {
  if (patched.has(made)) return
  patched.add(made)
  const prototype = Object.getPrototypeOf(made) as object
  for (const holder of prototype === Object.prototype ? [made] : [made, prototype]) {
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(holder))) {
      if (typeof value !== 'function' || unfailing.has(name)) continue
      Object.defineProperty(made, name, { value: wrap(`${kind}.`, name, value as Call), configurable: true })
    }
  }
}

// not in what the daemon starts itself, which inherits the environment
if (file && process.argv.some((word) => word.endsWith('daemon/main.js')) && !process.argv.includes('--look')) {
  const extensions = (Module as unknown as { _extensions: Record<string, Loader> })._extensions
  const load = extensions['.node'] as Loader
  extensions['.node'] = (module, path) => {
    load(module, path)
    if (!path.endsWith('hostroute.node')) return
    const addon = module.exports
    module.exports = Object.fromEntries(
      Object.entries(addon).map(([name, call]) => [
        name,
        typeof call === 'function' && !unfailing.has(name) ? wrap('', name, call) : call
      ])
    )
  }
}
