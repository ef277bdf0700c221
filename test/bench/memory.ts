// What flows through SNAT cost in memory: opens many through the programs and reads what the kernel says their maps
// take, before and after (since Linux 6.4 it counts entries). Prints JSON: bytes for a flow, and what an empty map takes
// for each entry that it has room for, by map.
//
//   node build/js/test/bench/memory.js [FLOWS]

import '../bpf/namespace.js'
import { execFileSync } from 'node:child_process'
import { devices, testNode, to } from '../bpf/node.js'
import { ethernet, ip, udp } from '../packets/packet.js'

const flows = Number(process.argv[2] ?? 50_000)
// so that the table's buckets, a power of two, are as many
const size = 2 ** Math.ceil(Math.log2(2 * flows))
const node = testNode({ sizes: { flows4: size, flows6: size, reverse4: size, reverse6: size } })
node.setControl({ flowLimit: size })

/** Bytes of the map. */
function counted(name: string): number {
  const output = execFileSync('bpftool', ['-j', 'map', 'show', 'id', String(node.map(name).info.id)], {
    encoding: 'utf8'
  })
  return (JSON.parse(output) as { bytes_memlock: number }).bytes_memlock
}

function open(family: 4 | 6, count: number): void {
  const source = devices.a[`v${family}`]
  const macs = { source: devices.a.podMac, destination: devices.a.mac }
  const ifindex = node.ifindexOf('a')
  for (let number = 0; number < count; number++) {
    const content = udp(
      { sourcePort: 1024 + Math.floor(number / 1000), destinationPort: 1 + (number % 1000) },
      Buffer.alloc(8)
    )
    const data = ethernet(macs, ip({ source, destination: to.external[family] }, content))
    node.object.testRun('from_pod', { data, ifindex, repeat: 1 })
  }
}

const report: Record<string, number> = { flows }
for (const family of [4, 6] as const) {
  const names = [`flows${family}`, `reverse${family}`]
  const before = names.map(counted)
  open(family, flows)
  const made = node.map(`flows${family}`).dump().count
  if (made !== flows) throw new Error(`${made} of ${flows} flows have an entry`)
  names.forEach((name, at) => {
    report[name] = (counted(name) - (before[at] ?? 0)) / made
    report[`${name} empty`] = Math.round((before[at] ?? 0) / size)
  })
}
console.log(JSON.stringify(report))
node.close()
