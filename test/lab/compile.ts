// Small C programs of the tests, compiled when they are out of date.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../../../', import.meta.url))

/**
 * Compiles `source` (from the top of the tree) unless its program is newer than it and than the headers beside it;
 * the program's path. Throws with the compiler's words.
 */
export function compile(source: string): string {
  const program = `${root}build/${basename(dirname(source))}/${basename(source, '.c')}`
  const folder = dirname(root + source)
  const headers = readdirSync(folder).filter((name) => name.endsWith('.h'))
  const sources = [root + source, ...headers.map((name) => `${folder}/${name}`)]
  const newest = Math.max(...sources.map((each) => statSync(each).mtimeMs))
  if (existsSync(program) && statSync(program).mtimeMs >= newest) return program
  mkdirSync(dirname(program), { recursive: true })
  const part = `${program}.${process.pid}`
  execFileSync(process.env['CC'] ?? 'cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', part, root + source], {
    stdio: ['ignore', 'ignore', 'inherit']
  })
  renameSync(part, program)
  return program
}
