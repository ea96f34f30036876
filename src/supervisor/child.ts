// One child process of the supervisor: started, watched, started again after a delay that grows, ended. Who: src/supervisor/up.ts.
// The child's stderr goes to a file in DIR, so it neither dies with us nor blocks on us; so does its stdout, unless it is heard. Bounds: RESTART_MS_MIN doubling to
// RESTART_MS_MAX between starts; a child that lived for STABLE_MS is started again at once; STOP_GRACE_MS from SIGTERM to SIGKILL;
// UNTOLD_LINES_MAX wait for a child that is told lines.
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync, rmSync } from 'node:fs';
import { setPriority } from 'node:os';
import { identify, writePidFile } from './pid-file.js';
import { LogFollower, type Log } from './log.js';
import { relayToStdout } from './relay.js';

const RESTART_MS_MIN = 100;
const RESTART_MS_MAX = 5000;
const STABLE_MS = 10_000;
const UNTOLD_LINES_MAX = 1000;
const TOLD_BYTES_MAX = 256 * 1024; // on their way to a child that does not read on
export const STOP_GRACE_MS = 5000;
/** A child that ends so has a fault that no restart cures (EX_CONFIG of sysexits.h). */
export const FATAL_EXIT_CODE = 78;
/** A child that ends so was asked to restart: it is started again at once. */
export const RESTART_EXIT_CODE = 75;

export interface ChildPlan {
  role: string;
  command: string[];
  script: string;       // what the command line holds until the title is set: identifies an orphan
  pidFile: string;
  logFile: string;
  isHeard?: boolean;    // its standard output is ours: log streams to stdout
  isTold?: boolean;     // its standard input is ours: log lines of the other processes
  niceness?: number;    // when processors are short: above 0 it gives way to others, below they do
}

export class ManagedChild {
  private child: ChildProcess | undefined;
  private follower: LogFollower | undefined;
  private startedAtMs = 0;
  private delayMs = RESTART_MS_MIN;
  private timer: NodeJS.Timeout | undefined;
  private isWanted = false;
  private exited: Promise<void> = Promise.resolve();
  private readonly untold: string[] = [];
  private untoldLost = 0;
  restarts = 0;

  constructor(
    private plan: ChildPlan, private readonly log: Log,
    private readonly showLine: (line: string) => void, private readonly onFatal: (role: string) => void,
  ) {}

  get pid(): number | undefined { return this.child?.pid; }

  start(): void {
    this.isWanted = true;
    this.launch();
  }

  signal(name: NodeJS.Signals): void { this.child?.kill(name); }

  /** A line for its standard input. While it is away the newest ones wait for the next one. */
  tell(line: string): void {
    this.untold.push(line);
    if (this.untold.length > UNTOLD_LINES_MAX) {
      this.untold.shift();
      this.untoldLost += 1;
    }
    this.tellAll();
  }

  private tellAll(): void {
    const stdin = this.child?.stdin;
    if (!stdin?.writable) return;
    while (this.untold.length > 0 && stdin.writableLength < TOLD_BYTES_MAX) {
      if (this.untoldLost > 0) stdin.write(`${JSON.stringify({ level: 'warn', time: new Date().toISOString(), process: 'supervisor', msg: `${this.untoldLost} log lines were not passed on` })}\n`);
      this.untoldLost = 0;
      stdin.write(this.untold.shift()!);
    }
  }

  /** Ends it and starts it by another command. */
  async replace(plan: ChildPlan): Promise<void> {
    await this.stop();
    this.plan = plan;
    this.start();
  }

  async stop(graceMs = STOP_GRACE_MS): Promise<void> {
    this.isWanted = false;
    clearTimeout(this.timer);
    const child = this.child;
    if (child) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => {
        this.log.warn({ pid: child.pid }, `${this.plan.role} does not end; killing it`);
        child.kill('SIGKILL');
      }, graceMs);
      await this.exited;
      clearTimeout(timer);
    }
    this.follower?.close();
    this.follower = undefined;
    rmSync(this.plan.pidFile, { force: true });
  }

  /** Before it has threads, so that all of them are as nice. */
  private beNice(pid: number | undefined): void {
    if (pid === undefined || this.plan.niceness === undefined) return;
    try {
      setPriority(pid, this.plan.niceness);
    } catch (error) {
      this.log.warn({ err: error }, `${this.plan.role} runs at the priority of the others`);
    }
  }

  private launch(): void {
    const file = openSync(this.plan.logFile, 'a', 0o600);
    this.follower ??= new LogFollower(this.plan.logFile, this.plan.role, this.showLine);
    const [program = '', ...args] = this.plan.command;
    const child = spawn(program, args, { stdio: [this.plan.isTold ? 'pipe' : 'ignore', this.plan.isHeard ? 'pipe' : file, file] });
    closeSync(file);
    this.beNice(child.pid);
    if (child.stdout) relayToStdout(child.stdout);
    child.stdin?.on('error', () => { /* it is gone */ });
    this.child = child;
    this.tellAll();
    this.startedAtMs = performance.now();
    this.exited = new Promise((resolve) => {
      child.once('error', (error) => {
        this.log.error({ err: error }, `${this.plan.role} cannot be started`);
        if (child.pid === undefined) {
          this.onExit(null, null);
          resolve();
        }
      });
      child.once('exit', (code, signal) => {
        this.onExit(code, signal);
        resolve();
      });
    });
    const identity = child.pid === undefined ? undefined : identify(child.pid, this.plan.role, this.plan.script);
    if (identity) writePidFile(this.plan.pidFile, identity);
  }

  private onExit(code: number | null, signal: NodeJS.Signals | null): void {
    this.child = undefined;
    this.follower?.read();
    if (!this.isWanted) return;
    const how = signal ? `was killed by ${signal}` : `ended with code ${code}`;
    if (code === FATAL_EXIT_CODE) {
      this.log.error(`${this.plan.role} ${how}; a restart would not help`);
      this.onFatal(this.plan.role);
      return;
    }
    if (code === RESTART_EXIT_CODE) {
      this.log.info(`${this.plan.role} ended for a restart; starting it again`);
      this.launch();
      return;
    }
    const restartMs = performance.now() - this.startedAtMs > STABLE_MS ? 0 : this.delayMs; // packets wait for it
    this.log.warn({ restartMs }, `${this.plan.role} ${how}; starting it again`);
    this.restarts += 1;
    this.delayMs = restartMs === 0 ? RESTART_MS_MIN : Math.min(RESTART_MS_MAX, restartMs * 2);
    if (restartMs === 0) this.launch();
    else this.timer = setTimeout(() => this.launch(), restartMs);
  }
}
