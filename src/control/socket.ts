// The control socket as a file: taken over from a dead daemon, never from a
// live one, at no moment open to more people than it should be, and made anew when
// somebody has removed it.

import { chmodSync, chownSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { dirname } from 'node:path'

/**
 * Listens on the path. Mode 0660 when there is a group to give it to, else
 * 0600. Rejects when another daemon answers there, or something that is no
 * socket stands there; then nothing was changed.
 */
export async function listenOnSocket(server: Server, path: string, group: number | null): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
  await removeStale(path)
  // the socket is made within listen(): nobody but root can open it before chmod
  const umask = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, () => {
        server.off('error', reject)
        resolve()
      })
      process.umask(umask)
    })
  } finally {
    process.umask(umask)
  }
  if (group !== null) {
    chownSync(path, 0, group)
    chmodSync(path, 0o660)
  }
}

/**
 * Looks every `interval` milliseconds whether the path still leads to the socket that listens there, and if not makes
 * another that hands its connections to the server. What stands in its way, and that it was gone, is told. Returns how
 * to end that.
 */
export function keepSocket(
  server: Server,
  path: string,
  group: number | null,
  interval: number,
  tell: (text: string) => void
): () => void {
  let identity = identityOf(path)
  let told = ''
  let another: Server | null = null
  let busy = false
  const listenAgain = async () => {
    const next = createServer((socket) => server.emit('connection', socket))
    next.maxConnections = server.maxConnections
    await removeStale(path)
    // it would take the new one's name off
    another?.close()
    await listenOnSocket(next, path, group)
    next.on('error', (error) => tell(error.message))
    another = next
    identity = identityOf(path)
    tell(`${path} was removed or replaced: listening there again`)
  }
  const look = async () => {
    if (busy || (identity !== null && identityOf(path) === identity)) return
    busy = true
    try {
      await listenAgain()
      told = ''
    } catch (error) {
      const { message } = error as Error
      if (message !== told) tell(message)
      told = message
    } finally {
      busy = false
    }
  }
  const timer = setInterval(() => void look(), interval)
  timer.unref()
  return () => {
    clearInterval(timer)
    another?.close()
  }
}

function identityOf(path: string): string | null {
  try {
    const { dev, ino } = lstatSync(path, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return null
  }
}

async function removeStale(path: string): Promise<void> {
  const facts = lstatSync(path, { throwIfNoEntry: false })
  if (!facts) return
  if (!facts.isSocket())
    throw new Error(`${path} is there and is not a socket: remove it, or choose another path with --socket`)
  if (await somebodyAnswers(path))
    throw new Error(`another hostrouted answers on ${path}: stop it first, or choose another path with --socket`)
  unlinkSync(path)
}

function somebodyAnswers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false)
      // a full queue belongs to somebody alive
      else if (error.code === 'EAGAIN') resolve(true)
      else reject(error)
    })
  })
}
