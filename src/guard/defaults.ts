// Who may write without being configured: the parts of a Kubernetes node whose
// rules the node depends on. Known by unit and cgroup, never by process name.
//
// CNI plugins (portmap, firewall) run in the container runtime's cgroup.
// Containers of pods are below the directory that kubelet makes for pods; a pod
// can only write here when it is on the host network, like kube-proxy.

import type { Subject } from './exemptions.js'

const units = [
  'kubelet.service',
  'kube-proxy.service',
  'containerd.service',
  'crio.service',
  'cri-docker.service',
  'docker.service',
  'k3s.service',
  'k3s-agent.service',
  'rke2-server.service',
  'rke2-agent.service',
  'k0scontroller.service',
  'k0sworker.service',
  'snap.microk8s.daemon-kubelite.service',
  'snap.microk8s.daemon-containerd.service'
]

/** As kubelet's drivers systemd and cgroupfs name it; the second pair with a --cgroup-root, as in kind. */
const podCgroups = ['/kubepods.slice', '/kubepods', '/kubelet.slice/kubelet-kubepods.slice', '/kubelet/kubepods']

export const defaultExemptions: Subject[] = [
  ...units.map((name): Subject => ({ kind: 'unit', name })),
  ...podCgroups.map((name): Subject => ({ kind: 'cgroup', name }))
]
