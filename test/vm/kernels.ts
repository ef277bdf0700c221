// The kernels that test machines can boot, and how each distribution offers
// them. A kernel package is downloaded and unpacked below .cache/vm/, never
// installed; it stays there until `scripts/vm --fetch` asks for a newer one.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export type KernelName = '6.1' | '6.8' | '6.12'

/** A kernel on disk: what `uname -r` says under it, and where its parts are. */
export interface Kernel {
  name: KernelName
  release: string
  vmlinuz: string
  /** Folder which holds lib/modules/<release>, for depmod and modprobe. */
  root: string
  /** lib/modules/<release> itself. */
  modules: string
}

interface KernelSource {
  name: KernelName
  /** Metapackage whose dependency is the current image package. */
  metapackage: string
  /** Packages to download, given the image package the metapackage names. */
  packages: (image: string) => string[]
  /** What to say when the repository does not offer it. */
  remedy: string
}

/** What differs between processor architectures. */
export interface Architecture {
  debian: string
  qemu: string
  machine: string[]
  /** Without what the emulator does slowly; not for exact counts. */
  processor: string
  console: string
}

const amd64: Architecture = {
  debian: 'amd64',
  qemu: 'qemu-system-x86_64',
  machine: ['-machine', 'pc'],
  // "rep movsb" byte by byte: the kernel would clear its pages so
  processor: 'max,erms=off,fsrm=off',
  console: 'ttyS0'
}

const arm64: Architecture = {
  debian: 'arm64',
  qemu: 'qemu-system-aarch64',
  machine: ['-machine', 'virt'],
  processor: 'max',
  console: 'ttyAMA0'
}

export const architecture: Architecture = process.arch === 'arm64' ? arm64 : amd64

const debianImage = (name: KernelName, remedy: string): KernelSource => ({
  name,
  metapackage: `linux-image-${architecture.debian}`,
  packages: (image) => [image],
  remedy
})

/** Kernels by the ID and VERSION_ID of /etc/os-release. */
const sources: Record<string, KernelSource[]> = {
  'debian 12': [
    debianImage('6.1', 'run apt-get update'),
    debianImage('6.12', 'scripts/setup adds the backports suite that offers it')
  ],
  'ubuntu 24.04': [
    {
      name: '6.8',
      metapackage: 'linux-image-generic',
      packages: (image) => [
        image.replace('linux-image-', 'linux-image-unsigned-'),
        image.replace('linux-image-', 'linux-modules-'),
        image.replace('linux-image-', 'linux-modules-extra-')
      ],
      remedy: 'run apt-get update'
    }
  ]
}

/** Top of the work tree, wherever this file was compiled to. */
export const treeRoot = findTreeRoot(dirname(fileURLToPath(import.meta.url)))

const cache = join(treeRoot, '.cache', 'vm')

function findTreeRoot(from: string): string {
  if (existsSync(join(from, 'package.json'))) return from
  if (from === '/') throw new Error('no package.json above the VM harness')
  return findTreeRoot(dirname(from))
}

function distribution(): string {
  const text = readFileSync('/etc/os-release', 'utf8')
  const value = (key: string) => new RegExp(`^${key}="?([^"\\n]*)`, 'm').exec(text)?.[1] ?? ''
  return `${value('ID')} ${value('VERSION_ID')}`
}

/** Names of the kernels this distribution offers, oldest first; empty when none is known. */
export function offeredKernels(): KernelName[] {
  return (sources[distribution()] ?? []).map((source) => source.name)
}

/**
 * The kernel, downloaded on first use (about 70 MB to fetch).
 * Throws when the distribution does not offer it or the download fails; the
 * cache is unchanged then. `fresh`: ask the repository for a newer one.
 */
export function fetchKernel(name: KernelName, fresh = false): Kernel {
  const folder = join(cache, name)
  if (existsSync(folder) && !fresh) return kernelIn(name, folder)
  const source = (sources[distribution()] ?? []).find((candidate) => candidate.name === name)
  if (!source) {
    const offered = offeredKernels().join(', ') || 'none'
    throw new Error(`no source of kernel ${name} for ${distribution()}: known here: ${offered}`)
  }
  const unpacked = download(source)
  rmSync(folder, { recursive: true, force: true })
  renameSync(unpacked, folder)
  return kernelIn(name, folder)
}

function download(source: KernelSource): string {
  const packages = source.packages(currentImage(source))
  const work = join(cache, `fetch-${source.name}-${process.pid}`)
  const unpacked = join(work, 'root')
  mkdirSync(unpacked, { recursive: true })
  try {
    execFileSync('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', ...packages], {
      cwd: work,
      stdio: 'pipe'
    })
    for (const file of readdirSync(work).filter((entry) => entry.endsWith('.deb'))) {
      execFileSync('dpkg', ['-x', join(work, file), unpacked])
      rmSync(join(work, file))
    }
    const kernel = kernelIn(source.name, work)
    execFileSync('depmod', ['-b', kernel.root, kernel.release])
    writeFileSync(join(work, 'packages'), `${packages.join('\n')}\n`)
    return work
  } catch (error) {
    rmSync(work, { recursive: true, force: true })
    throw new Error(`cannot fetch ${packages.join(' ')} for kernel ${source.name}`, { cause: error })
  }
}

function currentImage(source: KernelSource): string {
  const madison = execFileSync('apt-cache', ['madison', source.metapackage], { encoding: 'utf8' })
  // Newest first; each line is "package | version | repository".
  const version = madison
    .split('\n')
    .map((line) => line.split('|')[1]?.trim() ?? '')
    .find((candidate) => candidate.startsWith(`${source.name}.`))
  if (!version) throw new Error(`the package sources offer no ${source.metapackage} ${source.name}: ${source.remedy}`)
  const details = execFileSync('apt-cache', ['show', `${source.metapackage}=${version}`], { encoding: 'utf8' })
  const image = /^Depends:.*?\b(linux-image-\d[^\s,]*)/m.exec(details)?.[1]
  if (!image) throw new Error(`${source.metapackage} ${version} names no image package`)
  return image
}

function kernelIn(name: KernelName, folder: string): Kernel {
  const unpacked = join(folder, 'root')
  const boot = readdirSync(join(unpacked, 'boot')).find((file) => file.startsWith('vmlinuz-'))
  if (!boot) throw new Error(`no kernel image below ${unpacked}/boot: remove ${folder} and fetch it again`)
  const release = boot.slice('vmlinuz-'.length)
  const root = existsSync(join(unpacked, 'lib', 'modules')) ? unpacked : join(unpacked, 'usr')
  return { name, release, vmlinuz: join(unpacked, 'boot', boot), root, modules: join(root, 'lib', 'modules', release) }
}
