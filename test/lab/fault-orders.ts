// What the file says that test/lab/faults.ts reads.

/** In each error that it makes. */
export const HELPER = 'injected fault'

export interface Orders {
  /** A file to which each call is added. */
  record?: string
  fail?: { label: string; from: number; once: boolean; code: string } | undefined
  /** When this call comes for the first time the process gets the signal; the call goes on. */
  signal?: { label: string; name: NodeJS.Signals }
  /** The call that has failed once. */
  fired?: string
}
