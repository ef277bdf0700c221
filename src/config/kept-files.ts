// What files in pods' volumes said, kept over a restart of the daemon: while the
// agent's pod is being replaced there is nothing to read, and the defaults would
// apply instead.
//
// The file is a convenience. Whatever is wrong with it, there is nothing kept.

import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import * as v from 'valibot'
import type { Place } from './masquerade-places.js'

export interface KeptFile {
  place: Place
  text: string
}

const entry = v.object({
  path: v.string(),
  label: v.string(),
  owner: v.string(),
  volume: v.string(),
  text: v.string()
})

export class KeptFiles {
  private written: string | null = null

  /** path: absent: nothing is kept. */
  constructor(private readonly path: string | undefined) {}

  read(): KeptFile[] {
    if (this.path === undefined) return []
    try {
      const entries = v.parse(v.array(entry), JSON.parse(readFileSync(this.path, 'utf8')))
      return entries.map(({ path, label, owner, volume, text }) => ({
        place: { path, named: false, pod: { label, owner, volume } },
        text
      }))
    } catch {
      return []
    }
  }

  /** Throws what writing a file throws. */
  write(files: readonly KeptFile[]): void {
    if (this.path === undefined) return
    const rows = files.map(({ place: { path, pod }, text }) => ({ path, ...pod, text }))
    const json = JSON.stringify(rows)
    if (json === this.written || (this.written === null && rows.length === 0 && this.read().length === 0)) return
    writeFileSync(`${this.path}.new`, json, { mode: 0o600 })
    renameSync(`${this.path}.new`, this.path)
    this.written = json
  }
}
