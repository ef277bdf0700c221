// The figures as an SVG: bars, readable on light and dark ground. Instructions
// over the bare pair when the exact clock was used, else nanoseconds.

import { type Report, WAYS } from './figures.js'

const COLOURS = {
  floor: '#a9c7bb',
  hostroute: '#1a7f5a',
  kernel: '#8a8f98',
  legacy: '#b3541e',
  services: '#7a6a9c',
  'services+hostroute': '#1a7f5a'
} as const
const [LEFT, WIDTH, BAR, GAP] = [330, 790, 20, 8]

/** Throws when the report holds no traffic. */
export function drawPicture({ about, wall, exact }: Report): string {
  const measured = exact ?? wall
  const bare = measured?.traffic['bare']?.tcp
  if (!measured || bare === undefined) throw new Error('there are no figures to draw')
  const rows = Object.entries(WAYS).flatMap(([way, name]) => {
    const value = measured.traffic[way]?.tcp
    return way === 'bare' || value === undefined ? [] : [{ way, name, value: value - bare }]
  })
  const scale = (WIDTH - LEFT - 90) / Math.max(...rows.map(({ value }) => value))
  const height = 66 + rows.length * (BAR + GAP)
  const unit = exact ? 'instructions' : 'ns'
  const bars = rows.map(({ way, name, value }, index) => {
    const y = 50 + index * (BAR + GAP)
    const colour = COLOURS[way.split(' ')[0] as keyof typeof COLOURS]
    const width = Math.max(1, value * scale).toFixed(1)
    return `  <text x="${LEFT - 10}" y="${y + 15}" text-anchor="end">${name}</text>
  <rect x="${LEFT}" y="${y}" width="${width}" height="${BAR}" rx="2" fill="${colour}"/>
  <text x="${(LEFT + Number(width) + 8).toFixed(1)}" y="${y + 15}">+${Math.round(value).toLocaleString('en')}</text>`
  })
  const kernel = exact?.kernel ?? about.kernel
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13" role="img" aria-labelledby="title">
  <title id="title">TCP request/response, one way: ${unit} over a bare veth pair</title>
  <style>text { fill: #24292f } @media (prefers-color-scheme: dark) { text { fill: #d0d7de } }</style>
  <text x="10" y="20" font-size="15" font-weight="600">TCP request/response, one way: ${unit} over a bare veth pair</text>
  <text x="10" y="38" opacity="0.7">Linux ${kernel}, ${about.date.slice(0, 10)}; bare veth pair: ${Math.round(bare).toLocaleString('en')} ${unit}; shorter is better</text>
${bars.join('\n')}
</svg>
`
}
