// curl against an HTTP server that answers only when all the connections are
// there: as many are open at a time.

import { OUTSIDE } from '../lab/addresses.js'
import { count, type Report } from './report.js'
import { onlyByHostroute, openLab } from './way.js'

const PORT = 8080
const BODY = 1_000_000

/** Holds the answers to /held/… until `wanted` of them are asked for; /body is a megabyte, /seen what it saw. */
const serving = (wanted: number) => `
  import { createServer } from 'node:http'
  let held = []
  const peers = new Set()
  const body = Buffer.alloc(${BODY}, 'hostroute ')
  const server = createServer((request, response) => {
    const { remoteAddress, remotePort } = request.socket
    if (request.url === '/body') return response.end(body)
    if (request.url === '/seen') return response.end(JSON.stringify([...peers]))
    peers.add(remoteAddress.replace('::ffff:', '') + ' ' + remotePort)
    held.push(response)
    if (held.length < ${wanted}) return
    for (const each of held) each.end('ok')
    held = []
  })
  server.listen({ port: ${PORT}, host: '::', backlog: 4096 }, () => console.log('ready'))`

export async function connections(report: Report, parallel: number): Promise<void> {
  const lab = await openLab(report, 'hostroute', { pods: 2 })
  const node = lab.node(0)
  for (const [family, outside] of Object.entries(OUTSIDE) as ['v4' | 'v6', string][]) {
    report.progress(`${parallel} connections, ${family}`)
    const server = lab.outside.start([process.execPath, '--input-type=module', '-e', serving(parallel)])
    report.teardown(() => server.stop('SIGKILL'))
    await server.waitFor('ready')
    const url = `http://${family === 'v4' ? outside : `[${outside}]`}:${PORT}`
    const body = await node.pod(0).run(['curl', '-sS', '-g', `${url}/body`], { timeout: 60_000 })
    report.check(body === 'hostroute '.repeat(BODY / 10), `${family}: a megabyte by curl, ${body.length} bytes`)

    // four of them: one curl has 300 at a time at most
    const each = parallel / 4
    const urls = Array.from({ length: each }, (_, at) => `url = "${url}/held/${at}"\noutput = "/dev/null"\n`).join('')
    const many = [
      ...['curl', '-sS', '-g', '--http1.1', '--parallel', '--parallel-immediate', '--parallel-max', `${each}`],
      ...['--max-time', '120', '-w', '%{http_code}\\n', '-K', '-']
    ]
    const asked = [0, 1, 0, 1].map((index) => node.pod(index).exec(many, { input: urls, timeout: 150_000 }))
    const outcomes = await Promise.all(asked)
    const errors = outcomes.map(({ stderr }) => stderr.trim()).filter(Boolean)
    const fine = outcomes.flatMap(({ stdout }) => stdout.split('\n')).filter((code) => code === '200').length
    report.check(
      fine === parallel,
      `${family}: ${fine} of ${parallel} answered${errors.map((each) => `; ${each}`).join('')}`
    )
    const seen = JSON.parse(await node.pod(0).run(['curl', '-sS', '-g', `${url}/seen`])) as string[]
    const ours = seen.filter((peer) => peer.startsWith(`${node.address[family]} `)).length
    report.check(seen.length === parallel && ours === parallel, `${family}: ${ours} sources of the node at the server`)
    report.figure(`IP${family}: ${count(fine)} of ${count(parallel)} connections open at a time and answered`)
    await server.stop('SIGKILL')
  }
  await onlyByHostroute(report, node)
}
