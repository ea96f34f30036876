// Reading the audit log back: its last lines, and whether it is whole. Who: src/api/access-routes.ts, `sluice audit` (also without an
// appliance running: the files are enough). Lines are streamed: memory does not grow with the log. Bounds: PROBLEMS_MAX problems are kept.
// What verification finds: a line that was changed, lines that are missing (between two, at the start, at the end), lines in another order
// or added, half a line. What it cannot find: a log that was written anew as a whole, from some line on, head and all, by
// somebody who may write its directory; for that, note a head elsewhere and compare (`--expect`), or send lines away as they come.
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { FIRST_PREVIOUS, parseLine, type ChainLink } from './chain.js';
import { CURRENT_FILE, HEAD_FILE, rotatedFiles, type AuditRecord } from './log.js';

const PROBLEMS_MAX = 100;

export interface AuditProblem {
  kind: 'altered' | 'removed' | 'inserted' | 'cut-off';
  file: string;
  /** In the file, from 1. */
  line: number;
  /** Of the line, or of the missing ones from..to. */
  sequence?: number;
  from?: number;
  to?: number;
  message: string;
}

export interface Verification {
  isWhole: boolean;
  lines: number;
  /** First and last line that are there. */
  first: number | null;
  head: ChainLink | null;
  problems: AuditProblem[];
  problemsLeftOut: number;
}

/** The files in the order of their lines. */
export function auditFiles(directory: string): string[] {
  return [...rotatedFiles(directory), ...(existsSync(join(directory, CURRENT_FILE)) ? [CURRENT_FILE] : [])];
}

/** Throws when the directory cannot be read. `expect`: a line that must be there with this hash, noted elsewhere earlier. */
export async function verifyAudit(directory: string, expect?: ChainLink): Promise<Verification> {
  const result: Verification = { isWhole: true, lines: 0, first: null, head: null, problems: [], problemsLeftOut: 0 };
  const report = (problem: AuditProblem): void => {
    result.isWhole = false;
    if (result.problems.length < PROBLEMS_MAX) result.problems.push(problem);
    else result.problemsLeftOut += 1;
  };
  let before: ChainLink | undefined;
  let missingAtStart: { to: number; file: string } | undefined;
  let sawExpected = expect === undefined;
  let place = { file: CURRENT_FILE, line: 0 };
  for await (const { file, line, text, isComplete } of linesOf(directory)) {
    place = { file, line };
    result.lines += 1;
    const next = (before?.sequence ?? 0) + 1;
    const parsed = isComplete ? parseLine(text) : undefined;
    if (!parsed) {
      if (isComplete) report({ kind: 'altered', file, line, sequence: next, message: `line ${next} is no line of an audit log any more` });
      else report({ kind: 'cut-off', file, line, message: 'the last line is not complete' });
      // The line after it tells by its own numbers what stood here.
      if (before && isComplete) before = { sequence: next, hash: '' };
      continue;
    }
    const { sequence, previous, hash, isIntact, entry } = parsed;
    if (!isIntact) report({ kind: 'altered', file, line, sequence, message: `line ${sequence} was changed after it was written` });
    if (!before) {
      result.first = sequence;
      if (sequence !== 1) missingAtStart = { to: sequence - 1, file };
      else if (previous !== FIRST_PREVIOUS) report({ kind: 'altered', file, line, sequence, message: 'line 1 does not begin a chain' });
    } else if (sequence > next) {
      report({ kind: 'removed', file, line, from: next, to: sequence - 1, message: sequence - 1 === next ? `line ${next} is missing` : `lines ${next} to ${sequence - 1} are missing` });
    } else if (sequence < next) {
      report({ kind: 'inserted', file, line, sequence, message: `line ${sequence} stands again, or in another place than it was written` });
      continue;
    } else if (before.hash !== '' && previous !== before.hash) {
      report({ kind: 'altered', file, line, sequence: sequence - 1, message: `line ${sequence - 1} is not the one that line ${sequence} was written after: it was replaced` });
    }
    if (missingAtStart && entry['event'] === 'retention' && (entry['detail'] as { through?: unknown } | undefined)?.through as number >= missingAtStart.to) missingAtStart = undefined;
    if (expect && sequence === expect.sequence) {
      sawExpected = true;
      if (hash !== expect.hash) report({ kind: 'altered', file, line, sequence, message: `line ${sequence} has another hash than the one you expect` });
    }
    before = { sequence, hash };
  }
  result.head = before ?? null;
  if (missingAtStart) report({ kind: 'removed', file: missingAtStart.file, line: 1, from: 1, to: missingAtStart.to, message: missingAtStart.to === 1 ? 'line 1 is missing' : `lines 1 to ${missingAtStart.to} are missing, and no line says that they were deleted for their age` });
  const noted = readHead(directory);
  const last = before?.sequence ?? 0;
  if (noted === undefined) report({ kind: 'cut-off', ...place, message: `the file ${HEAD_FILE} is missing or damaged: nobody can say whether lines were cut off the end` });
  else if (noted.sequence > last) report({ kind: 'removed', ...place, from: last + 1, to: noted.sequence, message: noted.sequence === last + 1 ? `line ${noted.sequence} is missing at the end` : `lines ${last + 1} to ${noted.sequence} are missing at the end` });
  else if (noted.sequence === last && before && noted.hash !== before.hash) report({ kind: 'altered', ...place, sequence: last, message: `line ${last} is not the one that was last written` });
  if (!sawExpected) report({ kind: 'removed', ...place, from: expect!.sequence, to: expect!.sequence, message: `line ${expect!.sequence}, which you expect, is not there` });
  return result;
}

/** The last lines, oldest first. */
export async function readLast(directory: string, count: number): Promise<AuditRecord[]> {
  const lines: AuditRecord[] = [];
  for (const file of auditFiles(directory).reverse()) {
    const here: AuditRecord[] = [];
    for await (const { text, isComplete } of linesOfFile(directory, file)) {
      const parsed = isComplete ? parseLine(text) : undefined;
      if (!parsed) continue;
      here.push(parsed.entry as unknown as AuditRecord);
      if (here.length > count * 2) here.splice(0, here.length - count);
    }
    lines.unshift(...here.slice(-(count - lines.length)));
    if (lines.length >= count) break;
  }
  return lines;
}

interface Line { file: string; line: number; text: string; isComplete: boolean }

async function* linesOf(directory: string): AsyncGenerator<Line> {
  for (const file of auditFiles(directory)) yield* linesOfFile(directory, file);
}

async function* linesOfFile(directory: string, file: string): AsyncGenerator<Line> {
  const stream = createReadStream(join(directory, file));
  let endsWithBreak = true;
  stream.on('data', (chunk) => { endsWithBreak = (chunk as Buffer).at(-1) === 0x0a; });
  let line = 0;
  let held: string | undefined;
  for await (const text of createInterface({ input: stream, crlfDelay: 0 })) {
    if (held !== undefined) yield { file, line, text: held, isComplete: true };
    held = text;
    line += 1;
  }
  if (held !== undefined) yield { file, line, text: held, isComplete: endsWithBreak };
}

function readHead(directory: string): ChainLink | undefined {
  let text: string;
  try {
    text = readFileSync(join(directory, HEAD_FILE), 'utf8');
  } catch {
    return undefined;
  }
  const [, sequence, hash] = /^(\d+) ([0-9a-f]{64}) *\n$/.exec(text) ?? [];
  return sequence === undefined ? undefined : { sequence: Number(sequence), hash: hash! };
}
