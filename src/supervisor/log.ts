// One log for all processes: pino's JSON lines on each process's stderr, and the supervisor's way of showing them to people.
// Who: every process. The engine's and control's stderr is a file in DIR (so that they outlive the supervisor and never meet a
// broken pipe); the supervisor follows these files (LogFollower) and prints each line in its own form.
// Bounds: a log file is cut at LOG_BYTES_MAX by whoever writes it; a followed line at LINE_BYTES_MAX.
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, watch, writeSync, type FSWatcher } from 'node:fs';
import { pino, type Logger } from 'pino';
import { printable } from '../lib/text.js';

export type Log = Logger;
export const LOG_BYTES_MAX = 8 * 1024 * 1024;
const LINE_BYTES_MAX = 64 * 1024;

/** A logger for a child whose stderr is a file of its own. `also` gets each line, too. */
export function createChildLog(role: string, also?: (line: string) => void): Log {
  return createLog(role, (line) => {
    also?.(line);
    try {
      if (fstatSync(2).isFile() && fstatSync(2).size > LOG_BYTES_MAX) ftruncateSync(2);
      writeSync(2, line);
    } catch { /* a full disk or a gone terminal must not stop forwarding */ }
  });
}

export function createLog(role: string, write: (line: string) => void): Log {
  return pino({
    base: { process: role },
    level: process.env['SLUICE_LOG_LEVEL'] ?? 'info',
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  }, { write });
}

/** The supervisor's writer: JSON as it is, or one line for people. */
export function createLogWriter(json: boolean): (line: string) => void {
  return (line) => {
    try {
      writeSync(2, json ? line : formatLogLine(line));
    } catch { /* the terminal is gone; the appliance is not */ }
  };
}

const SHOWN_ELSEWHERE = new Set(['level', 'time', 'process', 'msg', 'err', 'pid', 'hostname']);

export function formatLogLine(line: string): string {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line.endsWith('\n') ? line : `${line}\n`;
  }
  const time = typeof entry['time'] === 'string' ? entry['time'].slice(11, 23) : '';
  const fields = Object.entries(entry).filter(([key]) => !SHOWN_ELSEWHERE.has(key))
    .map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`).join('');
  const cause = (entry['err'] as { message?: string } | undefined)?.message;
  const message = `${String(entry['msg'] ?? '')}${cause ? `: ${cause}` : ''}${fields}`;
  return `${time} ${String(entry['level'] ?? '').padEnd(5)} ${String(entry['process'] ?? '').padEnd(10)} ${printable(message)}\n`;
}

/** Follows a log file that a child appends to, from its present end on. */
export class LogFollower {
  private readonly file: number;
  private readonly watcher: FSWatcher;
  private offset: number;
  private readonly decoder = new TextDecoder(); // a read may end within a character
  private rest = '';

  constructor(path: string, private readonly role: string, private readonly onLine: (line: string) => void) {
    this.file = openSync(path, 'r');
    this.offset = fstatSync(this.file).size;
    this.watcher = watch(path, () => this.read());
    this.watcher.on('error', () => { /* the directory was removed below us */ });
    this.watcher.unref();
  }

  read(): void {
    const size = fstatSync(this.file).size;
    if (size < this.offset) { // cut by its writer
      this.offset = 0;
      this.rest += this.decoder.decode();
    }
    const buffer = Buffer.allocUnsafe(LINE_BYTES_MAX);
    while (this.offset < size) {
      const count = readSync(this.file, buffer, 0, buffer.length, this.offset);
      if (count === 0) break;
      this.offset += count;
      const lines = (this.rest + this.decoder.decode(buffer.subarray(0, count), { stream: true })).split('\n');
      this.rest = (lines.pop() ?? '').slice(-LINE_BYTES_MAX);
      for (const line of lines) if (line.trim() !== '') this.onLine(`${this.asJson(line)}\n`);
    }
  }

  close(): void {
    this.read();
    this.watcher.close();
    closeSync(this.file);
  }

  /** What a crash writes is no JSON: it becomes a warning of that process. */
  private asJson(line: string): string {
    if (line.startsWith('{')) return line;
    return JSON.stringify({ level: 'warn', time: new Date().toISOString(), process: this.role, msg: line });
  }
}
