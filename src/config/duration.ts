// Durations as people and Go programs write them: "90s", "2h4m", "1.5h", "500ms".

const milliseconds: Record<string, number> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  μs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000
}

/** Go's time.ParseDuration. Milliseconds, may be negative or a fraction; null if it is not a duration. */
export function parseDuration(text: string): number | null {
  const match = /^([-+]?)(.+)$/s.exec(text)
  if (!match) return null
  const rest = match[2] ?? ''
  if (rest === '0') return 0
  if (!/^((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$/.test(rest)) return null
  let sum = 0
  for (const part of rest.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g)) {
    sum += Number(part[1]) * (milliseconds[part[2] ?? ''] ?? 0)
  }
  return match[1] === '-' ? -sum : sum
}

/** 7440000 -> "2h4m", 500 -> "500ms". Whole milliseconds, not negative. */
export function formatDuration(duration: number): string {
  if (duration === 0) return '0s'
  if (duration < 1000) return `${duration}ms`
  const seconds = (duration % 60_000) / 1000
  const minutes = Math.floor(duration / 60_000) % 60
  const hours = Math.floor(duration / 3_600_000)
  return [hours && `${hours}h`, minutes && `${minutes}m`, seconds && `${seconds}s`].filter(Boolean).join('')
}
