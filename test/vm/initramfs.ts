// The initramfs of a test machine: a static busybox, the modules that are
// needed to mount the host's root, and init.sh. Built in memory as a cpio
// archive (newc format) and kept beside the kernel.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type Kernel, treeRoot } from './kernels.js'

const neededModules = ['virtio_pci', '9pnet_virtio', '9p', 'overlay']

const unpackers: Record<string, string> = { '.xz': 'xz', '.zst': 'zstd', '.gz': 'gzip' }

interface Entry {
  path: string
  mode: number
  content: Buffer
}

/** Path of the kernel's initramfs, built when it is missing or init.sh has changed. */
export function initramfsOf(kernel: Kernel): string {
  const init = readFileSync(join(treeRoot, 'test', 'vm', 'init.sh'))
  const busybox = readFileSync(staticBusybox())
  const key = createHash('sha256').update(init).update(busybox).digest('hex').slice(0, 12)
  const path = join(kernel.root, '..', `initramfs-${key}.cpio`)
  if (!existsSync(path)) {
    writeFileSync(`${path}.${process.pid}`, build(kernel, init, busybox))
    renameSync(`${path}.${process.pid}`, path)
  }
  return path
}

function staticBusybox(): string {
  const path = ['/usr/bin/busybox', '/bin/busybox'].find((candidate) => existsSync(candidate))
  if (!path) throw new Error('no busybox: install the package busybox-static')
  if (needsInterpreter(readFileSync(path))) {
    throw new Error(`${path} is dynamically linked: install the package busybox-static`)
  }
  return path
}

/** Whether a 64-bit ELF program has a program header of type PT_INTERP. */
function needsInterpreter(elf: Buffer): boolean {
  const start = Number(elf.readBigUInt64LE(32))
  const size = elf.readUInt16LE(54)
  const count = elf.readUInt16LE(56)
  return Array.from({ length: count }, (_, index) => elf.readUInt32LE(start + index * size)).includes(3)
}

function build(kernel: Kernel, init: Buffer, busybox: Buffer): Buffer {
  const entries: Entry[] = [
    { path: 'bin', mode: 0o040755, content: Buffer.alloc(0) },
    { path: 'bin/busybox', mode: 0o100755, content: busybox },
    { path: 'init', mode: 0o100755, content: init },
    { path: 'modules', mode: 0o040755, content: Buffer.alloc(0) }
  ]
  moduleFiles(kernel).forEach((file, index) => {
    const { name, content } = unpackedModule(file)
    entries.push({ path: `modules/${String(index).padStart(2, '0')}-${name}`, mode: 0o100644, content })
  })
  return cpio(entries)
}

/** Files of the needed modules and of what they depend on, in the order to load them. */
function moduleFiles(kernel: Kernel): string[] {
  const files = new Set<string>()
  for (const module of neededModules) {
    const plan = execFileSync('modprobe', ['-d', kernel.root, '-S', kernel.release, '--show-depends', module], {
      encoding: 'utf8'
    })
    for (const [, file] of plan.matchAll(/^insmod (\S+)/gm)) if (file) files.add(file)
  }
  return [...files]
}

function unpackedModule(file: string): { name: string; content: Buffer } {
  const suffix = Object.keys(unpackers).find((candidate) => file.endsWith(candidate))
  if (!suffix) return { name: basename(file), content: readFileSync(file) }
  const unpacker = unpackers[suffix] ?? 'cat'
  const content = execFileSync(unpacker, ['-dc', file], { maxBuffer: 64 << 20 })
  return { name: basename(file, suffix), content }
}

function cpio(entries: Entry[]): Buffer {
  const trailer: Entry = { path: 'TRAILER!!!', mode: 0, content: Buffer.alloc(0) }
  return Buffer.concat([...entries, trailer].flatMap((entry, index) => record(entry, index + 1)))
}

function record({ path, mode, content }: Entry, inode: number): Buffer[] {
  const name = Buffer.from(`${path}\0`)
  // ino, mode, uid, gid, nlink, mtime, filesize, dev major/minor, rdev major/minor, namesize, check
  const fields = [inode, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0]
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`
  const head = Buffer.concat([Buffer.from(header), name])
  return [head, padding(head.length), content, padding(content.length)]
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4)
}
