// A pod's container on the host network, as a guard sees it: a process in a
// cgroup of its own below one that kubelet makes, with its own copies of the
// tools. The process's name says nothing about it.

import { execFile } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Test } from 'tap'
import { enter } from '../lab/process.js'
import type { ToolResult } from './support.js'

/** A node: its network namespace and a directory that goes with it. */
export interface Host {
  /** Of the namespace. */
  readonly name: string
  readonly directory: string
  runWith(input: string, command: string, ...args: string[]): ToolResult
}

export class Container {
  readonly #node: Host
  readonly #cgroup: string

  /** hierarchy: a mount point; cgroup: path below it, made with all above it that is missing, and removed after the test. */
  constructor(t: Test, node: Host, hierarchy: string, cgroup: string) {
    this.#node = node
    this.#cgroup = join(hierarchy, cgroup)
    const made = missing(hierarchy, cgroup)
    mkdirSync(this.#cgroup, { recursive: true })
    t.teardown(() => {
      for (const path of made) removeIfEmpty(path)
    })
  }

  /** The path of this container's own copy. */
  tool(name: string): string {
    const own = join(this.#node.directory, `own-${name}`)
    if (!existsSync(own)) copyFileSync(name === 'sh' ? '/bin/sh' : `/usr/sbin/${name}`, own)
    return own
  }

  run(input: string, tool: string, ...args: string[]): ToolResult {
    return this.#node.runWith(input, 'sh', '-c', this.#line(), this.tool(tool), ...args)
  }

  /** Resolves with its output when it has ended. */
  async start(tool: string, ...args: string[]): Promise<string> {
    const [file = '', ...rest] = enter(this.#node.name, ['sh', '-c', this.#line(), this.tool(tool), ...args])
    const { stdout, stderr } = await promisify(execFile)(file, rest)
    return stdout + stderr
  }

  #line(): string {
    return `echo $$ > "${this.#cgroup}/cgroup.procs" && exec "$0" "$@"`
  }
}

/** From the innermost out. */
function missing(hierarchy: string, cgroup: string): string[] {
  const made: string[] = []
  for (let path = cgroup; path !== '/' && path !== ''; path = path.slice(0, path.lastIndexOf('/')))
    if (!existsSync(join(hierarchy, path))) made.push(join(hierarchy, path))
  return made
}

/** Another test's container may be in it by now. */
function removeIfEmpty(path: string): void {
  try {
    rmdirSync(path)
  } catch (error) {
    if (!['EBUSY', 'ENOTEMPTY', 'ENOENT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
  }
}
