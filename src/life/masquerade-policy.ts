// The masquerade policy in force: from the files, and the flags of the agent, to the
// map, on a way of its own.
// Nothing is planned for it, and no plan waits for it.
//
// Invariants
// - `policy` is what the map says, as long as there is one.
// - A policy that is refused, or that cannot be written, changes nothing: the one
//   before stays in force, `refused` says why. Where there was none, the defaults
//   are.
// - What an earlier daemon left in the map stays in force while a file of which
//   no good contents are known is not valid.

import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { longestPrefix } from '../address.js'
import type { Config } from '../config/config.js'
import { type MasqueradePolicy, masqueradeOptions, mergeMasquerade, samePolicy } from '../config/masquerade.js'
import type { PortRange } from '../config/ports.js'
import { type MasqueradeWatch, notInForce, watchMasquerade } from '../config/watch.js'
import type { Logger } from '../log.js'
import type { Writer } from '../maps/writer.js'
import type { Address, Prefix } from '../state/types.js'

export interface MasqueradeHooks {
  /** See MasqueradeWatchOptions. */
  keptFile: string
  log: Logger
  /** A sentence, for people. */
  onProblem(text: string): void
  /** `ports` may have others. */
  onPorts(): void
  /** `policy` is another one, and the map says so. */
  onPolicy(policy: MasqueradePolicy): void
  /** The map could not be written: writeAgain() is to be called in a moment. */
  onFailure(error: Error): void
}

type PolicyMap = Writer['masquerade']

/** In a policy's `from`: rows that an earlier daemon wrote. */
const earlier = 'before the restart'

/** What the agent's files said, for the next start. */
export function keptMasquerade(stateDirectory: string): string {
  return join(stateDirectory, 'masquerade.json')
}

export class Masquerade {
  /** In force. */
  policy: MasqueradePolicy
  /** Why the policy that the files make is not in force; null: it is. */
  refused: string | null = null
  watch: MasqueradeWatch
  private map: PolicyMap | null = null
  /** Logged as the one in force. */
  private told: MasqueradePolicy | null = null
  private rows: { of: MasqueradePolicy; byPrefix: Map<Prefix, boolean> } | null = null

  constructor(
    private config: Config,
    private readonly hooks: MasqueradeHooks
  ) {
    this.watch = this.follow()
    this.policy = mergeMasquerade([], masqueradeOptions(config))
    this.offer()
  }

  /** The map to keep in step, or none. Throws NativeError; then there is none. */
  use(map: PolicyMap | null): void {
    this.map = null
    if (!map) return
    const found = map.inForce()
    if (found.length > 0 && (this.isUnknown() || this.tooLarge())) this.policy = policyOfMap(found, this.watch.policy)
    const refusal = this.refusal() ?? map.write(this.watch.policy.wanted)
    if (refusal === null) this.accept()
    else {
      if (map.write(this.policy.wanted) !== null) {
        this.policy =
          found.length > 0 ? policyOfMap(found, this.watch.policy) : mergeMasquerade([], masqueradeOptions(this.config))
        map.write(this.policy.wanted)
      }
      this.refuse(refusal)
    }
    this.map = map
    this.hooks.onPolicy(this.policy)
  }

  /** What the configuration says may have changed; the files are read again. */
  configure(config: Config): void {
    const before = this.config
    this.config = config
    const same =
      isDeepStrictEqual(before.snat.masqueradeFiles, config.snat.masqueradeFiles) &&
      isDeepStrictEqual(before.snat.agent, config.snat.agent) &&
      isDeepStrictEqual(masqueradeOptions(before), masqueradeOptions(config))
    if (same) this.watch.refresh()
    else {
      this.watch.close()
      this.watch = this.follow(this.watch)
    }
    this.offer()
  }

  /** After a failure. Throws NativeError. */
  writeAgain(): void {
    if (!this.map) return
    const refusal = this.refusal() ?? this.map.write(this.watch.policy.wanted)
    if (refusal === null) this.accept()
    else {
      this.map.write(this.policy.wanted)
      this.refuse(refusal)
    }
  }

  /** What the files say and is not in force: sentences. */
  get problems(): string[] {
    const files = this.watch.files.flatMap(({ error, read }) =>
      error === null ? [] : [notInForce(error, read !== null)]
    )
    return this.refused === null ? files : [...files, this.refused]
  }

