// scripts/install where nothing is changed: into a folder, and --dry-run. What
// it does to a running node is in life.ts.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { exec, run } from '../lab/process.js'

const tree = fileURLToPath(new URL('../../../../', import.meta.url))
const install = (...words: string[]) => exec([`${tree}scripts/install`, ...words], { timeout: 60_000 })
const listing = (folder: string) => readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()

t.test('install --prefix makes a complete tree, and a second time there is nothing to do', async (t) => {
  const prefix = mkdtempSync(`${tmpdir()}/hostroute-install-`)
  t.teardown(() => rmSync(prefix, { recursive: true }))
  const first = await install('--prefix', prefix)
  t.equal(first.status, 0, first.stderr)
  const program = `${prefix}/usr/lib/hostroute`
  for (const main of ['cli/main.js', 'daemon/main.js']) {
    const version = await run([`${program}/bin/node`, `${program}/build/js/src/${main}`, '--version'])
    t.match(version, /^\d+\.\d+\.\d+\n$/, `${main} runs with the modules that were installed`)
  }
  const load = `import('${program}/build/js/src/daemon/node.js').then(({ Node }) => console.log(typeof Node))`
  t.equal(await run([`${program}/bin/node`, '-e', load]), 'function\n', 'the daemon has all it imports')
  t.notOk(existsSync(`${program}/node_modules/typescript`), 'nothing that only developers need')
  const config = `${prefix}/etc/hostroute/config.yaml`
  t.notMatch(readFileSync(config, 'utf8'), /^ *[^#\s]/m, 'every key of the configuration is commented out')
  const uncommented = readFileSync(config, 'utf8')
    .replace(/^#(?! )( *\w+:)/gm, '$1')
    .replace(/^#( {2,}\w+:)/gm, '$1')
  writeFileSync(config, uncommented)
  const check = [`${program}/bin/node`, `${program}/build/js/src/cli/main.js`, 'config', '--check', config]
  t.match(await run(check), /is fine/, 'with every # taken away it is a configuration')
  const again = await install('--prefix', prefix)
  t.match(
    again.stdout,
    /^\S+ is up to date\n\S+config\.yaml is there and stays as it is\nhostroute \S+ is installed\.\n$/
  )
  t.equal(readFileSync(config, 'utf8'), uncommented)
})

t.test('install --dry-run and wrong options change nothing', async (t) => {
  const prefix = mkdtempSync(`${tmpdir()}/hostroute-install-`)
  t.teardown(() => rmSync(prefix, { recursive: true }))
  const dry = await install('--dry-run', '--prefix', prefix)
  t.match(dry.stdout, /^would: put the program into .*\nNothing was done\.\n$/s)
  t.strictSame(listing(prefix), [])
  const wrong = await install('--frobnicate')
  t.equal(wrong.status, 64)
  t.match(wrong.stderr, /unknown option --frobnicate/)
})
