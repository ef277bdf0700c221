// The loaded object as its users see it: when its programs, and some of its maps,
// are replaced by those of another one, every handle of a map goes on with the
// new map, whoever has it.

import type { BpfMap, BpfObject, TestRunResult } from '../native.js'

/** What of a loaded object does not depend on where its programs hang. */
export type LoadedObject = Pick<BpfObject, 'map' | 'reused' | 'readControl' | 'writeControl' | 'testRun' | 'programId'>

interface Handle {
  name: string
  map: WeakRef<BpfMap>
}

/** Handles are looked through for those that are gone when there are so many more. */
const sweepEvery = 64

export class LiveObject implements LoadedObject {
  private handles: Handle[] = []
  private sweepAt = sweepEvery

  constructor(private loaded: BpfObject) {}

  /** Its programs are attached. */
  get current(): BpfObject {
    return this.loaded
  }

  get reused(): string[] {
    return this.loaded.reused
  }

  map(name: string): BpfMap {
    const map = this.loaded.map(name)
    this.handles.push({ name, map: new WeakRef(map) })
    if (this.handles.length > this.sweepAt) {
      this.handles = this.handles.filter(({ map }) => map.deref() !== undefined)
      this.sweepAt = this.handles.length + sweepEvery
    }
    return map
  }

  readControl(): Buffer {
    return this.loaded.readControl()
  }

  writeControl(offset: number, bytes: Buffer): void {
    this.loaded.writeControl(offset, bytes)
  }

  testRun(program: string, options: Parameters<BpfObject['testRun']>[1]): TestRunResult {
    return this.loaded.testRun(program, options)
  }

  programId(program: string): number {
    return this.loaded.programId(program)
  }

  /** `next` takes its place, and it is closed. `fresh`: names of the maps that are others now. */
  replace(next: BpfObject, fresh: readonly string[]): void {
    this.prepare(next, fresh)()
  }

  /** replace() in two steps: what can fail, and what cannot. Nothing may take a handle in between. */
  prepare(next: BpfObject, fresh: readonly string[]): () => void {
    const others: [BpfMap, BpfMap][] = []
    for (const { name, map } of this.handles) {
      const handle = map.deref()
      if (handle && fresh.includes(name)) others.push([handle, next.map(name)])
    }
    return () => {
      for (const [handle, other] of others) {
        try {
          handle.become(other)
        } catch {
          // whoever had it has closed it: that alone can fail
          other.close()
        }
      }
      this.loaded.close()
      this.loaded = next
    }
  }

  close(): void {
    this.loaded.close()
  }

  /** close(), and nobody's handle holds a map any more. */
  drop(): void {
    for (const { map } of this.handles) map.deref()?.close()
    this.close()
  }
}
