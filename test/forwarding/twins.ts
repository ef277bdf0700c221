// Two sockets with one source port that send to one remote in the same moment,
// each from a thread of its own: `twins ADDRESS PORT FIRST COUNT`. Each source
// port from FIRST on is used once; the payload is its number.

import { createSocket } from 'node:dgram'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

interface Work {
  address: string
  port: number
  first: number
  count: number
  /** How many have arrived at each round's barrier. */
  barrier: Int32Array
}

async function send({ address, port, first, count, barrier }: Work): Promise<void> {
  const sockets = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const socket = createSocket({ type: address.includes(':') ? 'udp6' : 'udp4', reuseAddr: true })
      await new Promise<void>((resolve) => socket.bind(first + index, () => resolve()))
      await new Promise<void>((resolve) => socket.connect(port, address, () => resolve()))
      return socket
    })
  )
  for (const [index, socket] of sockets.entries()) {
    Atomics.add(barrier, index, 1)
    while (Atomics.load(barrier, index) < 2); // spins: both leave it in the same moment
    await new Promise<void>((resolve) => socket.send(`${first + index}`, () => resolve()))
    await new Promise((resolve) => setTimeout(resolve, 3)) // a capture's ring is small
  }
  for (const socket of sockets) socket.close()
}

if (isMainThread) {
  const [address = '', port = '', first = '', count = ''] = process.argv.slice(2)
  const barrier = new Int32Array(new SharedArrayBuffer(4 * Number(count)))
  const work: Work = { address, port: Number(port), first: Number(first), count: Number(count), barrier }
  for (let twin = 0; twin < 2; twin++) new Worker(fileURLToPath(import.meta.url), { workerData: work })
} else {
  await send(workerData as Work)
  parentPort?.close()
}
