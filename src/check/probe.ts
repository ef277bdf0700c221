// Run as a process of its own by kernel.ts, in a throw-away network namespace:
// does there what the daemon will do, and prints what came of it as JSON.
// Nothing is pinned; all is gone with the process.

import { execFileSync } from 'node:child_process'
import { hexAddress } from '../address.js'
import { type NativeError, native } from '../native.js'
import { openNeighbourRequests } from '../netlink/requests.js'
import { type ProbeResult, probeSizes } from './probe-result.js'

const LOOPBACK = 1
const priority = 50

async function probe(): Promise<ProbeResult> {
  const result: ProbeResult = { load: null, tcx: 'untried', clsact: 'untried', xdp: 'untried', managed: 'untried' }
  try {
    const object = native().loadObject({ sizes: probeSizes })
    result.tcx = attempt(() => object.attachTcx('from_pod', LOOPBACK))
    result.clsact = attempt(() => {
      object.attachClsact('from_pod', LOOPBACK, priority)
      native().detachClsact(LOOPBACK, priority)
    })
    result.xdp = attempt(() => object.attachXdp('uplink_filter', LOOPBACK, 'generic'))
    object.close()
  } catch (error) {
    result.load = reason(error)
  }
  result.managed = await tryManaged()
  return result
}

function attempt(action: () => unknown): string | null {
  try {
    action()
    return null
  } catch (error) {
    return reason(error)
  }
}

function reason(error: unknown): string {
  const { message, detail } = error as NativeError
  const last = detail?.trim().split('\n').slice(-3).join(' | ')
  return last && !message.includes(last) ? `${message} (${last})` : message
}

async function tryManaged(): Promise<string | null> {
  const device = 'hrprobe'
  try {
    execFileSync('ip', ['link', 'add', device, 'type', 'veth', 'peer', 'name', `${device}p`], { stdio: 'pipe' })
    for (const end of [device, `${device}p`]) execFileSync('ip', ['link', 'set', end, 'up'], { stdio: 'pipe' })
    // without any address the kernel takes every neighbour for one that needs no ARP
    execFileSync('ip', ['addr', 'add', '192.0.2.2/24', 'dev', device], { stdio: 'pipe' })
  } catch {
    return 'untried'
  }
  const [link] = JSON.parse(execFileSync('ip', ['-j', 'link', 'show', device], { encoding: 'utf8' })) as {
    ifindex: number
  }[]
  const requests = openNeighbourRequests()
  const neighbour = hexAddress('c0000201')
  try {
    await requests.setManaged(link?.ifindex ?? 0, neighbour, true)
    // older kernels ignore the flag: asked again, the entry must have it
    const again = await requests.setManaged(link?.ifindex ?? 0, neighbour, true)
    return again === 'unchanged' ? null : 'the kernel ignores the flag'
  } catch (error) {
    return (error as Error).message
  } finally {
    requests.close()
  }
}

process.stdout.write(JSON.stringify(await probe()))
