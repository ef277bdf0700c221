// What can be asked over the control socket: method, path, who may, and how the
// parameters become a call of NodeControl. Parameters are strict: an unknown one
// is an error, because a filter that was misspelt would answer for everything.

import * as v from 'valibot'
import { formatAddress, parseAddress, parsePrefix, unspecified } from '../address.js'
import type { NodeControl } from './api.js'
import { Failure } from './failure.js'
import { type Caller, fitsEveryFlow } from './flow-api.js'
import type { GuardAllowRequest, GuardControl } from './guard-api.js'
import { RowStream } from './row-stream.js'

export interface Endpoint {
  method: 'GET' | 'POST'
  /** What it answers; POST: from the JSON body. */
  answer(control: NodeControl, parameters: Record<string, unknown>, caller: Caller | null): unknown
}

const whole = (least: number, most: number) =>
  v.pipe(
    v.union([v.number(), v.pipe(v.string(), v.regex(/^\d+$/), v.transform(Number))]),
    v.integer(),
    v.minValue(least),
    v.maxValue(most)
  )
const family = v.pipe(
  v.picklist(['4', '6']),
  v.transform((text): 4 | 6 => (text === '4' ? 4 : 6))
)
const address = v.pipe(
  v.string(),
  v.check((text) => parseAddress(text) !== null, 'is not an IPv4 or IPv6 address'),
  v.transform(normal)
)
const prefix = v.pipe(
  v.string(),
  v.check((text) => parsePrefix(text) !== null, 'is not a prefix like 10.0.0.0/8')
)
const name = v.pipe(v.string(), v.minLength(1), v.maxLength(64))

const routeFilter = v.strictObject({
  family: v.optional(family),
  within: v.optional(prefix),
  device: v.optional(name),
  limit: v.optional(whole(1, 100_000), 1000)
})
const flowFilter = v.strictObject({
  family: v.optional(family),
  verdict: v.optional(v.picklist(['direct', 'snat', 'inbound', 'stack'])),
  protocol: v.optional(name),
  pod: v.optional(address),
  remote: v.optional(address),
  limit: v.optional(v.union([v.literal('all'), whole(1, 100_000)]), 1000)
})
const place = v.pipe(v.string(), v.minLength(1), v.maxLength(64))
const seconds = v.pipe(v.number(), v.minValue(0), v.maxValue(31_536_000))
const flowSelection = {
  pod: v.optional(place),
  remote: v.optional(prefix),
  remotePort: v.optional(whole(0, 65_535)),
  verdict: v.optional(v.picklist(['snat', 'direct', 'inbound'])),
  olderThan: v.optional(seconds),
  idle: v.optional(seconds)
}
const flowDeletion = v.strictObject({
  ...flowSelection,
  all: v.optional(v.boolean(), false),
  dryRun: v.optional(v.boolean(), false)
})
const routeQuestion = v.strictObject({ address, from: v.optional(place) })
const packet = v.strictObject({
  from: place,
  fromPort: v.optional(whole(0, 65_535)),
  to: address,
  toPort: v.optional(whole(0, 65_535)),
  protocol: v.optional(v.picklist(['tcp', 'udp', 'icmp'])),
  device: v.optional(name),
  size: v.optional(whole(28, 65_535)),
  ttl: v.optional(whole(0, 255)),
  flags: v.optional(v.pipe(v.string(), v.regex(/^[FSRPAU]{1,6}$/, 'is not letters of FSRPAU')))
})
const nothing = v.strictObject({})
const eventFilter = v.strictObject({
  all: v.optional(
    v.pipe(
      v.picklist(['true', 'false']),
      v.transform((text) => text === 'true')
    ),
    'false'
  )
})
const guardMode = v.strictObject({ mode: v.picklist(['enforce', 'audit', 'off']) })
const writerKeys = {
  unit: v.optional(v.pipe(v.string(), v.regex(/^[^/\s]{1,255}$/, 'is not the name of a unit'))),
  cgroup: v.optional(v.pipe(v.string(), v.regex(/^\/[^\0]{1,1023}$/, 'is not a path below the root of cgroup2'))),
  executable: v.optional(v.pipe(v.string(), v.regex(/^\/[^\0]{1,1023}$/, 'is not an absolute path')))
}
const guardAllow = v.strictObject({ ...writerKeys, seconds: v.optional(whole(1, 31_536_000)) })
const guardDeny = v.strictObject(writerKeys)

