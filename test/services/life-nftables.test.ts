// kube-proxy in mode nftables.
// Mostly waits: for connections that must be refused or time out.

import t from 'tap'
import { wholeLife } from './life.js'

wholeLife(t, 'nftables')
