// Patterns for device and file names: * any characters, ? one, [a-z] one of
// these, [!a-z] none of these. Everything else stands for itself.

/** The whole name matches. A bracket that is not closed stands for itself. */
export function matchesGlob(pattern: string, name: string): boolean {
  return globExpression(pattern).test(name)
}

export function isGlob(pattern: string): boolean {
  return /[*?[]/.test(pattern)
}

const compiled = new Map<string, RegExp>()

function globExpression(pattern: string): RegExp {
  let expression = compiled.get(pattern)
  if (!expression) {
    expression = new RegExp(`^${translate(pattern)}$`, 's')
    if (compiled.size > 1000) compiled.clear()
    compiled.set(pattern, expression)
  }
  return expression
}

function translate(pattern: string): string {
  return pattern.replace(/\[!?[^\]]+\]|[\s\S]/g, (part) => {
    if (part === '*') return '.*'
    if (part === '?') return '.'
    if (part.length === 1) return part.replace(/[\\^$.|+()[\]{}]/, '\\$&')
    const negated = part.startsWith('[!')
    const members = part.slice(negated ? 2 : 1, -1).replace(/[\\^[\]]/g, '\\$&')
    // "z-a" is no range a regular expression takes
    const safe = /(.)-(.)/.exec(members)
    return safe && (safe[1] ?? '') > (safe[2] ?? '')
      ? members.replace(/[\\^$.|+()[\]{}]/g, '\\$&')
      : `[${negated ? '^' : ''}${members}]`
  })
}
