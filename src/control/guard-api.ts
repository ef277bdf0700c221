// What the control socket says about the guard. As in api.ts: JSON as it
// crosses the socket, times ISO 8601, null for "not known" or "none".

/** enforce: writes are refused. audit: they are let through and reported. off: not looked at. */
export type GuardMode = 'enforce' | 'audit' | 'off'

/** From strongest to weakest. */
export type GuardBackendName = 'lsm' | 'fmod_ret' | 'cgroup'

/**
 * refused: the caller got EPERM. audited: would have been. exempt: allowed by
 * unit, cgroup or executable; told once per writer, then counted. appeared:
 * present in the kernel despite the guard. removed: the same, and taken away
 * again (guard.remove).
 */
export type GuardVerdict = 'refused' | 'audited' | 'exempt' | 'appeared' | 'removed'

/** write: adds or changes. uninspectable: lying lengths, too long, unreadable. policy: a legacy removal that would change a policy too. */
export type GuardReason = 'write' | 'uninspectable' | 'policy'

export type GuardSystem = 'nftables' | 'iptables' | 'ip6tables' | 'ebtables' | 'arptables'

export interface GuardEventRow {
  time: string
  verdict: GuardVerdict
  reason: GuardReason
  /** null: seen by watching, not by a hook. */
  backend: GuardBackendName | null
  system: GuardSystem
  /** ip, ip6, inet, arp, bridge, netdev, or a number as text. */
  family: string
  table: string | null
  chain: string | null
  /** NEWRULE, NEWCHAIN, ...; REPLACE for the legacy tables. */
  message: string
  /** Of the message in its batch, from 0. */
  position: number
  pid: number
  uid: number | null
  /** What the process calls itself: anybody can choose it. */
  command: string
  /** The command line, words joined by blanks, cut off where too long. */
  arguments: string | null
  executable: string | null
  cgroup: string | null
  unit: string | null
  /** What allows it, like "cgroup /kubepods (default)"; null: nothing does, or it is not known. */
  exemption: string | null
  /** How many equal attempts within one second this row stands for; exempt: all of the writer's since `time`. */
  repeated: number
}

export interface GuardBackendRow {
  name: GuardBackendName
  /** tried: proved to refuse or not; untried: a stronger one stood already. */
  state: 'in use' | 'failed' | 'untried'
  why: string | null
}

/**
 * Backend cgroup: what sees who writes to nf_tables. kprobe: at the entry of
 * nfnetlink. capability: where it checks CAP_NET_ADMIN.
 */
export type GuardWitnessName = 'kprobe' | 'capability'

export interface GuardWitness {
  /** null: none can be attached here; writes are refused all the same. */
  name: GuardWitnessName | null
  /** Why a stronger one is not used. */
  why: string | null
}

/** Backend cgroup: a table of iptables-nft's that the guard owns so that nobody else can write to it. */
export interface GuardTableRow {
  family: string
  table: string
  owned: boolean
  why: string | null
}

export interface GuardAllowance {
  kind: 'unit' | 'cgroup' | 'executable'
  name: string
  /** default: built in, see guard.allow.defaults. command: hostroute guard allow. */
  source: 'default' | 'configuration' | 'command'
  /** null: for ever. */
  until: string | null
  /** Writes it let through. */
  used: number
  /** false: there is no such unit, cgroup or file now. */
  present: boolean
}

export interface GuardPresentRow {
  system: GuardSystem
  family: string
  table: string
  /** Rules in it. */
  rules: number
}

/** Of those who are not exempt. iptables writes: what is not in a table of iptables-nft's is reported instead. */
export type GuardRefuses = 'all writes' | 'iptables writes' | 'iptables-legacy writes' | 'nothing'

export interface GuardStatus {
  mode: GuardMode
  refuses: GuardRefuses
  /** null: none of them refuses here; nothing is guarded. */
  backend: GuardBackendName | null
  /** One sentence when something is not as it should be. */
  why: string | null
  backends: GuardBackendRow[]
  /** null: not the backend cgroup. */
  witness: GuardWitness | null
  counts: {
    refused: number
    audited: number
    exempt: number
    /** Legacy replacements that only removed. */
    removals: number
    /** Events that found no room in the ring buffer. */
    lost: number
    /** Found in the kernel in spite of the guard. */
    appeared: number
  }
  tables: GuardTableRow[]
  /** Backend cgroup: the exemption for whose sake the guard owns no tables; null: it owns what it can. */
  unownedFor: string | null
  allowances: GuardAllowance[]
  /** Rules that were there when the guard started. */
  present: GuardPresentRow[]
  last: GuardEventRow | null
}

/** Exactly one of unit, cgroup and executable. */
export interface GuardAllowRequest {
  unit?: string
  /** Path below the root of cgroup2: /system.slice/x.service */
  cgroup?: string
  /** Absolute path. */
  executable?: string
  /** Absent: until the daemon ends. */
  seconds?: number
}

/** What the control server needs from the guard. */
export interface GuardControl {
  status(): GuardStatus | Promise<GuardStatus>
  /** Newest last. */
  recentEvents(limit: number): GuardEventRow[]
  setMode(mode: GuardMode): Promise<void> | void
  allow(request: GuardAllowRequest): void
  /** Takes an allowance back. false: there was none. */
  deny(request: GuardAllowRequest): boolean
}
