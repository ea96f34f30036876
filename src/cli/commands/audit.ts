// `sluice audit ...`: shows the audit log, and proves that it is whole. Who: src/cli/program.ts. Verification reads the files themselves where
// this user may (so it needs no appliance, and does not have to believe one), and asks the appliance where not.
import { accessSync, constants, existsSync } from 'node:fs';
import { join } from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import type { ChainLink } from '../../audit/chain.js';
import { CURRENT_FILE, type AuditRecord } from '../../audit/log.js';
import { readLast, verifyAudit, type Verification } from '../../audit/read.js';
import { runDirectory } from '../../supervisor/run-directory.js';
import { addCommon, clientOf, directoryOf, wholeNumber, type CommonOptions } from '../options.js';
import { CliError, ExitCode, formatCount, formatTable, print, printJson } from '../output.js';

const LAST_MAX = 100_000;
const LAST_DEFAULT = 50;
const PAGE_MAX = 1000; // what the API gives at once

interface PlaceOptions extends CommonOptions { directory?: string }

export function addAuditCommand(program: Command): void {
  const audit = program.command('audit').description('who changed or tried what');
  addPlace(audit.command('show').description('the last lines, oldest first').option('--last <N>', 'so many', wholeNumber(1, LAST_MAX), LAST_DEFAULT))
    .action((options: PlaceOptions & { last: number }) => show(options));
  addPlace(audit.command('verify').description('is the log whole? Names each line that was changed or is missing; exit 1 then'))
    .option('--expect <HEAD>', 'SEQUENCE:HASH as an earlier verification printed it: that line must be there, unchanged', head)
    .action((options: PlaceOptions & { expect?: ChainLink }) => verify(options));
}

function addPlace(command: Command): Command {
  return addCommon(command).option('--directory <DIRECTORY>', 'read this directory instead of the appliance\'s own, like a copy of it');
}

function head(text: string): ChainLink {
  const [, sequence, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (sequence === undefined) throw new InvalidArgumentError('write SEQUENCE:HASH as `sluice audit verify` prints it.');
  return { sequence: Number(sequence), hash: hash! };
}

/** Undefined: only the appliance may read it. */
function readableDirectory(options: PlaceOptions): string | undefined {
  const directory = options.directory ?? runDirectory(directoryOf(options)).auditState;
  try {
    accessSync(directory, constants.R_OK | constants.X_OK);
    if (existsSync(join(directory, CURRENT_FILE))) return directory;
  } catch { /* not for us, or not there */ }
  if (options.directory !== undefined) throw new CliError(`${directory} holds no audit log that this user may read`, `name a directory with ${CURRENT_FILE} in it`);
  return undefined;
}

async function show(options: PlaceOptions & { last: number }): Promise<void> {
  const directory = readableDirectory(options);
  const lines = directory !== undefined ? await readLast(directory, options.last)
    : (await clientOf(options).get<{ lines: AuditRecord[] }>('/api/v1/audit', { last: Math.min(options.last, PAGE_MAX) })).lines;
  if (options.json) return printJson({ lines });
  if (lines.length === 0) return print('Nothing was changed or refused yet.');
  print(formatTable([
    { title: 'LINE', of: (one) => String(one.sequence), right: true },
    { title: 'TIME', of: (one) => one.time.slice(0, 19).replace('T', ' ') },
    { title: 'WHO', of: (one) => (one.by ? `${one.by.name} (${[one.by.via, one.by.role].filter(Boolean).join(', ')})` : '') },
    { title: 'FROM', of: (one) => one.by?.address },
    { title: 'EVENT', of: (one) => one.event },
    { title: 'WHAT', of: (one) => [one.method, one.path].filter(Boolean).join(' ') },
    { title: 'OUTCOME', of: (one) => [one.status, one.code, one.count === undefined ? undefined : `${formatCount(one.count)} more`].filter((part) => part !== undefined).join(' ') },
    { title: 'DETAIL', of: (one) => (one.detail ? JSON.stringify(one.detail) : '') },
  ], lines));
}

async function verify(options: PlaceOptions & { expect?: ChainLink }): Promise<void> {
  const directory = readableDirectory(options);
  if (directory === undefined && options.expect) throw new CliError('only who may read the audit log itself can compare it with a head', 'run this as root');
  const result = directory !== undefined ? await verifyAudit(directory, options.expect) : await clientOf(options).get<Verification>('/api/v1/audit/verification');
  if (options.json) printJson(result);
  else print(describe(result));
  if (!result.isWhole) process.exitCode = ExitCode.REFUSED;
}

function describe({ isWhole, lines, first, head: last, problems, problemsLeftOut }: Verification): string {
  const range = last ? `${formatCount(lines)} lines, ${first} to ${last.sequence}` : 'no lines';
  if (isWhole) return `The audit log is whole: ${range}.${last ? `\nHead: ${last.sequence}:${last.hash}\n(note it elsewhere; --expect compares with it later)` : ''}`;
  const found = problems.map((one) => `  ${one.file}:${one.line}: ${one.message}`);
  if (problemsLeftOut > 0) found.push(`  and ${formatCount(problemsLeftOut)} more`);
  return `The audit log is NOT whole: ${range}.\n${found.join('\n')}`;
}
