// What the probe of the kernel says.

/** null: it worked; else why not. */
export interface ProbeResult {
  load: string | null
  tcx: string | null
  clsact: string | null
  xdp: string | null
  /** 'untried': no device could be made to try it on. */
  managed: string | null
}

/** Small maps: what is proved is that the kernel takes the programs. */
export const probeSizes = {
  routes4: 16,
  routes6: 16,
  neighbours: 16,
  flows4: 16,
  flows6: 16,
  reverse4: 16,
  reverse6: 16
}
