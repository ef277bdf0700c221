// A pod that opens a new TCP connection and asks by a new UDP socket every few
// milliseconds, for as long as it runs: who notices that the flow tables are being
// replaced are those that begin just then.

import type { LabHost } from '../lab/host.js'
import type { Background } from '../lab/process.js'

export interface Dialled {
  made: number
  failed: string[]
  /** Milliseconds until the answer. */
  longest: number
}

const script = `
const net = require('node:net'), dgram = require('node:dgram')
const [address, every] = process.argv.slice(1)
const report = { made: 0, failed: [], longest: 0 }
let waiting = 0, over = false
const end = () => { if (over && waiting === 0) { console.log(JSON.stringify(report)); process.exit() } }
const ask = (what, begin) => {
  const began = performance.now()
  waiting++
  let done = false
  const finish = (error) => {
    if (done) return
    done = true
    waiting--
    report.made++
    if (error) report.failed.push(what + ': ' + error)
    else report.longest = Math.max(report.longest, performance.now() - began)
    end()
  }
  begin(finish)
  setTimeout(finish, 10_000, 'no answer').unref() // TCP asks again after 1, 3 and 7 s
}
const tcp = (finish) => {
  const socket = net.connect(7, address, () => socket.write('x'))
  socket.on('data', () => { finish(); socket.end() }).on('error', ({ code }) => finish(code))
}
const udp = (finish) => {
  const socket = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4')
  socket.on('message', () => { finish(); socket.close() }).on('error', ({ code }) => finish(code))
  socket.send('x', 7, address)
}
const timer = setInterval(() => { ask('tcp', tcp); ask('udp', udp) }, Number(every))
console.log('ready')
process.stdin.on('end', () => { clearInterval(timer); over = true; setTimeout(end, 0); setInterval(end, 100) }).resume()
`

export async function dial(host: LabHost, address: string, every = 4): Promise<{ finish(): Promise<Dialled> }> {
  const client: Background = host.start([process.execPath, '-e', script, address, `${every}`])
  await client.waitFor('ready')
  return {
    async finish() {
      client.child.stdin?.end()
      const { stdout } = await client.finished(15_000)
      return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Dialled
    }
  }
}
