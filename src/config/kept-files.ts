// What files in pods' volumes said, and the flags that agents ran with, kept over
// a restart of the daemon: while the agent's pod is being replaced there is
// nothing to read, and the defaults would apply instead.
//
// The file is a convenience. Whatever is wrong with it, there is nothing kept.

import * as v from 'valibot'
import { readOwnFile } from '../read-file.js'
import { replaceFile } from '../replace-file.js'
import type { Place } from './masquerade-places.js'

export interface KeptFile {
  place: Place
  text: string
}

export interface KeptAgent {
  pod: string
  owner: string
  /** Of its command line. */
  words: string[]
}

export interface Kept {
  files: KeptFile[]
  agents: KeptAgent[]
}

const file = v.object({
  path: v.string(),
  label: v.string(),
  owner: v.string(),
  volume: v.string(),
  text: v.string()
})
const agent = v.object({ pod: v.string(), owner: v.string(), words: v.array(v.string()) })
const contents = v.object({ files: v.array(file), agents: v.array(agent) })

export class KeptFiles {
  private written: string | null = null

  /** path: absent: nothing is kept. */
  constructor(private readonly path: string | undefined) {}

  read(): Kept {
    if (this.path === undefined) return { files: [], agents: [] }
    try {
      const { files, agents } = v.parse(contents, JSON.parse(readOwnFile(this.path)))
      return {
        files: files.map(({ path, label, owner, volume, text }) => ({
          place: { path, named: false, pod: { label, owner, volume } },
          text
        })),
        agents
      }
    } catch {
      return { files: [], agents: [] }
    }
  }

  /** Throws what writing a file throws. */
  write({ files, agents }: Kept): void {
    if (this.path === undefined) return
    const rows = files.map(({ place: { path, pod }, text }) => ({ path, ...pod, text }))
    const json = JSON.stringify({ files: rows, agents })
    if (json === this.written || (this.written === null && rows.length + agents.length === 0 && this.isEmpty())) return
    replaceFile(this.path, json)
    this.written = json
  }

  private isEmpty(): boolean {
    const { files, agents } = this.read()
    return files.length + agents.length === 0
  }
}
