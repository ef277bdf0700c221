// Whether pods can still reach the world once hostroute is gone: it masquerades
// them, and where nobody else does their packets leave with addresses that no
// answer finds back to.

import { familyOf } from '../address.js'
import type { Address } from '../state/types.js'

/**
 * A sentence that says what pods would lose; null: the kernel masquerades, or hostroute does not.
 * without: an nft table (inet) that goes, too. Loaded only here, as the checks are.
 */
export async function losesEgress(
  { snat }: { snat: { enabled: boolean } },
  addresses: Iterable<Address>,
  without?: string
): Promise<string | null> {
  const pods = [...addresses].filter((address) => familyOf(address) === 4)
  if (!snat.enabled || pods.length === 0) return null
  const { kernelMasquerades } = await import('../check/kernel-masquerade.js')
  const { masquerades, why } = await kernelMasquerades(pods, without).catch((error: Error) => ({
    masquerades: false,
    why: `whether the kernel would do it cannot be seen (${error.message})`
  }))
  if (masquerades) return null
  const who =
    without === undefined ? 'hostroute masquerades them' : `the nft table inet ${without} masquerades them and goes`
  return `pods would lose their way out: ${who}, and ${why}; add a rule that does (nft or iptables, in postrouting), or leave all the same with --force`
}
