// Small C programs of the tests, compiled when they are out of date.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../../../', import.meta.url))

/**
 * Compiles `source` (from the top of the tree) unless its program is newer than it and than a header of the same name;
 * the program's path. Throws with the compiler's words.
 */
export function compile(source: string): string {
  const program = `${root}build/${basename(dirname(source))}/${basename(source, '.c')}`
  const sources = [source, source.replace(/c$/, 'h')].map((each) => root + each).filter((each) => existsSync(each))
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
