// The journal of clsact filters: one that cannot be read is told, and kept.

import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import t from 'tap'
import {
  journalOf,
  journalProblem,
  readJournal,
  removeJournal,
  writeJournal
} from '../../src/datapath/clsact-journal.js'
import { removeLeftovers } from '../../src/datapath/leftovers.js'

t.test('what cannot be read is told, is not overwritten, and stays until somebody removes it', (t) => {
  const directory = t.testdir({})
  const path = journalOf(directory)
  t.equal(journalProblem(path), null, 'none is no problem')
  writeJournal(path, new Set([3, 4]))
  t.strictSame([...readJournal(path)], [3, 4])
  t.equal(journalProblem(path), null)

  for (const text of ['[3, 4', '', '{}', '[3, "4"]']) {
    writeFileSync(path, text)
    t.match(
      journalProblem(path),
      /filters of hostroute is not known: .*clsact\.json cannot be read.*tc filter del/,
      text
    )
    removeJournal(path)
    t.match(removeLeftovers(`${directory}/no-pins`, directory), [/is not known/])
    t.equal(readFileSync(path, 'utf8'), text, 'it stays')
  }
  writeJournal(path, new Set([5]))
  t.strictSame([...readJournal(path)], [5])
  t.equal(readFileSync(`${path}.damaged`, 'utf8'), '[3, "4"]')
  t.match(journalProblem(path), /clsact\.json\.damaged cannot be read/)

  mkdirSync(`${directory}/other`)
  const other = journalOf(`${directory}/other`)
  mkdirSync(other)
  t.match(journalProblem(other), /is not a regular file/)
  rmdirSync(other)
  t.equal(journalProblem(other), null)
  t.notOk(existsSync(other))
  t.end()
})
