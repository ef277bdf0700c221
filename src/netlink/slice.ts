export { Slice } from '../slice.js'
