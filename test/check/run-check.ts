// Runs the check in this process's network namespace and prints the report.
// Argument: JSON of {config, path, policy, pinDirectory}, all optional.

import { runChecks } from '../../src/check/check.js'
import { parsePolicy } from '../../src/check/policy.js'
import { parseConfig } from '../../src/config/config.js'

interface Wanted {
  config?: string
  path?: string
  policy?: string
  pinDirectory?: string
}

const wanted = JSON.parse(process.argv[2] ?? '{}') as Wanted
const report = await runChecks({
  config: parseConfig(wanted.config ?? '', 'config.yaml'),
  pinDirectory: wanted.pinDirectory ?? '/sys/fs/bpf/hostroute',
  ...(wanted.path === undefined ? {} : { path: wanted.path }),
  ...(wanted.policy === undefined ? {} : { policy: parsePolicy(wanted.policy, 'policy.yaml') })
})
process.stdout.write(`${JSON.stringify(report)}\n`)
