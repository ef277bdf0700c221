// Delta debugging (Zeller's ddmin): the smallest list that still fails, in the
// sense that leaving out any one more element makes it pass.

export async function shrink<T>(
  list: readonly T[],
  fails: (part: readonly T[]) => Promise<boolean>,
  /** performance.now() after which the best list so far is taken. */
  deadline: number
): Promise<T[]> {
  let best = [...list]
  let parts = 2
  while (best.length > 1 && performance.now() < deadline) {
    const size = Math.ceil(best.length / parts)
    let smaller: T[] | null = null
    for (let at = 0; at < best.length && performance.now() < deadline; at += size) {
      const rest = [...best.slice(0, at), ...best.slice(at + size)]
      if (await fails(rest)) {
        smaller = rest
        break
      }
    }
    if (smaller) {
      best = smaller
      parts = Math.max(2, parts - 1)
    } else if (size === 1) break
    else parts = Math.min(best.length, parts * 2)
  }
  return best
}
