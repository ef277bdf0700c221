// A node made of a network namespace that is gone with the process that was
// started in it, and the check that runs there.

import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { CheckReport } from '../../src/check/report.js'

export const runner = fileURLToPath(new URL('./run-check.js', import.meta.url))

/** A node with one uplink and one pod. */
export const plainNode = `
ip link set lo up
ip link add up0 type veth peer name up0p
ip link set up0 up && ip link set up0p up
ip addr add 192.0.2.2/24 dev up0 && ip route add default via 192.0.2.1
ip link add pod0 type veth peer name eth0 netns $POD
ip link set pod0 up && nsenter --net=/proc/$POD/ns/net ip link set eth0 up
ip route add 10.1.0.2/32 dev pod0
echo 1 > /proc/sys/net/ipv4/ip_forward
`

export interface Options {
  config?: string
  path?: string
  policy?: string
}

/** Shell lines, then the check, all in a fresh namespace. `after` is printed behind the report. */
export function checkIn(setup: string, options: Options = {}, after = ''): { report: CheckReport; after: string } {
  const script = `set -e
unshare --net sleep 60 & POD=$!
trap "kill $POD" EXIT
until [ "$(readlink /proc/$POD/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
${setup}
"$NODE" "$RUNNER" "$OPTIONS"
${after}`
  const environment = { ...process.env, NODE: process.execPath, RUNNER: runner, OPTIONS: JSON.stringify(options) }
  const { status, stdout, stderr } = spawnSync('unshare', ['--net', 'sh', '-c', script], {
    encoding: 'utf8',
    env: environment,
    maxBuffer: 64 << 20
  })
  if (status !== 0) throw new Error(`the case exited with ${status}: ${stderr}`)
  const end = stdout.indexOf('\n')
  return { report: JSON.parse(stdout.slice(0, end)) as CheckReport, after: stdout.slice(end + 1) }
}

/** Codes that refuse; the BPF file system is the machine's affair. */
export const refusing = (report: CheckReport): string[] =>
  report.findings.filter(({ outcome, code }) => outcome === 'refuse' && code !== 'kernel-bpffs').map(({ code }) => code)
