// `sluice config ...`: shows, compares and changes the running configuration. Who: src/cli/program.ts. Every change is a transaction of
// control's: in force when the command ends with 0, nothing changed when it ends with another code.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { getPriority, setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { ClientError, type ApiClient } from '../../api/client.js';
import type { Candidate, CommitResult, Revision } from '../../control/transaction-types.js';
import { whyUnread } from '../../lib/text.js';
import { addCommon, clientOf, wholeNumber, type CommonOptions } from '../options.js';
import { CliError, ExitCode, formatBytes, formatTable, note, print, printExact, printJson } from '../output.js';

const PREFIX = '/api/v1/config';
const POLL_MS = 250;
const FILE_BYTES_MAX = 64 * 1024 * 1024;
const CONFIRM_WITHIN_S_MAX = 86_400;

interface CommitOptions extends CommonOptions { comment?: string; confirmWithin?: number; dryRun?: boolean; force?: boolean; base?: string }
interface RevisionWithText extends Revision { text: string }
interface Difference { changes: object[]; changeCount: number; text: string }
interface Operation<T> { id: string; state: 'running' | 'done' | 'failed' | 'interrupted'; phase: string; result?: T; problem?: { code: string; detail: string } }

export function addConfigCommand(program: Command): void {
  const config = program.command('config').description('show, compare and change the running configuration');
  addCommon(config.command('show').description('the text of a revision, or of the running one').argument('[REVISION]', 'a number, running or candidate', 'running'))
    .action((which: string, options: CommonOptions) => show(which, options));
  addCommon(config.command('history').description('revisions, newest first: who, when, why').option('--last <N>', 'so many', wholeNumber(1, 1000), 20))
    .action((options: CommonOptions & { last: number }) => history(options));
  addCommon(config.command('diff').description('what differs, by rule and key: between two revisions, or between a file and what runs')
    .argument('[A]', 'a number, running, candidate, or a file').argument('[B]', 'the same; left out: A against what runs; both left out: what runs against the candidate'))
    .action((a: string | undefined, b: string | undefined, options: CommonOptions) => {
      if (b !== undefined) return diff(a!, b, options);
      return a !== undefined && /^\d+$/.test(a) ? diff(a, 'running', options) : diff('running', a ?? 'candidate', options);
    });
  addCommit(config.command('commit').description('put a file, or the candidate, in force: all of it or nothing').argument('[FILE]', 'YAML or JSON; - reads it from the input'))
    .action((file: string | undefined, options: CommitOptions) => commit(file, options));
  addCommon(config.command('confirm').description('keep what was committed with --confirm-within'))
    .action((options: CommonOptions) => confirm(options));
  addCommon(config.command('rollback').description('commit an earlier revision again').argument('[REVISION]', 'a number; left out: the one before the running one')
    .option('--comment <TEXT>', 'why'))
    .action((revision: string | undefined, options: CommonOptions & { comment?: string }) => rollback(revision, options));
  addCommon(config.command('edit-candidate').description('edit the candidate with $EDITOR; commit it with `sluice config commit`').option('--from <FILE>', 'take this file as the candidate instead'))
    .action((options: CommonOptions & { from?: string }) => editCandidate(options));
  addCommon(config.command('discard-candidate').description('throw the candidate away'))
    .action((options: CommonOptions) => discardCandidate(options));
}

function addCommit(command: Command): Command {
  return addCommon(command)
    .option('--comment <TEXT>', 'why; kept in the history')
    .option('--confirm-within <SECONDS>', 'roll back by itself unless `sluice config confirm` comes within so many seconds', wholeNumber(1, CONFIRM_WITHIN_S_MAX))
    .option('--base <ETAG>', 'the version it was made from; another one running now is a conflict')
    .option('--dry-run', 'check, compare and compile; change nothing')
    .option('--force', 'also when somebody else committed since --base, or since the candidate was made');
}

async function show(which: string, options: CommonOptions): Promise<void> {
  const client = clientOf(options);
  if (which === 'candidate') {
    const candidate = await client.get<Candidate>(`${PREFIX}/candidate`);
    return options.json ? printJson(candidate) : printExact(candidate.text);
  }
  const revision = await client.get<RevisionWithText>(`${PREFIX}/history/${revisionOf(which)}`);
  if (options.json) printJson(revision);
  else printExact(revision.text);
}

