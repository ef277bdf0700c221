import t from 'tap'
import { bitRate, bytes, count, painter, rate, span, table } from '../../src/cli/text.js'

t.test('units', async (t) => {
  t.same([0, 999, 1000, 1048576].map(count), ['0', '999', '1,000', '1,048,576'])
  t.same([0, 1023, 1024, 1536, 1024 ** 3 * 250].map(bytes), ['0 B', '1023 B', '1.0 KiB', '1.5 KiB', '250 GiB'])
  t.same([0, 100, 125_000, 1.25e9].map(bitRate), ['0 bit/s', '800 bit/s', '1.0 Mbit/s', '10.0 Gbit/s'])
  t.same([0, 0.01, 9.94, 10.4, 12345].map(rate), ['-', '0.1/s', '9.9/s', '10/s', '12,345/s'])
  t.same([0, 0.0001, 0.25, 45.9, 60, 61, 3600, 7440, 86400, 90000].map(span), [
    '0 s',
    '1 ms',
    '250 ms',
    '45 s',
    '1 min',
    '1 min 1 s',
    '1 h',
    '2 h 4 min',
    '1 d',
    '1 d 1 h'
  ])
})

t.test('columns stay aligned under colours', async (t) => {
  const paint = painter(true)
  const text = table(
    paint,
    [{ title: 'A' }, { title: 'B', right: true }, { title: 'C' }],
    [
      [paint.bad('long one'), '1', 'x'],
      ['s', paint.good('1000'), '']
    ]
  )
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are escape sequences
  const plain = text.replace(/\x1b\[\d+m/g, '')
  t.same(plain.split('\n'), ['A            B  C', 'long one     1  x', 's         1000'])
  t.not(text, plain)
})
