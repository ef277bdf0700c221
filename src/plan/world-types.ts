// Everything that one plan is made from. world.ts makes it and plans with it.

import type { Address, Family, Link, NodeState, Prefix } from '../state/types.js'
import type { Cover } from './cover.js'
import type { Classifier, DeviceRole } from './devices.js'
import type { ClassKey } from './keys.js'
import type { NexthopTable } from './nexthops.js'
import type { PlanOptions } from './options.js'
import type { Gateways } from './passed-over.js'
import type { PodPlace } from './pods.js'
import type { FamilyRules, Step } from './rules.js'
import type { SourceChooser } from './sources.js'
import type { Plan, WantedClassRoute, WantedRoute } from './types.js'
import type { UseIndex } from './uses.js'

export interface World {
  state: NodeState
  /** As they were when they were last looked at. */
  links: Map<number, Link>
  options: PlanOptions
  plan: Plan
  uses: UseIndex
  classifier: Classifier
  /** Served and unserved devices; others are absent. */
  roles: Map<number, DeviceRole>
  policy: Policy
  cover: Cover
  /** Prefixes of the cover that come from table local. */
  localCover: Set<Prefix>
  /** Destinations that the node translates: cover what is inside them, too. */
  translated: Cover
  sources: SourceChooser
  nexthops: NexthopTable
  gateways: Gateways
  places: Map<Address, PodPlace>
  addressesOf: Map<number, Set<Address>>
  dirtyDevices: Set<number>
  dirtyPods: Set<Address>
  stackRoutes: Map<string, WantedRoute>
}

export interface RouteClass {
  key: ClassKey
  family: Family
  steps: readonly Step[]
  /** The tables are others than when it was merged. */
  stale: boolean
  tooLarge: boolean
  routes: Map<Prefix, WantedClassRoute>
  /** Lengths of the prefixes in `routes`, longest first. */
  lengths: number[]
  /** Single translated addresses for which the node's own routes answer, whatever `routes` say. */
  translated: Set<Prefix>
}

export interface Policy {
  rules: Record<Family, FamilyRules>
  /** Prefixes of the tables that rules send packets to, and of table local; empty where the rules are plain. */
  tables: Record<Family, Map<number, Set<Prefix>>>
  classes: Map<ClassKey, RouteClass>
  /** Some steps ask beyond table main: devices have to be looked at when a route of main changes. */
  beyondMain: Record<Family, boolean>
  /** Steps by "device/address": they change with the rules only. */
  steps: Map<string, { key: ClassKey; steps: Step[] } | null>
  /** Steps for what comes in by uplinks, by family; made anew for each pass over the devices. */
  inbound: Record<Family, { uplink: string; steps: Step[] }[]> | null
}
