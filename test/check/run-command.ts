// `hostroute check` by itself, with the options that all commands have.

import yargs from 'yargs'
import { checkCommand } from '../../src/cli/check.js'

await yargs(process.argv.slice(2))
  .option('socket', { type: 'string', default: '/nowhere' })
  .option('json', { type: 'boolean', default: false })
  .option('color', { type: 'boolean', default: true })
  .command(checkCommand)
  .strict()
  .fail((message, error) => {
    process.stderr.write(`${error?.message ?? message}\n`)
    process.exit(1)
  })
  .parseAsync()
