// kubelet's directories on a node, as far as volumes and logs of pods go.

import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import type { AgentSettings } from '../../src/config/agent.js'

/** Where the volumes of the agents are, below a pod's volumes. */
export const upstream = 'kubernetes.io~configmap/config'
export const azures = 'kubernetes.io~projected/azure-ip-masq-agent-config-volume'

/** A node's directories, and what kubelet does in them. */
export class Kubelet {
  readonly root = mkdtempSync(join(tmpdir(), 'hr-kubelet-'))
  readonly settings: AgentSettings

  constructor(t: Pick<Test, 'teardown'>, { logs = true } = {}) {
    t.teardown(() => rmSync(this.root, { recursive: true, force: true }))
    this.settings = {
      namespaces: ['kube-system'],
      kubeletDirectory: join(this.root, 'kubelet'),
      podLogsDirectory: join(this.root, 'logs')
    }
    mkdirSync(join(this.root, 'kubelet/pods'), { recursive: true })
    if (logs) mkdirSync(this.settings.podLogsDirectory)
  }

  directory(uid: string): string {
    return join(this.root, 'kubelet/pods', uid)
  }

  file(uid: string, volume: string, name = 'ip-masq-agent'): string {
    return join(this.directory(uid), 'volumes', volume, name)
  }

  /** Volumes first, then the sandbox with its logs, then the container. */
  pod(uid: string, name: string, volume: string, files: Record<string, string>, namespace = 'kube-system'): void {
    mkdirSync(join(this.directory(uid), 'volumes', volume), { recursive: true })
    this.write(uid, volume, files)
    this.start(uid, name, namespace)
  }

  start(uid: string, name: string, namespace = 'kube-system'): void {
    mkdirSync(join(this.settings.podLogsDirectory, `${namespace}_${name}_${uid}`))
    mkdirSync(join(this.directory(uid), 'containers', name.replace(/-[a-z0-9]{5}$/, '')), { recursive: true })
  }

  /** As the atomic writer does: a directory of its own, then ..data is renamed over. */
  write(uid: string, volume: string, files: Record<string, string>): void {
    const root = dirname(this.file(uid, volume))
    const stamp = `..2026_${Math.random().toString(36).slice(2)}`
    mkdirSync(join(root, stamp))
    for (const [name, text] of Object.entries(files)) {
      writeFileSync(join(root, stamp, name), text)
      rmSync(join(root, name), { force: true })
    }
    symlinkSync(stamp, join(root, '..data_tmp'))
    renameSync(join(root, '..data_tmp'), join(root, '..data'))
    for (const name of Object.keys(files)) symlinkSync(join('..data', name), join(root, name))
  }

  end(uid: string): void {
    rmSync(this.directory(uid), { recursive: true })
  }
}
