// Whether what is pinned is what the programs use: a daemon that is killed leaves
// nothing else to the next one.

import { native } from '../../src/native.js'
import type { LabNode } from './node.js'
import { run } from './process.js'

interface Attached {
  devname: string
  name: string
  prog_id: number
}

/** Used by each program. */
const tables = ['flows4', 'flows6', 'reverse4', 'reverse6', 'routes4', 'counters']

/** Programs that use another map than the one pinned by its name, with that name; and changes of maps half done. */
export async function stalePins(node: LabNode): Promise<string[]> {
  const { pinDirectory } = node.daemon
  const ids = tables.map((name) => {
    const map = native().openPinnedMap(`${pinDirectory}/${name}`)
    const { id } = map.info
    map.close()
    return { name, id }
  })
  const [net] = JSON.parse(await node.run(['bpftool', '-j', 'net'])) as { tc: Attached[] }[]
  const programs = net?.tc.filter(({ name }) => /^from_(pod|uplink)$/.test(name)) ?? []
  if (programs.length === 0) return ['no program is attached']
  const stale: string[] = []
  for (const { devname, name: program, prog_id: id } of programs) {
    const text = await run(['bpftool', '-j', 'prog', 'show', 'id', `${id}`])
    const { map_ids: used } = JSON.parse(text) as { map_ids: number[] }
    for (const { name, id: pinned } of ids)
      if (!used.includes(pinned)) stale.push(`${program} on ${devname} uses another ${name}`)
  }
  return stale
}
