import { isIP } from 'node:net'
import t from 'tap'
import type { Address } from '../../src/state/types.js'
import { familyOf, formatAddress, formatMac, formatPrefix, hexAddress, hexMac, hexPrefix, maskAddress, parseAddress, parseMac, parsePrefix, prefixKey, toMapped } from '../../src/address.js'

function randomHex(digits: number, zeroBias: number): Address {
  let hex = ''
  while (hex.length < digits) {
    const group = Math.random() < zeroBias ? 0 : Math.floor(Math.random() * 65536)
    hex += group.toString(16).padStart(4, '0')
  }
  return hexAddress(hex)
}

t.test('IPv4 addresses become dotted text and back', async (t) => {
  t.equal(formatAddress(hexAddress('0a010002')), '10.1.0.2')
  t.equal(formatAddress(hexAddress('ffffffff')), '255.255.255.255')
  t.equal(parseAddress('10.1.0.2'), '0a010002')
  t.equal(parseAddress('0.0.0.0'), '00000000')
})

t.test('IPv6 text follows RFC 5952', async (t) => {
  const cases: [hex: string, text: string][] = [
    ['00000000000000000000000000000000', '::'],
    ['00000000000000000000000000000001', '::1'],
    ['20010db8000000000000000000000001', '2001:db8::1'],
    ['20010db8000000010001000100010001', '2001:db8:0:1:1:1:1:1'],
    ['20010000000000010000000000000001', '2001:0:0:1::1'],
    ['20010db8000000000001000000000001', '2001:db8::1:0:0:1'],
    ['fe800000000000000000000000000000', 'fe80::'],
    ['00010002000300040005000600070000', '1:2:3:4:5:6:7:0'],
    ['00000000000000000000ffff0a010002', '::ffff:10.1.0.2']
  ]
  for (const [hex, text] of cases) {
    t.equal(formatAddress(hexAddress(hex)), text)
    t.equal(parseAddress(text), hex)
  }
  t.equal(parseAddress('2001:DB8:0:0:0:0:0:1'), '20010db8000000000000000000000001')
  t.equal(parseAddress('64:ff9b::192.0.2.33'), '0064ff9b0000000000000000c0000221')
  t.equal(parseAddress('1::'), `0001${'0'.repeat(28)}`)
})

t.test('what is not an address is refused, as node:net refuses it', async (t) => {
  const bad = [
    '',
    '1',
    '1.2.3',
    '1.2.3.4.5',
    '256.1.1.1',
    '01.2.3.4',
    '1.2.3.4 ',
    ' 1.2.3.4',
    '1.2.3.-4',
    '0x1.2.3.4',
    ':',
    ':::',
    '1:::2',
    '1::2::3',
    '12345::',
    'g::',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7::8:9',
    ':1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:',
    '::1.2.3',
    '::1.2.3.256',
    '1.2.3.4::',
    '::1.2.3.4:5',
    'fe80::1%eth0',
    '::1/64',
    '1e3.1.1.1'
  ]
  for (const text of bad) t.equal(parseAddress(text), null, JSON.stringify(text))
})

t.test('random addresses survive text, and agree with node:net', async (t) => {
  for (let i = 0; i < 2000; i++) {
    const v6 = randomHex(32, 0.5)
    const v4 = randomHex(8, 0.2)
    for (const hex of [v4, v6]) {
      const text = formatAddress(hex)
      if (parseAddress(text) !== hex || isIP(text) !== familyOf(hex)) t.fail(`${hex} became ${text}`)
      if (familyOf(hex) === 6 && !text.includes('.')) {
        const canonical = new URL(`http://[${text}]/`).hostname
        if (canonical !== `[${text}]`) t.fail(`${text} is not canonical: ${canonical}`)
      }
    }
  }
  t.pass('2000 of each family')
})

t.test('prefixes keep their host bits and know their bounds', async (t) => {
  t.equal(formatPrefix(hexPrefix('0a000000/8')), '10.0.0.0/8')
  t.equal(formatPrefix(prefixKey(hexAddress('20010db8000000000000000000000000'), 32)), '2001:db8::/32')
  t.same(parsePrefix('10.1.2.3/8'), { address: '0a010203', length: 8 })
  t.same(parsePrefix('::/0'), { address: '0'.repeat(32), length: 0 })
  t.same(parsePrefix('::1/128'), { address: `${'0'.repeat(31)}1`, length: 128 })
  for (const bad of [
    '10.0.0.0',
    '10.0.0.0/',
    '10.0.0.0/33',
    '::/129',
    '10.0.0.0/08',
    '10.0.0.0/8/8',
    '10.0.0.0/-1',
    '/8'
  ]) {
    t.equal(parsePrefix(bad), null, bad)
  }
})

t.test('masking clears the bits past the length', async (t) => {
  t.equal(maskAddress(hexAddress('0a0102ff'), 8), '0a000000')
  t.equal(maskAddress(hexAddress('0affffff'), 9), '0a800000')
  t.equal(maskAddress(hexAddress('0affffff'), 15), '0afe0000')
  t.equal(maskAddress(hexAddress('0affffff'), 32), '0affffff')
  t.equal(maskAddress(hexAddress('ffffffff'), 0), '00000000')
  for (let i = 0; i < 500; i++) {
    const hex = randomHex(32, 0.1)
    const length = Math.floor(Math.random() * 129)
    const mask = ((1n << BigInt(length)) - 1n) << BigInt(128 - length)
    const expected = (BigInt(`0x${hex}`) & mask).toString(16).padStart(32, '0')
    if (maskAddress(hex, length) !== expected) t.fail(`${hex}/${length}`)
  }
})

t.test('MAC addresses and v4-mapped keys', async (t) => {
  t.equal(formatMac(hexMac('0a0b0c0d0e0f')), '0a:0b:0c:0d:0e:0f')
  t.equal(parseMac('0A:0b:0C:0d:0e:0f'), '0a0b0c0d0e0f')
  for (const bad of ['', '0a0b0c0d0e0f', '0a:0b:0c:0d:0e', '0a:0b:0c:0d:0e:0f:00', 'g0:0b:0c:0d:0e:0f'])
    t.equal(parseMac(bad), null)
  t.equal(toMapped(hexAddress('0a010002')), '00000000000000000000ffff0a010002')
  t.equal(toMapped(hexAddress('20010db8000000000000000000000001')), '20010db8000000000000000000000001')
})
