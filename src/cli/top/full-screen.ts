// The terminal while `sluice top` owns it: another screen, no cursor, keys one by one. Who: src/cli/commands/top.ts.
// Whatever ends the process but SIGKILL gives the terminal back as it was: `leave` runs at each exit, each signal and each failure.
import { writeSync } from 'node:fs';
import { printable } from '../../lib/text.js';

const ENTER = '\u001b[?1049h\u001b[?25l\u001b[?7l';   // other screen, no cursor, no wrapping
const LEAVE = '\u001b[?7h\u001b[?25h\u001b[?1049l';
const HOME = '\u001b[H';
const REST_OF_LINE = '\u001b[K';
const REST_OF_SCREEN = '\u001b[J';
const INTERRUPT = '\u0003';
const SUSPEND = '\u001a';
const END_OF_INPUT = '\u0004';
const ROWS_DEFAULT = 24;
const COLUMNS_DEFAULT = 80;

export class FullScreen {
  private isEntered = false;

  constructor(private readonly onQuit: () => void, private readonly redraw: () => void) {}

  get size(): { rows: number; columns: number } { return { rows: process.stdout.rows || ROWS_DEFAULT, columns: process.stdout.columns || COLUMNS_DEFAULT }; }

  open(): void {
    process.on('exit', () => this.leave());
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, this.onQuit);
    process.on('SIGTSTP', () => {
      this.leave();
      process.kill(process.pid, 'SIGSTOP');
    });
    process.on('SIGCONT', () => this.enter());
    process.once('uncaughtException', (error) => {
      this.leave(); // else the message would go with the other screen
      process.stderr.write(`${error.stack ?? error.message}\n`);
      process.exit(1);
    });
    process.stdout.on('resize', this.redraw).on('error', this.onQuit);
    process.stdin.on('data', (keys: Buffer) => this.press(keys.toString('utf8'))).on('end', this.onQuit).on('error', this.onQuit);
    this.enter();
  }

  draw(lines: readonly string[]): void {
    if (!this.isEntered) return;
    process.stdout.write(`${HOME}${lines.map((line) => `${printable(line)}${REST_OF_LINE}`).join('\r\n')}${REST_OF_SCREEN}`);
  }

  leave(): void {
    if (!this.isEntered) return;
    this.isEntered = false;
    try {
      if (process.stdin.isTTY) process.stdin.setRawMode(false);
      writeSync(process.stdout.fd, LEAVE);
    } catch { /* the terminal is gone: nothing to give back */ }
  }

  private enter(): void {
    if (this.isEntered) return;
    this.isEntered = true;
    if (process.stdin.isTTY) process.stdin.setRawMode(true);
    process.stdin.resume();
    process.stdout.write(ENTER);
    this.redraw();
  }

  private press(keys: string): void {
    if (/[qQ]/.test(keys) || keys.includes(INTERRUPT) || keys.includes(END_OF_INPUT)) this.onQuit();
    else if (keys.includes(SUSPEND)) process.kill(0, 'SIGTSTP'); // to the whole job, as the terminal itself would
  }
}
