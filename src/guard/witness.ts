// Backend cgroup: who writes to nf_tables. Nothing there can refuse before
// nfnetlink, so a program that only looks on says who it was, and what: the
// first one that is seen to see. bpf/guard/witness.h has what it knows.
//
// What will be refused, is exempt or audited it reports itself. All else the
// kernel lets through and tells of afterwards, by which time a short-lived
// process is gone: Sightings brings the two together.

import type { GuardWitness, GuardWitnessName } from '../control/guard-api.js'
import { type BpfObject, native } from '../native.js'
import { probeTransaction } from '../netfilter/nfnetlink.js'
import { backendCode, controlOffset, type RawEvent, u32, u64 } from './layout.js'

interface Candidate {
  name: GuardWitnessName
  program: string
  attach(object: BpfObject, pin: string): void
}

const candidates: Candidate[] = [
  {
    name: 'kprobe',
    program: 'guard_witness_kprobe',
    attach: (object, pin) => object.attachKprobe('guard_witness_kprobe', 'nfnetlink_rcv', pin)
  },
  {
    name: 'capability',
    program: 'guard_witness_capable',
    attach: (object, pin) => object.attachRawTracepoint('guard_witness_capable', 'cap_capable', pin)
  }
]

export const witnessPrograms = candidates.map(({ program }) => program)

/** pinOf: where a program's link is pinned. guard: the loaded backend, whose maps are pinned in `directory`. */
export function chooseWitness(directory: string, guard: BpfObject, pinOf: (program: string) => string): GuardWitness {
  const failures: string[] = []
  let chosen: Candidate | null = null
  for (const candidate of candidates) {
    const failure = chosen ? '' : tryCandidate(candidate, directory, guard, pinOf(candidate.program))
    if (failure === null) chosen = candidate
    else native().detachPinned(pinOf(candidate.program))
    if (failure) failures.push(`${candidate.name}: ${failure}`)
  }
  return { name: chosen?.name ?? null, why: failures.length === 0 ? null : failures.join('; ') }
}

/** null: it sees. The link and the maps are pinned: the object itself is not needed any more. */
function tryCandidate({ program, attach }: Candidate, directory: string, guard: BpfObject, pin: string): string | null {
  let object: BpfObject | null = null
  try {
    object = native().loadObject({ object: 'guard', programs: [program], pinDirectory: directory })
    attach(object, pin)
    return sees(guard) ? null : 'attached without an error, but sees nothing'
  } catch (error) {
    return (error as Error).message
  } finally {
    object?.close()
  }
}

function sees(guard: BpfObject): boolean {
  const socket = native().openNetfilter(true)
  try {
    guard.writeControl(controlOffset.probeSeen, u32(0))
    guard.writeControl(controlOffset.probeBackend, u32(backendCode.cgroup))
    guard.writeControl(controlOffset.probeCookie, u64(socket.cookie))
    socket.request(probeTransaction())
    return guard.readControl().readUInt32LE(controlOffset.probeSeen) !== 0
  } finally {
    guard.writeControl(controlOffset.probeCookie, u64(0n))
    socket.close()
  }
}

const patience = 150
const kept = 60_000
const most = 1000

/** By thread: what the witness said last, until the kernel's own notice has come. */
export class Sightings {
  readonly #seen = new Map<number, { sighting: RawEvent; until: number }>()
  readonly #waiting = new Map<number, ((sighting: RawEvent | null) => void)[]>()

  add(sighting: RawEvent): void {
    const [oldest] = this.#seen.keys()
    if (this.#seen.size >= most && oldest !== undefined) this.#seen.delete(oldest)
    this.#seen.delete(sighting.thread)
    this.#seen.set(sighting.thread, { sighting, until: Date.now() + kept })
    const waiting = this.#waiting.get(sighting.thread)
    this.#waiting.delete(sighting.thread)
    for (const answer of waiting ?? []) answer(sighting)
  }

  /** Answers at once when it is known already, and with null when it does not come. */
  find(thread: number, answer: (sighting: RawEvent | null) => void): void {
    const known = this.#seen.get(thread)
    if (known) return answer(known.sighting)
    const waiting = this.#waiting.get(thread) ?? []
    this.#waiting.set(thread, [...waiting, answer])
    setTimeout(() => {
      const left = this.#waiting.get(thread)
      if (!left?.includes(answer)) return
      this.#waiting.set(
        thread,
        left.filter((one) => one !== answer)
      )
      answer(null)
    }, patience).unref()
  }

  /** What was judged by other rules than now. */
  forget(): void {
    this.#seen.clear()
  }

  forgetOld(): void {
    const now = Date.now()
    for (const [thread, { until }] of this.#seen) if (until < now) this.#seen.delete(thread)
    for (const [thread, waiting] of this.#waiting) if (waiting.length === 0) this.#waiting.delete(thread)
  }
}