  /** Source ports for SNAT. They do not depend on the files, so no refused policy keeps them from changing. */
  get ports(): 'auto' | PortRange[] {
    return this.watch.policy.ports
  }

  close(): void {
    this.watch.close()
  }

  /** The entry that decides about an address. */
  entryFor(address: Address): { prefix: Prefix; masquerade: boolean } {
    if (this.rows?.of !== this.policy)
      this.rows = {
        of: this.policy,
        byPrefix: new Map(this.policy.wanted.map(({ prefix, masquerade }) => [prefix, masquerade]))
      }
    const { byPrefix } = this.rows
    const prefix = longestPrefix(address, (key) => byPrefix.has(key))
    // the whole of both families is always there
    if (prefix === null) throw new Error(`no entry of the masquerade policy covers ${address}`)
    return { prefix, masquerade: byPrefix.get(prefix) === true }
  }

  private follow(before?: MasqueradeWatch): MasqueradeWatch {
    const { masqueradeFiles, agent } = this.config.snat
    return watchMasquerade({
      patterns: masqueradeFiles,
      agent,
      reading: masqueradeOptions(this.config),
      ...(before ? { before } : {}),
      keptFile: this.hooks.keptFile,
      onChange: () => this.offer(),
      onProblem: this.hooks.onProblem
    })
  }

  private offer(): void {
    try {
      this.hooks.onPorts()
      const refusal = this.refusal() ?? this.map?.write(this.watch.policy.wanted) ?? null
      if (refusal === null) this.accept()
      else this.refuse(refusal)
    } catch (error) {
      this.hooks.onFailure(error as Error)
    }
  }

  private accept(): void {
    const { policy } = this.watch
    const { wanted } = policy
    if (this.told === null || !samePolicy(this.told, policy))
      this.hooks.log.info(
        `the masquerade policy has ${wanted.length} prefixes, ${policy.defaultsOnly ? 'the defaults' : `from ${policy.files.map(({ path }) => path).join(', ')}`}${followed(policy)}`
      )
    this.told = policy
    this.policy = policy
    this.refused = null
    if (this.map) this.hooks.onPolicy(policy)
  }

  private refuse(why: string): void {
    const stays = this.policy.defaultsOnly ? 'the defaults are in force' : 'the one before stays in force'
    const text = `the masquerade policy is refused as a whole: ${why}; ${stays}`
    if (text !== this.refused) this.hooks.onProblem(text)
    this.refused = text
  }

  /** Before the map is asked. */
  private refusal(): string | null {
    if (this.tooLarge()) {
      const { length } = this.watch.policy.wanted
      return `it has ${length} prefixes, limits.masquerade allows ${this.config.limits.masquerade}`
    }
    return this.isOfEarlier() && this.isUnknown() ? 'a file is not valid, and what it said before is not known' : null
  }

  private tooLarge(): boolean {
    return this.watch.policy.wanted.length > this.config.limits.masquerade
  }

  /** A file is not valid and has no last good contents. */
  private isUnknown(): boolean {
    return this.watch.files.some(({ error, read }) => error !== null && read === null)
  }

  private isOfEarlier(): boolean {
    return this.policy.ipv6.why === earlier
  }
}

/** "; followed of kube-system/ip-masq-agent-x7k2p: --enable-ipv6, --to-ports=1024-29999" */
function followed({ agents }: MasqueradePolicy): string {
  return agents
    .map(({ pod, flags }) => ({ pod, flags: flags.filter(({ effect }) => effect === 'followed') }))
    .filter(({ flags }) => flags.length > 0)
    .map(({ pod, flags }) => `; followed of ${pod}: ${flags.map(({ flag }) => flag).join(', ')}`)
    .join('')
}

/** What the map does not say is as in `now`. */
function policyOfMap(wanted: MasqueradePolicy['wanted'], now: MasqueradePolicy): MasqueradePolicy {
  const sorted = [...wanted].sort((a, b) => a.prefix.length - b.prefix.length || (a.prefix < b.prefix ? -1 : 1))
  return {
    wanted: sorted,
    from: { get: () => [earlier] },
    files: [],
    defaultsOnly: false,
    ipv6: { masqueraded: sorted.some(({ prefix, masquerade }) => masquerade && prefix.length > 12), why: earlier },
    ports: now.ports,
    agents: now.agents,
    resyncInterval: 60_000,
    warnings: []
  }
}