/** By path. GET reads, POST changes. */
export const endpoints: Record<string, Endpoint[]> = {
  '/v1/status': [get(nothing, (control) => control.status())],
  '/v1/pods': [get(nothing, (control) => control.pods())],
  '/v1/routes': [get(routeFilter, (control, filter) => new RowStream('routes', control.routes(defined(filter))))],
  '/v1/routes/get': [get(routeQuestion, (control, { address, from }) => control.routeGet(address, from ?? null))],
  '/v1/explain': [get(packet, (control, request) => control.explain(defined(request)))],
  '/v1/nexthops': [get(nothing, (control) => control.nexthops())],
  '/v1/neighbours': [get(nothing, (control) => control.neighbours())],
  '/v1/flows': [
    get(
      flowFilter,
      (control, { limit, ...filter }) =>
        new RowStream('flows', control.flows(defined(filter), limit === 'all' ? null : limit))
    )
  ],
  '/v1/flows/top': [
    get(v.strictObject({ count: v.optional(whole(1, 1000), 10) }), (control, { count }) => control.flowTop(count))
  ],
  '/v1/flows/delete': [
    post(flowDeletion, (control, { all, dryRun, ...given }, caller) => {
      const selection = defined(given)
      const { verdict, ...filters } = selection
      if (all ? Object.keys(filters).length > 0 : fitsEveryFlow(selection))
        throw new Failure('bad-request', 'say which flows: pod, remote, remotePort, olderThan, idle; or all')
      return control.deleteFlows(selection, dryRun, caller)
    })
  ],
  '/v1/masquerade': [get(nothing, (control) => control.masquerade())],
  '/v1/masquerade/test': [
    get(v.strictObject({ address }), (control, request) => control.masqueradeTest(request.address))
  ],
  '/v1/drops': [get(nothing, (control) => control.drops())],
  '/v1/verify': [
    get(nothing, (control) => control.verify(false)),
    post(v.strictObject({ repair: v.optional(v.boolean(), false) }), (control, { repair }) => control.verify(repair))
  ],
  '/v1/enable': [
    post(v.strictObject({ confirmWithin: v.optional(whole(5, 3600)) }), (control, options) =>
      control.enable(defined(options))
    )
  ],
  '/v1/confirm': [post(nothing, (control) => control.confirm())],
  '/v1/disable': [
    post(v.strictObject({ force: v.optional(v.boolean()) }), (control, options) =>
      control.disable(options.force === undefined ? {} : { force: options.force })
    )
  ],
  '/v1/reload': [post(nothing, (control) => control.reload())],
  '/v1/guard': [get(nothing, (control) => guardOf(control).status())],
  '/v1/guard/events': [
    get(v.strictObject({ limit: v.optional(whole(1, 1000), 50) }), (control, { limit }) =>
      guardOf(control).recentEvents(limit)
    )
  ],
  '/v1/guard/mode': [
    post(guardMode, async (control, { mode }) => {
      await guardOf(control).setMode(mode)
      return guardOf(control).status()
    })
  ],
  '/v1/guard/allow': [
    post(guardAllow, (control, request) => {
      guardOf(control).allow(oneWriter(request))
      return guardOf(control).status()
    })
  ],
  '/v1/guard/deny': [post(guardDeny, (control, request) => ({ done: guardOf(control).deny(oneWriter(request)) }))]
}

/** Of the path of events. */
export function eventOptions(parameters: Record<string, unknown>): { all: boolean } {
  return checked(eventFilter, parameters)
}

function guardOf(control: NodeControl): GuardControl {
  if (control.guard) return control.guard
  throw new Failure('guard-off', 'the guard does not run: see guard.mode in config.yaml, and hostroute status')
}

function oneWriter(request: { [K in keyof GuardAllowRequest]: GuardAllowRequest[K] | undefined }): GuardAllowRequest {
  const { unit, cgroup, executable } = request
  if ([unit, cgroup, executable].filter((given) => given !== undefined).length !== 1)
    throw new Failure('bad-request', 'name one of unit, cgroup and executable')
  return defined(request) as GuardAllowRequest
}

function get<T>(schema: v.GenericSchema<unknown, T>, call: (control: NodeControl, parameters: T) => unknown): Endpoint {
  return { method: 'GET', answer: (control, parameters) => call(control, checked(schema, parameters)) }
}

function post<T>(
  schema: v.GenericSchema<unknown, T>,
  call: (control: NodeControl, parameters: T, caller: Caller | null) => unknown
): Endpoint {
  return {
    method: 'POST',
    answer: (control, parameters, caller) => call(control, checked(schema, parameters), caller)
  }
}

function checked<T>(schema: v.GenericSchema<unknown, T>, parameters: unknown): T {
  const result = v.safeParse(schema, parameters)
  if (result.success) return result.output
  const sentences = result.issues.map((issue) => {
    const where = v.getDotPath(issue)
    if (issue.type === 'strict_object' && issue.expected === 'never') return `${where ?? 'parameter'} is not known here`
    return `${where ?? 'body'}: ${issue.message}`
  })
  throw new Failure('bad-request', sentences.join('; '))
}

function normal(text: string): string {
  return formatAddress(parseAddress(text) ?? unspecified[4])
}

/** Without keys that are undefined: absent means absent. */
function defined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined)) as T
}