async function history(options: CommonOptions & { last: number }): Promise<void> {
  const answer = await clientOf(options).get<{ revisions: Revision[]; total: number; damage: string[] }>(`${PREFIX}/history`, { limit: options.last });
  if (options.json) return printJson(answer);
  for (const damage of answer.damage) note(`warning: ${damage}`);
  print(formatTable([
    { title: 'REVISION', of: (one) => `${one.revision}${one.running ? ' *' : ''}` },
    { title: 'WHEN', of: (one) => one.at.slice(0, 19).replace('T', ' ') },
    { title: 'WHO', of: (one) => `${one.by.name} (${one.by.via})` },
    { title: 'HOW', of: (one) => (one.confirmBy === undefined ? one.action : `${one.action}, to be confirmed by ${one.confirmBy.slice(11, 19)}`) },
    { title: 'CHANGES', of: (one) => one.changes, right: true },
    { title: 'SIZE', of: (one) => formatBytes(one.bytes), right: true },
    { title: 'WHY', of: (one) => one.comment },
  ], answer.revisions));
  if (answer.total > answer.revisions.length) print(`${answer.total - answer.revisions.length} older ones; --last N shows more`);
}

async function diff(from: string, to: string, options: CommonOptions): Promise<void> {
  const client = clientOf(options);
  const isStored = (which: string): boolean => /^(running|candidate|[1-9]\d*)$/.test(which);
  let difference: Difference;
  if (isStored(from) && isStored(to)) difference = await client.get<Difference>(`${PREFIX}/diff`, { from, to });
  else { // a file against what runs is what committing it would change
    const [{ parseText }, { diffConfigs, formatChanges }] = await Promise.all([import('../../config/load.js'), import('../../config/diff.js')]);
    const valueOf = async (which: string): Promise<unknown> => {
      const text = !isStored(which) ? readFile(which) : (await client.get<{ text: string }>(which === 'candidate' ? `${PREFIX}/candidate` : `${PREFIX}/history/${which}`)).text;
      const { value, problems } = parseText(text, which);
      if (problems[0]) throw new CliError(`${which}:${problems[0].line}: ${problems[0].message}`, problems[0].remedy);
      return value;
    };
    const found = diffConfigs(await valueOf(from), await valueOf(to));
    difference = { changes: found.changes, changeCount: found.count, text: formatChanges(found) };
  }
  if (options.json) printJson(difference);
  else print(difference.text === '' ? 'No difference.' : difference.text);
}

async function commit(file: string | undefined, options: CommitOptions): Promise<void> {
  const client = clientOf(options);
  const { comment, confirmWithin: confirmWithinS, dryRun, force, base } = options;
  const text = file === undefined ? undefined : readFile(file);
  giveWay();
  try {
    const result = await settle<CommitResult>(client, await client.post(`${PREFIX}/commit`, { text, comment, confirmWithinS, dryRun, force, base }));
    showCommit(result, options);
  } catch (error) {
    showRefusal(error, file ?? 'candidate', options);
  }
}

/** Packets go before commits, as control does: sending a hundred thousand rules takes a processor for a third of a second. */
function giveWay(): void {
  try {
    setPriority(Math.min(19, getPriority() + 5));
  } catch { /* then it does not */ }
}

async function rollback(which: string | undefined, options: CommonOptions & { comment?: string }): Promise<void> {
  const client = clientOf(options);
  const revision = which === undefined ? await revisionBefore(client) : Number(revisionOf(which));
  try {
    showCommit(await settle<CommitResult>(client, await client.post(`${PREFIX}/rollback`, { revision, comment: options.comment })), options);
  } catch (error) {
    showRefusal(error, `revision ${revision}`, options);
  }
}

async function confirm(options: CommonOptions): Promise<void> {
  const revision = await clientOf(options).post<Revision>(`${PREFIX}/confirm`, {});
  if (options.json) printJson(revision);
  else print(`Revision ${revision.revision} is confirmed.`);
}

async function editCandidate(options: CommonOptions & { from?: string }): Promise<void> {
  const client = clientOf(options);
  const running = await client.get<RevisionWithText>(`${PREFIX}/history/running`);
  const known = await client.get<Candidate>(`${PREFIX}/candidate`).catch((error: unknown) => {
    if (error instanceof ClientError && error.code === 'SLUICE_API_NOT_FOUND') return undefined;
    throw error;
  });
  const before = known?.text ?? running.text;
  const text = options.from === undefined ? edit(before) : readFile(options.from);
  if (text === before && known === undefined) return print('Nothing was changed; there is no candidate.');
  const candidate = await client.put<Candidate>(`${PREFIX}/candidate`, { text, base: known?.base ?? running.etag });
  if (options.json) printJson(candidate);
  else print('The candidate is kept: `sluice config diff` compares it, `sluice config commit` puts it in force.');
}

