// A program that speaks netlink and setsockopt itself: does what its argument
// says, in order, and prints one result each. "ok", the errno's name when the
// call was refused, or "answer N" for the errno in the kernel's answer.

import { type NativeError, type NetfilterSocket, native } from '../../src/native.js'
import { parse } from '../../src/netfilter/nfnetlink.js'

export type Operation = {
  /** In a namespace of its own instead of the process's. */
  elsewhere?: boolean
  /** So often; the last result counts. */
  times?: number
} & ({ request: string } | { option: [level: number, name: number, value: string] })

const here = native().openNetfilter(false)
const operations = JSON.parse(process.argv[2] ?? '[]') as Operation[]
console.log(JSON.stringify(operations.map(run)))

function run(operation: Operation): string {
  const socket = operation.elsewhere ? native().openNetfilter(true) : here
  try {
    for (let left = operation.times ?? 1; left > 1; left--) attempt(operation, socket)
    return perform(operation, socket)
  } catch (error) {
    return (error as NativeError).code
  } finally {
    if (socket !== here) socket.close()
  }
}

function attempt(operation: Operation, socket: NetfilterSocket): void {
  try {
    perform(operation, socket)
  } catch {
    // refused
  }
}

function perform(operation: Operation, socket: NetfilterSocket): string {
  if ('option' in operation) {
    const [level, name, value] = operation.option
    socket.setOption(level, name, Buffer.from(value, 'hex'))
    return 'ok'
  }
  const failed = parse(socket.request(Buffer.from(operation.request, 'hex'))).find(({ error }) => error)
  return failed ? `answer ${failed.error}` : 'ok'
}
