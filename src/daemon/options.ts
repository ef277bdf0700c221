// Where hostrouted keeps what it has when its options do not say otherwise, and the
// options that name other places, as they are typed.

export interface Paths {
  /** The configuration's file. */
  config: string
  runDirectory: string
  stateDirectory: string
  pinDirectory: string
}

export const defaultPaths: Readonly<Paths> = {
  config: '/etc/hostroute/config.yaml',
  runDirectory: '/run/hostroute',
  stateDirectory: '/var/lib/hostroute',
  pinDirectory: '/sys/fs/bpf/hostroute'
}

const names = [
  ['config', '--config'],
  ['runDirectory', '--run-directory'],
  ['stateDirectory', '--state-directory'],
  ['pinDirectory', '--pin-directory']
] as const

/** `hostrouted` with these options, for a shell; what is the default is left out. */
export function commandLine(options: readonly string[], paths: Paths): string {
  const places = names.flatMap(([name, option]) =>
    paths[name] === defaultPaths[name] ? [] : [option, quoted(paths[name])]
  )
  return ['hostrouted', ...options, ...places].join(' ')
}

function quoted(word: string): string {
  return /^[\w/.,:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`
}
