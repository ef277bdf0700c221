import { isIP } from 'node:net'
import t from 'tap'
import {
  addressBefore,
  addressIn,
  everything,
  familyOf,
  familyOfPrefix,
  formatAddress,
  formatMac,
  formatPrefix,
  hexAddress,
  hexMac,
  hexPrefix,
  hostPrefix,
  joinAddresses,
  macIn,
  maskAddress,
  neighbourKey,
  netmask,
  parseAddress,
  parseMac,
  parsePrefix,
  prefixesBetween,
  prefixKey,
  prefixOf,
  splitAddresses,
  splitNeighbourKey,
  splitPrefix,
  toMapped,
  unmapped,
  unmappedPrefix,
  unspecified
} from '../../src/address.js'
import type { Address } from '../../src/state/types.js'

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

t.test('prefixes and keys are put together and taken apart', async (t) => {
  for (let i = 0; i < 500; i++) {
    const [four, six] = [randomHex(8, 0.2), randomHex(32, 0.5)]
    for (const address of [four, six]) {
      const length = Math.floor(Math.random() * (address.length * 4 + 1))
      const prefix = prefixKey(address, length)
      if (prefix !== `${address}/${length}` || hexPrefix(prefix) !== prefix) t.fail(prefix)
      t.strictSame(splitPrefix(prefix), { address, length, family: familyOf(address) })
      if (familyOfPrefix(prefix) !== familyOf(address)) t.fail(prefix)
      const words = (address.match(/.{8}/g) ?? []).map((word) => Number.parseInt(word, 16))
      if (prefixOf(familyOf(address), length, ...(words as [number])) !== prefix) t.fail(`${prefix} in words`)
      t.strictSame(splitNeighbourKey(neighbourKey(i, address)), { ifindex: i, address })
    }
    t.strictSame(splitAddresses(joinAddresses([four, six])), [four, six])
  }
  t.equal(hostPrefix(hexAddress('0a010002')), '0a010002/32')
  t.equal(hostPrefix(unspecified[6]), `${'0'.repeat(32)}/128`)
  t.strictSame([everything[4], everything[6]], ['00000000/0', `${'0'.repeat(32)}/0`])
  t.strictSame(splitAddresses(joinAddresses([])), [])
})

t.test('bytes are read as addresses, and mapped ones as what they map', async (t) => {
  const bytes = Buffer.from('ff0a01000200000000000000000000ffff0a010203', 'hex')
  t.equal(addressIn(bytes, 1, 4), '0a010002')
  t.equal(macIn(bytes, 0), 'ff0a01000200')
  const mapped = addressIn(bytes, 5, 16)
  t.equal(unmapped(mapped), '0a010203')
  t.equal(unmapped(toMapped(hexAddress('0a010002'))), '0a010002')
  t.equal(unmapped(hexAddress('0a010002')), '0a010002')
  t.equal(unmappedPrefix(mapped, 104), '0a010203/8')
  t.equal(unmappedPrefix(mapped, 95), `${mapped}/95`, 'more than the mapped ones')
  t.equal(unmappedPrefix(unspecified[6], 128), `${'0'.repeat(32)}/128`)
})

t.test('masks, neighbouring addresses and ranges', async (t) => {
  t.equal(netmask(4, 20), 'fffff000')
  t.equal(netmask(6, 0), '0'.repeat(32))
  t.equal(addressBefore(hexAddress('0a010000')), '0a00ffff')
  const texts = (first: string, last: string) => prefixesBetween(hexAddress(first), hexAddress(last)).map(formatPrefix)
  t.strictSame(texts('0a000001', '0a000006'), ['10.0.0.1/32', '10.0.0.2/31', '10.0.0.4/31', '10.0.0.6/32'])
  t.strictSame(texts('0'.repeat(32), 'f'.repeat(32)), ['::/0'])
})

t.test('literals are looked at', async (t) => {
  for (const bad of ['', '0a01', '0A010002', '10.1.0.2', '0a0100020', 'g'.repeat(8)])
    t.throws(() => hexAddress(bad), bad)
  for (const bad of ['', '0a010000', '0a010000/', '0a010000/33', '0a010000/08', '0a010000/8/8', '10.0.0.0/8'])
    t.throws(() => hexPrefix(bad), bad)
  for (const bad of ['', '0a0b0c0d0e', '0a:0b:0c:0d:0e:0f', '0A0B0C0D0E0F']) t.throws(() => hexMac(bad), bad)
})

t.test('the compiler takes none for another, nor text for any', async (t) => {
  const [address, prefix, mac] = [hexAddress('0a010002'), hexPrefix('0a000000/8'), hexMac('0a0b0c0d0e0f')]
  // what must not compile; at run time they are strings
  const refused = [
    // @ts-expect-error text
    () => familyOf('10.1.0.2'),
    // @ts-expect-error digits that nobody looked at
    () => formatAddress('0a010002'),
    // @ts-expect-error an address is no prefix
    () => formatPrefix(address),
    // @ts-expect-error a prefix is no address
    () => maskAddress(prefix, 8),
    // @ts-expect-error a MAC is no address
    () => formatAddress(mac),
    // @ts-expect-error a part of an address is none
    () => formatAddress(address.slice(0, 4)),
    // @ts-expect-error nor is a prefix made of a text
    () => formatPrefix(`${address}/8`),
    // @ts-expect-error a prefix is no neighbour's key
    () => splitNeighbourKey(prefix),
    // @ts-expect-error a map by prefix is not asked by address
    () => new Map([[prefix, 1]]).get(address)
  ]
  t.equal(refused.length, 9)
})
