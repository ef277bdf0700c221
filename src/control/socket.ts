// The control socket as a file: taken over from a dead daemon, never from a
// live one, and at no moment open to more people than it should be.

import { chmodSync, chownSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { connect, type Server } from 'node:net'
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
