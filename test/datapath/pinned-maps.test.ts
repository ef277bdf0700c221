// Which pins the programs use, by what a change of maps has left.

import { join } from 'node:path'
import t from 'tap'
import { isUnfinished, pinsOf } from '../../src/datapath/pinned-maps.js'

t.test('the maps in use, in each state of a change of maps', async (t) => {
  const names = (directory: string) => pinsOf(directory, 'flows4').map((path) => path.slice(directory.length + 1))
  const states: [string, Parameters<typeof t.testdir>[0], string[], boolean][] = [
    ['none', { flows4: '' }, ['flows4'], false],
    ['the new maps are not whole', { flows4: '', 'next-part': { flows4: '' } }, ['flows4'], false],
    ['whole', { flows4: '', next: { flows4: '' } }, ['next/flows4', 'flows4'], true],
    ['whole, of other maps', { flows4: '', next: { devices: '' } }, ['flows4'], true],
    ['merged', { flows4: '', 'next-done': { flows4: '' } }, ['next-done/flows4'], true],
    ['merged, and in its place', { flows4: '', 'next-done': { devices: '' } }, ['flows4'], true]
  ]
  for (const [what, tree, wanted, unfinished] of states) {
    const directory = join(t.testdir({ [what]: tree ?? {} }), what)
    t.strictSame(names(directory), wanted, what)
    t.equal(isUnfinished(directory), unfinished, what)
  }
})
