// Equality of facts: plain objects, arrays and scalars, compared by content.

type Fact = Record<string, unknown>

/** Same fields with the same contents. */
export function sameFact(a: unknown, b: unknown): boolean {
  if (a === b) return true
  if (Array.isArray(a))
    return Array.isArray(b) && a.length === b.length && a.every((item, index) => sameFact(item, b[index]))
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false
  for (const key in a) if (!sameFact((a as Fact)[key], (b as Fact)[key])) return false
  return true
}
