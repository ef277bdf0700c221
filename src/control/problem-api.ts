// What is wrong on the node, as the API tells it.

/** traffic: packets do not go as they should. protection: iptables writes are not refused. observation: hostroute runs, but not as somebody thinks. */
export type Affects = 'traffic' | 'protection' | 'observation'

export interface ProblemRow {
  /** Of src/life/problem-kinds.ts, e.g. "guard-not-running". */
  code: string
  affects: Affects
  /** ISO 8601. */
  since: string
  text: string
  remedy: string
  /** When the daemon tries again; null: it does not, or looks every few seconds. */
  nextTry: string | null
}