async function discardCandidate(options: CommonOptions): Promise<void> {
  await clientOf(options).delete(`${PREFIX}/candidate`);
  if (options.json) printJson({ discarded: true });
  else print('There is no candidate any more.');
}

// ---- what they share ------------------------------------------------------------------------------------------------

function readFile(file: string): string {
  try {
    const bytes = readFileSync(file === '-' ? 0 : file);
    if (bytes.length > FILE_BYTES_MAX) throw new CliError(`${file} has ${bytes.length} bytes; ${FILE_BYTES_MAX} at most`);
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    if (error instanceof CliError) throw error;
    throw new CliError(`${file}: ${whyUnread(error)}`, 'name a file that this user may read, as UTF-8 text');
  }
}

function edit(text: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-edit-'));
  const file = join(directory, 'candidate.yaml');
  try {
    writeFileSync(file, text, { mode: 0o600 });
    const editor = process.env['VISUAL'] || process.env['EDITOR'] || 'vi';
    const { status, error } = spawnSync('sh', ['-c', `${editor} "$1"`, 'sh', file], { stdio: 'inherit' });
    if (error || status !== 0) throw new CliError(`the editor ${editor} ended with ${error?.message ?? `code ${status}`}`, 'set $EDITOR, or use --from FILE');
    return readFileSync(file, 'utf8');
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function revisionOf(text: string): string {
  if (!/^(running|[1-9]\d{0,14})$/.test(text)) throw new CliError(`'${text}' is no revision`, 'write its number; `sluice config history` lists them', ExitCode.USAGE);
  return text;
}

async function revisionBefore(client: ApiClient): Promise<number> {
  const { revisions } = await client.get<{ revisions: Revision[] }>(`${PREFIX}/history`, { limit: 2 });
  const before = revisions.find((one) => !one.running);
  if (before === undefined) throw new CliError('there is no earlier revision');
  return before.revision;
}

/** What takes long is answered with an operation to watch. */
export async function settle<T extends object>(client: ApiClient, answer: T | Operation<T>): Promise<T> {
  let current = answer;
  while ('phase' in current && 'state' in current) {
    if (current.state === 'done' && current.result) return current.result;
    if (current.state === 'done') throw new CliError('it was done, and control was started again since: what there was to say about it is gone', '`sluice config history` and `sluice status` say what is in force');
    if (current.state !== 'running') throw new ClientError(current.problem?.code ?? 'SLUICE_API_INTERNAL', current.problem?.detail ?? 'it failed', current.problem as never);
    await delay(POLL_MS);
    current = await client.get<Operation<T>>(`/api/v1/operations/${current.id}`);
  }
  return current as T;
}

function showCommit(result: CommitResult, options: CommitOptions): void {
  if (options.json) return printJson(result);
  for (const { path, message, remedy } of result.warnings) note(`warning: ${path === '' ? '' : `${path}: `}${message}\n    ${remedy}`);
  if (result.changes.length > 0) print(linesOf(result));
  const { validate, compile, apply, total } = result.milliseconds;
  const times = `${total} ms (validate ${validate}, compile ${compile}, apply ${apply})`;
  const count = `${result.changeCount} change${result.changeCount === 1 ? '' : 's'}`;
  if (options.dryRun) print(`Good: ${count}, not put in force. ${times}`);
  else print(`Revision ${result.revision} is in force: ${count} in ${times}.`);
  if (result.confirmBy !== undefined) print(`It is rolled back by itself at ${result.confirmBy} unless \`sluice config confirm\` comes first.`);
}

/** Conflicts with what others changed, faults with file and line. */
function showRefusal(error: unknown, name: string, options: CommonOptions): never {
  if (!(error instanceof ClientError) || options.json) throw error;
  const { problem } = error;
  if (typeof problem?.['difference'] === 'string') note(`changed since by others:\n${problem['difference']}`);
  for (const { line, column, severity, pointer, message, remedy } of problem?.problems ?? []) {
    note(`${name}:${line ?? 1}:${column ?? 1}: ${severity}: ${pointer}: ${message}\n    ${remedy}`);
  }
  throw new CliError(error.message, undefined, ExitCode.REFUSED);
}

function linesOf(result: CommitResult): string {
  const signs = { added: '+', removed: '-', changed: '~', moved: '>' } as const;
  const shown = result.changes.slice(0, 20).map(({ kind, path }) => `${signs[kind]} ${path}`);
  if (result.changeCount > shown.length) shown.push(`  and ${result.changeCount - shown.length} more; \`sluice config diff\` names them`);
  return shown.join('\n');
}
