// How the command writes: tables, units, colours. Everything here is pure.

const visible = {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are escape sequences
  escapes: /\x1b\[[0-9;]*m/g
}

export interface Paint {
  bold(text: string): string
  dim(text: string): string
  good(text: string): string
  warn(text: string): string
  bad(text: string): string
}

const codes = { bold: '1', dim: '2', good: '32', warn: '33', bad: '31' } as const

export function painter(coloured: boolean): Paint {
  const wrap = (code: string) => (text: string) => (coloured && text !== '' ? `\x1b[${code}m${text}\x1b[0m` : text)
  return {
    bold: wrap(codes.bold),
    dim: wrap(codes.dim),
    good: wrap(codes.good),
    warn: wrap(codes.warn),
    bad: wrap(codes.bad)
  }
}

export interface Column {
  title: string
  /** Numbers stand to the right. */
  right?: boolean
}

/** Aligned columns with two blanks between, titles dim. Lines have no trailing blanks. */
export function table(paint: Paint, columns: Column[], rows: string[][], indent = ''): string {
  return new TableWriter(paint, columns, indent).write(rows)
}

/** A table that is written in parts: a column that has to be wider in a later one is so from there on. */
export class TableWriter {
  private readonly widths: number[]
  private begun = false

  constructor(
    private readonly paint: Paint,
    private readonly columns: Column[],
    private readonly indent = ''
  ) {
    this.widths = columns.map(({ title }) => title.length)
  }

  /** The titles, once, and these rows; without a line break at the end. */
  write(rows: string[][]): string {
    for (const row of rows) row.forEach((cell, index) => this.widen(index, width(cell)))
    const lines = rows.map((row) => this.line(row))
    if (!this.begun) lines.unshift(this.titles())
    this.begun = true
    return lines.join('\n')
  }

  private widen(index: number, to: number): void {
    this.widths[index] = Math.max(this.widths[index] ?? 0, to)
  }

  private titles(): string {
    return this.line(
      this.columns.map(({ title, right }, index) => this.paint.dim(pad(title, this.widths[index] ?? 0, right ?? false)))
    )
  }

  private line(cells: string[]): string {
    const padded = cells.map((cell, index) => pad(cell, this.widths[index] ?? 0, this.columns[index]?.right ?? false))
    return (this.indent + padded.join('  ')).trimEnd()
  }
}

/** "Title" over indented lines. */
export function section(paint: Paint, title: string, body: string): string {
  return `${paint.bold(title)}\n${body}`
}

/** Label and value, labels in one column. */
export function facts(paint: Paint, rows: [label: string, value: string][], indent = '  '): string {
  const widest = Math.max(...rows.map(([label]) => label.length))
  return rows.map(([label, value]) => `${indent}${paint.dim(label.padEnd(widest))}  ${value}`).join('\n')
}

/** 1048576 -> "1,048,576" */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** 1536 -> "1.5 KiB" */
export function bytes(value: number): string {
  return scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'])
}

/** Bytes a second as bits a second: 125000 -> "1.0 Mbit/s" */
export function bitRate(bytesPerSecond: number): string {
  return scaled(bytesPerSecond * 8, 1000, ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s'])
}

/** Packets a second: 1234.5 -> "1,235/s", 0.25 -> "0.3/s", 0 -> "-" */
export function rate(perSecond: number): string {
  if (perSecond === 0) return '-'
  return perSecond < 10 ? `${Math.max(perSecond, 0.1).toFixed(1)}/s` : `${count(perSecond)}/s`
}

/** Seconds: 7440 -> "2 h 4 min", 45 -> "45 s", 0.25 -> "250 ms" */
export function span(seconds: number): string {
  if (seconds < 0) return span(-seconds)
  if (seconds === 0) return '0 s'
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))} ms`
  const whole = Math.floor(seconds)
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return pair(Math.floor(whole / 60), 'min', whole % 60, 's')
  if (whole < 86400) return pair(Math.floor(whole / 3600), 'h', Math.floor((whole % 3600) / 60), 'min')
  return pair(Math.floor(whole / 86400), 'd', Math.floor((whole % 86400) / 3600), 'h')
}

/** "2 pods", "1 pod" */
export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`
}

/** How long ago, or until, an ISO time is. */
export function since(time: string, now: number): string {
  return `${span((now - Date.parse(time)) / 1000)} ago`
}

/** IPv6 in brackets where a port follows. */
export function endpoint(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}

function pair(first: number, firstUnit: string, second: number, secondUnit: string): string {
  return second === 0 ? `${first} ${firstUnit}` : `${first} ${firstUnit} ${second} ${secondUnit}`
}

function scaled(value: number, base: number, units: string[]): string {
  let rest = value
  let unit = 0
  while (rest >= base && unit < units.length - 1) {
    rest /= base
    unit++
  }
  return unit === 0 ? `${Math.round(rest)} ${units[0]}` : `${rest.toFixed(rest < 100 ? 1 : 0)} ${units[unit]}`
}

function width(cell: string): number {
  return cell.replace(visible.escapes, '').length
}

function pad(cell: string, to: number, right: boolean): string {
  const blanks = ' '.repeat(Math.max(0, to - width(cell)))
  return right ? blanks + cell : cell + blanks
}
