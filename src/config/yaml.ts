// The documents of a YAML text. One that is nested deeper than anybody means is
// refused before the parser, which calls itself for each level, runs out of stack.

import { Composer, type CST, type Document, Lexer, type LineCounter, Parser } from 'yaml'

/** Levels. */
const deepest = 100

type Options = ConstructorParameters<typeof Composer>[0]

/** Thrown at the offset where it is nested too deeply. */
export class NestedTooDeeply extends Error {
  constructor(readonly offset: number) {
    super(`nested too deeply (at most ${deepest} levels)`)
  }
}

/** Like parseAllDocuments() of the package, without pretty errors. Throws NestedTooDeeply. */
export function parseDocuments(text: string, lines: LineCounter | null, options: Options): Document.Parsed[] {
  // of what is no YAML there may be an error for each byte: none needs to know where it was made
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return [...new Composer({ ...options, prettyErrors: false }).compose(tokens(text, lines))]
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

function* tokens(text: string, lines: LineCounter | null): Generator<CST.Token> {
  const parser = lines ? new Parser(lines.addNewLine) : new Parser()
  lines?.addNewLine(0)
  for (const lexeme of new Lexer().lex(text)) {
    yield* parser.next(lexeme)
    // the document, and the scalar that is being read, stand there, too
    if (parser.stack.length > deepest + 2) throw new NestedTooDeeply(parser.offset)
  }
  yield* parser.end()
}
