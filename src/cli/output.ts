// How the command line speaks: tables, numbers, errors with a remedy. Who: src/cli/commands/. Exit codes stand here once.
import { ClientError } from '../api/client.js';

export const ExitCode = { DONE: 0, REFUSED: 1, USAGE: 2 } as const;

/** Ends a command with a code and a text for stderr. */
export class CliError extends Error {
  constructor(message: string, readonly remedy?: string, readonly exitCode: number = ExitCode.REFUSED) { super(message); }
}

export function print(text: string): void { process.stdout.write(text.endsWith('\n') ? text : `${text}\n`); }
export function printJson(value: unknown): void { print(JSON.stringify(value, null, 2)); }
export function printJsonLine(value: unknown): void { print(JSON.stringify(value)); }

export interface Column<T> { title: string; of(row: T): string | number | null | undefined; right?: boolean }

/** Columns two blanks apart, as wide as their widest cell; empty columns are left out. */
export function formatTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string {
  const cells = rows.map((row) => columns.map((column) => printable(column.of(row))));
  const shown = columns.map((_, index) => cells.some((row) => row[index] !== ''));
  const widths = columns.map((column, index) => Math.max(column.title.length, ...cells.map((row) => row[index]!.length)));
  const line = (texts: readonly string[]): string => texts
    .map((text, index) => (columns[index]!.right ? text.padStart(widths[index]!) : text.padEnd(widths[index]!)))
    .filter((_, index) => shown[index]).join('  ').trimEnd();
  return [line(columns.map((column) => column.title)), ...cells.map(line)].map((text) => `${text}\n`).join('');
}

/** Names come from configurations and devices: nothing of them may play with the terminal. */
function printable(value: string | number | null | undefined): string {
  if (value === null || value === undefined) return '';
  return typeof value === 'number' ? formatCount(value) : value.replace(/[\u0000-\u001f\u007f-\u009f]/g, '?');
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

/** What a command failed with, as text for stderr and an exit code. */
export function describeError(error: unknown, dir: string): { text: string; exitCode: number } {
  const say = (message: string, remedy?: string): string => `error: ${message}\n${remedy ? `    ${remedy}\n` : ''}`;
  if (error instanceof CliError) return { text: say(error.message, error.remedy), exitCode: error.exitCode };
  if (error instanceof ClientError) {
    if (error.code === 'NOT_RUNNING') return { text: say(`no appliance runs in ${dir}`, `start one with \`sluice up --config FILE --dir ${dir}\`, or name its directory with --dir`), exitCode: ExitCode.REFUSED };
    if (error.code === 'NOT_PERMITTED') return { text: say(error.message, 'run this as root, or as a member of the group that control runs in'), exitCode: ExitCode.REFUSED };
    const place = error.problem?.pointer ? ` (${error.problem.pointer})` : '';
    return { text: say(`${error.message}${place}`), exitCode: error.problem?.status === 400 ? ExitCode.USAGE : ExitCode.REFUSED };
  }
  return { text: say(error instanceof Error ? error.message : String(error)), exitCode: ExitCode.REFUSED };
}
