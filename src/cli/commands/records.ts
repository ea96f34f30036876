// `sluice flows`, `sluice drops`, `sluice observe`: what passed and what did not. Who: src/cli/program.ts.
import type { Command } from 'commander';
import type { ApiClient, Query } from '../../api/client.js';
import type { AnyRecord } from '../../control/filter.js';
import { DROP_REASONS } from '../../engine/abi.generated.js';
import type { DropRecordView, FlowRecordView } from '../../engine/records.js';
import { RECORD_EVENTS } from '../../flowlog/layout.js';
import { VERDICTS } from '../../flowlog/match.js';
import { followRecords } from '../follow.js';
import { DROP_COLUMNS, FLOW_COLUMNS, recordLine } from '../lines.js';
import { addCommon, addFilters, choiceOption, clientOf, filterQuery, wholeNumber, type CommonOptions, type FilterOptions } from '../options.js';
import { CliError, formatTable, note, print, printJson, printJsonLine } from '../output.js';

const LIMIT_MAX = 10_000;
interface RecordPage<T> { records: T[]; last: number; missed: number }
const byTime = (a: AnyRecord, b: AnyRecord): number => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0);

function follow(options: CommonOptions, query: Query, last = 0): Promise<void> {
  // Lines are JSON already: for programs they go on as they are.
  const show = (line: string): void => (options.json ? printJsonLine(line) : print(recordLine(JSON.parse(line) as AnyRecord)));
  const missed = (count: number): void => note(`… ${count} records came faster than they could be shown`);
  const away = (): void => note('… control is away; records of the meantime are not shown');
  return followRecords(clientOf(options), query, last, show, missed, away);
}

// ---- flows --------------------------------------------------------------------------------------------------------

interface FlowsOptions extends CommonOptions, FilterOptions { limit: number; live?: boolean; follow?: boolean }

export function addFlowsCommand(program: Command): void {
  const command = program.command('flows').description('sessions that live, and the records of those that ended; newest last');
  addFilters(addCommon(command))
    .option('--limit <N>', 'at most so many', wholeNumber(1, LIMIT_MAX), 200)
    .option('--live', 'only sessions that live now')
    .option('--follow', 'show records as they come, until Ctrl-C')
    .action((options: FlowsOptions) => showFlows(options));
}

async function showFlows(options: FlowsOptions): Promise<void> {
  const query = filterQuery(options);
  if (options.follow) return follow(options, { ...query, verdict: 'allowed' });
  const client = clientOf(options);
  const live = await readSessions(client, query, options.limit);
  const recent = options.live ? [] : (await client.get<RecordPage<FlowRecordView>>('/api/v1/flows', { ...query, last: options.limit })).records;
  const records = mergeFlows(live.sessions, recent).slice(-options.limit);
  if (options.json) return printJson({ records, more: live.more });
  print(records.length === 0 ? 'No flows.' : formatTable(FLOW_COLUMNS, records));
  if (live.more) print(`There are more; raise --limit (${options.limit}) or filter.`);
}

async function readSessions(client: ApiClient, query: Query, limit: number): Promise<{ sessions: FlowRecordView[]; more: boolean }> {
  const sessions: FlowRecordView[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.get<{ sessions: FlowRecordView[]; cursor: string | null }>('/api/v1/sessions', { ...query, limit: limit - sessions.length, cursor });
    sessions.push(...page.sessions);
    cursor = page.cursor ?? undefined;
  } while (cursor !== undefined && sessions.length < limit);
  return { sessions, more: cursor !== undefined };
}

/** One entry a session: its end if it ended, else how it lives now, else its start (a session that ended without a record). */
export function mergeFlows(live: readonly FlowRecordView[], recent: readonly FlowRecordView[]): FlowRecordView[] {
  const merged = new Map<string, FlowRecordView>();
  for (const record of [...recent.filter((one) => one.event !== 'end'), ...live, ...recent.filter((one) => one.event === 'end')]) merged.set(record.sessionId, record);
  return [...merged.values()].sort(byTime);
}

// ---- drops --------------------------------------------------------------------------------------------------------

interface DropsOptions extends CommonOptions, FilterOptions { last: number; reason?: string; follow?: boolean }

export function addDropsCommand(program: Command): void {
  const command = program.command('drops').description('packets dropped: how many for which reason, and the last of them');
  addFilters(addCommon(command))
    .option('--last <N>', 'at most so many of the last dropped packets', wholeNumber(1, LIMIT_MAX), 20)
    .addOption(choiceOption('--reason <REASON>', 'only this reason', DROP_REASONS.slice(1).map((entry) => entry.name)))
    .option('--follow', 'show dropped packets as they come, until Ctrl-C')
    .action((options: DropsOptions) => showDrops(options));
}

async function showDrops(options: DropsOptions): Promise<void> {
  const query = { ...filterQuery(options), reason: options.reason };
  if (options.follow) return follow(options, { ...query, verdict: 'dropped' });
  const client = clientOf(options);
  const { drops } = await client.get<{ drops: Record<string, number> }>('/api/v1/counters');
  const { records } = await client.get<RecordPage<DropRecordView>>('/api/v1/drops', { ...query, last: options.last });
  if (options.json) return printJson({ drops, records });
  const counts = DROP_REASONS.filter(({ name }) => (drops[name] ?? 0) > 0);
  if (counts.length === 0) return print('Nothing was dropped.');
  print(formatTable([
    { title: 'PACKETS', of: ({ name }) => drops[name] ?? 0, right: true },
    { title: 'REASON', of: ({ name }) => name },
    { title: '', of: ({ help }) => help },
  ], counts));
  if (records.length > 0) print(`\n${formatTable(DROP_COLUMNS, records)}`);
}

// ---- observe ------------------------------------------------------------------------------------------------------

interface ObserveOptions extends CommonOptions, FilterOptions { last?: number; verdict?: string; event?: string; reason?: string; follow?: boolean; dns?: string | boolean }

export function addObserveCommand(program: Command): void {
  const command = program.command('observe').description('records of flows and dropped packets together, newest last');
  addFilters(addCommon(command))
    .option('--last <N>', 'at most so many of those that are there (default: 50; with --follow: 0)', wholeNumber(0, LIMIT_MAX))
    .addOption(choiceOption('--verdict <VERDICT>', 'only what was allowed, or dropped', VERDICTS))
    .addOption(choiceOption('--event <EVENT>', 'only what happened so', RECORD_EVENTS))
    .addOption(choiceOption('--reason <REASON>', 'only packets dropped for this reason', DROP_REASONS.slice(1).map((entry) => entry.name)))
    .option('--dns [NAME]', 'only DNS questions and their answers: not in this version')
    .option('--follow', 'show records as they come, until Ctrl-C')
    .action((options: ObserveOptions) => observe(options));
}

async function observe(options: ObserveOptions): Promise<void> {
  if (options.dns !== undefined) {
    throw new CliError('--dns needs the engine to read DNS answers (DNS snooping), which this version does not do', 'use --protocol udp --port 53 to see which clients ask which servers');
  }
  const query = { ...filterQuery(options), verdict: options.verdict, event: options.event, reason: options.reason };
  if (options.follow) return follow(options, query, options.last ?? 0);
  const lines: string[] = [];
  await clientOf(options).lines('/api/v1/observe', { ...query, last: options.last ?? 50 }, (line) => lines.push(line));
  if (options.json) return printJson({ records: lines.map((line) => JSON.parse(line) as AnyRecord) });
  print(lines.length === 0 ? 'No records.' : lines.map((line) => recordLine(JSON.parse(line) as AnyRecord)).join('\n'));
}
