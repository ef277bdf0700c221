// Prefix keys ("0a000000/8") compared.

import { maskAddress } from '../address.js'

/** `inner` lies in `outer`, or is the same. */
export function inside(inner: string, outer: string): boolean {
  const [address = '', length = ''] = inner.split('/')
  const [around = '', aroundLength = ''] = outer.split('/')
  return (
    address.length === around.length &&
    Number(length) >= Number(aroundLength) &&
    maskAddress(address, Number(aroundLength)) === around
  )
}

export function insideAny(prefix: string, list: readonly string[]): boolean {
  return list.some((outer) => inside(prefix, outer))
}
