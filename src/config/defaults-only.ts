// No file of ip-masq-agent was found, so its defaults apply. That is right on a
// node without an agent; on a node that has one it has to be told.

import { type AgentSettings, findAgentPods, findAgentProcesses, PodNames } from './agent.js'

/** Only the defaults apply, although an agent runs here. */
export interface DefaultsOnly {
  text: string
  /** false: the agent itself has no file, either. */
  doubtful: boolean
}

/** null: no agent runs here. */
export function defaultsBesideAgent(settings: AgentSettings): DefaultsOnly | null {
  const pods = findAgentPods(settings, new PodNames(settings))
  const head = 'only the defaults of ip-masq-agent apply, because no file was found'
  const withFile = pods.find(({ files }) => files.length > 0)
  if (withFile)
    return {
      text: `${head}, but its pod ${withFile.label} has ${withFile.files[0]}; set snat.masqueradeFiles to auto, or name the file there`,
      doubtful: true
    }
  const [pod] = pods
  if (pod)
    return {
      text: `${head}: the agent's pod ${pod.label} has none in its volumes, so the agent applies its defaults, too`,
      doubtful: false
    }
  const [pid] = findAgentProcesses()
  if (pid === undefined) return null
  return {
    text: `${head}, but the agent runs here (process ${pid}); set snat.agent.kubeletDirectory and snat.agent.namespaces so that its pod is found, or name its file in snat.masqueradeFiles`,
    doubtful: true
  }
}
