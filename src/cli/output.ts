// How the command line speaks: tables, numbers, errors with a remedy. Who: src/cli/commands/. Exit codes stand here once.
import { ClientError } from '../api/client.js';
import { printable, printableJson, printableLines } from '../lib/text.js';

export const ExitCode = { DONE: 0, REFUSED: 1, USAGE: 2 } as const;

/** Ends a command with a code and a text for stderr. `members`: what a program that asked for JSON is told besides. */
export class CliError extends Error {
  constructor(message: string, readonly remedy?: string, readonly exitCode: number = ExitCode.REFUSED, readonly members: Readonly<Record<string, unknown>> = {}) { super(message); }
}

const whole = (text: string): string => (text.endsWith('\n') ? text : `${text}\n`);

// Names come from configurations, devices and callers: nothing of them may play with the terminal, nor pass for another line.
export function print(text: string): void { process.stdout.write(printableLines(whole(text))); }
/** What is there to be kept or piped on goes to the letter where it is not shown. */
export function printExact(text: string): void { process.stdout.write(process.stdout.isTTY ? printableLines(whole(text)) : whole(text)); }
export function printJson(value: unknown): void { print(printableJson(JSON.stringify(value, null, 2))); }
/** `value`: or its JSON, as it came. */
export function printJsonLine(value: unknown): void { print(printableJson(typeof value === 'string' ? value : JSON.stringify(value))); }
/** On stderr, for people. */
export function note(text: string): void { process.stderr.write(printableLines(whole(text))); }

export interface Column<T> { title: string; of(row: T): string | number | null | undefined; right?: boolean }

/** Columns two blanks apart, as wide as their widest cell; empty columns are left out. */
export function formatTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const cells = rows.map((row) => columns.map((column) => cellText(column.of(row))));
  const shown = columns.map((_, index) => cells.some((row) => row[index] !== ''));
  const widths = columns.map((column, index) => Math.max(column.title.length, ...cells.map((row) => row[index]!.length)));
  const line = (texts: readonly string[]): string => texts
    .map((text, index) => (columns[index]!.right ? text.padStart(widths[index]!) : text.padEnd(widths[index]!)))
    .filter((_, index) => shown[index]).join('  ').trimEnd();
  return [line(columns.map((column) => column.title)), ...cells.map(line)].map((text) => `${text}\n`).join('');
}

/** In one line, or it would break the table. */
function cellText(value: string | number | null | undefined): string {
  if (value === null || value === undefined) return '';
  return typeof value === 'number' ? formatCount(value) : printable(value);
}

export function formatCount(value: number): string { return value.toLocaleString('en-US'); }

export function formatBytes(value: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];
  let amount = value;
  let unit = 0;
  while (amount >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${amount} B` : `${amount.toFixed(1)} ${units[unit]}`;
}

export function formatDuration(seconds: number | null): string {
  if (seconds === null) return '';
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function endpoint(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** What a command failed with, and its exit code. */
export interface Failure { problem: CliProblem; exitCode: number }

/** Problem details (RFC 9457) as the API sends them, or the command line's own: these have no `status`, and say what to do in `remedy`. */
export interface CliProblem { type: string; title: string; status?: number; code: string; detail: string; pointer?: string; remedy?: string; [member: string]: unknown }

const TITLES = {
  SLUICE_CLI_USAGE: 'The command line is wrong',
  SLUICE_CLI_FAILED: 'The command failed',
  SLUICE_CLI_NOT_RUNNING: 'No appliance runs there',
  SLUICE_CLI_NOT_PERMITTED: 'This user may not ask the appliance',
  SLUICE_CLIENT_ANSWER: 'The appliance gave no answer that can be used',
  SLUICE_CLIENT_CONNECTION: 'The connection to the appliance failed',
  SLUICE_CLIENT_TIMEOUT: 'The appliance did not answer in time',
} as const;

function problem(code: string, detail: string, remedy?: string, members: Readonly<Record<string, unknown>> = {}): CliProblem {
  return { type: `about:blank#${code}`, title: (TITLES as Record<string, string>)[code] ?? TITLES.SLUICE_CLI_FAILED, code, detail, ...(remedy === undefined ? {} : { remedy }), ...members };
}

/** Wrong usage, as the parser of command lines words it. */
export function usageFailure(message: string): Failure {
  return { problem: problem('SLUICE_CLI_USAGE', message.replace(/^error: /, ''), '--help explains'), exitCode: ExitCode.USAGE };
}

export function failureOf(error: unknown, dir: string): Failure {
  if (error instanceof CliError) {
    const { message, remedy, exitCode, members } = error;
    return { problem: problem(exitCode === ExitCode.USAGE ? 'SLUICE_CLI_USAGE' : 'SLUICE_CLI_FAILED', message, remedy, members), exitCode };
  }
  if (error instanceof ClientError) {
    if (error.code === 'NOT_RUNNING') return { problem: problem('SLUICE_CLI_NOT_RUNNING', `no appliance runs in ${dir}`, `start one with \`sluice up --config FILE --dir ${dir}\`, or name its directory with --dir`), exitCode: ExitCode.REFUSED };
    if (error.code === 'NOT_PERMITTED') return { problem: problem('SLUICE_CLI_NOT_PERMITTED', error.message, 'run this as root, or as a member of the group that control runs in'), exitCode: ExitCode.REFUSED };
    return { problem: { ...problem(error.code, error.message), ...error.problem }, exitCode: error.problem?.status === 400 ? ExitCode.USAGE : ExitCode.REFUSED };
  }
  return { problem: problem('SLUICE_CLI_FAILED', error instanceof Error ? error.message : String(error)), exitCode: ExitCode.REFUSED };
}

/** For people, on stderr. */
export function failureText({ problem: { detail, pointer, remedy } }: Failure): string {
  return printableLines(`error: ${detail}${pointer ? ` (${pointer})` : ''}\n${remedy ? `    ${remedy}\n` : ''}`);
}

/** For programs that asked with --json: the last line of stderr. */
export function failureJson({ problem: said, exitCode }: Failure): string { return `${printableJson(JSON.stringify({ ...said, exitCode }))}\n`; }
