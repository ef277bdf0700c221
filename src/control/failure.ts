// Requests that the daemon does not serve. The texts are for the caller.

/** It cannot be served as it was asked (400). */
export class BadRequest extends Error {}

/** It can only be served while hostroute is enabled (409). */
export class NotInForce extends Error {}
