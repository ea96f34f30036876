// `sluice up`: checks, prepares the run directory, runs engine and control, and takes everything away at the end. Who: src/cli/commands/up.ts.
// Order of a start: 1 preflight (touches nothing), 2 lock, 3 orphans of a killed supervisor are ended, 4 bpffs, 5 running configuration,
// 6 engine, 7 control, 8 ready. Order of the end: control, engine, pins and mount, addresses and links, files, lock.
// Engine and control never depend on this process being alive: it may be killed, and a second `up` takes over.
import { chmodSync, chownSync, existsSync, lchownSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, watch, type FSWatcher } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { ApiClient } from '../api/client.js';
import { engineOptions, type EngineOptions } from '../config/defaults.js';
import { HOST_DEVICE } from '../config/facts.js';
import type { ControlArguments } from '../control/process.js';
import { chooseControlUser, type ControlUser } from '../control/privileges.js';
import type { StatusView } from '../control/status.js';
import { ConfigStore } from '../control/store.js';
import { devicesOf } from '../control/transactions.js';
import { run } from '../engine/command.js';
import type { EngineArguments } from '../engine/process.js';
import { ensureBpfMount, removeBpfMount, removeMountPoint, type BpfMount } from './bpffs.js';
import { ManagedChild, STOP_GRACE_MS, type ChildPlan } from './child.js';
import { CleanupJournal, undoAll } from './cleanup.js';
import { createLog, createLogWriter, type Log } from './log.js';
import { endProcess, identify, isAlive, readNetworkNamespace, readPidFile, takeLock, type ProcessIdentity } from './pid-file.js';
import { describeConfig, describePreflight, isRefused, preflight, type Preflight } from './preflight.js';
import { packageRoot, packageVersion, replaceFile, runDirectory, type RunDirectory } from './run-directory.js';
import { chooseStart, lastStart, type StartConfig } from './start-config.js';

const READY_SECONDS = 120; // a hundred thousand rules and millions of sessions on a busy machine; what fails for good ends it sooner
const REFUSAL_SECONDS = 5;       // a failure of the first apply that lasts this long will not pass by itself
const STARTS_FAILED_MAX = 4;     // an engine that ended so often before it was ever ready
const WORKERS_AUTO_MAX = 16;
const XDP_DETACH_MS_MAX = 2000;  // the kernel releases links from a work queue
const WATCH_DEBOUNCE_MS = 50;
/** A configuration of 100,000 rules is millions of short-lived values: with Node's default a third of its commit is garbage collection. */
const CONTROL_SEMI_SPACE_MIB = 64;
/**
 * Threads that V8 marks garbage and compiles with, beside the main one; its own default is four. On a processor that they share with the main thread and
 * the engine, each takes its turn before either answers: a GET of the status then took 20 to 30 ms, and with one 15.
 */
const V8_THREADS_MAX = 4;
/** Packets go before commits: on two processors the engine lost some while control compiled or started. */
const CONTROL_NICENESS = 5;
/** Beside another program a worker gets three times what that gets: enough for the packets of a link, and on a machine with one processor others are still heard. */
const ENGINE_NICENESS = -5;
const SCRIPTS = { supervisor: 'sluice', engine: 'src/engine/main.js', control: 'src/control/main.js' } as const;
/** What the engine needs beside being uid 0: netdevs and netlink, raw sockets, BPF, and locked packet memory. */
const ENGINE_CAPABILITIES = ['net_admin', 'net_raw', 'bpf', 'perfmon', 'ipc_lock'];

export interface UpOptions { config: string; dir: string; logJson: boolean }

export async function up(options: UpOptions): Promise<number> {
  const paths = runDirectory(options.dir);
  const orphans = findOrphans(paths);
  const isOwn = (device: string): boolean => orphans.length > 0 || existsSync(join(paths.bpf, `link-${device}`));
  let start = chooseStart(options.config, paths.configState);
  const say = sayer(options.logJson);
  for (const damage of start.damage) say('warn', `configuration store: ${damage}`);
  let checked = await preflight(start.name, isOwn, start.text);
  showPreflight(checked, options.logJson);
  const last = start.revision === undefined ? lastStart(paths.configState) : undefined;
  if (checked.config === undefined && checked.facts !== undefined && last !== undefined) {
    say('warn', `${options.config} is refused; revision ${last.revision}, which ran last, runs instead`, 'repair the file and reload, or commit another configuration');
    start = last;
    checked = await preflight(start.name, isOwn, start.text);
    showPreflight(checked, options.logJson);
  }
  if (isRefused(checked)) {
    if (start.revision !== undefined) say('warn', 'this is the configuration that ran last', `to start with another one, change ${options.config}: a file that differs from the one last taken over is taken`);
    return 1;
  }
  const stranger = orphans.find((orphan) => readNetworkNamespace(orphan.pid) !== readNetworkNamespace('self'));
  if (stranger) {
    say('error', `${paths.dir} belongs to an appliance in another network namespace (${stranger.role} process ${stranger.pid})`, 'choose another --dir, or enter that namespace');
    return 1;
  }
  const supervisor = new Supervisor(options, paths, checked, start);
  return supervisor.run();
}

/** What there is to say outside the log: text for people, or a line of the log for who reads JSON. */
function sayer(asJson: boolean): (level: 'warn' | 'error', message: string, remedy?: string) => void {
  if (!asJson) return (level, message, remedy) => void process.stderr.write(`${level === 'warn' ? 'warning' : level}: ${message}\n${remedy === undefined ? '' : `    ${remedy}\n`}`);
  const log = createLog('supervisor', createLogWriter(true));
  return (level, message, remedy) => log[level]({ remedy }, message);
}

function showPreflight(checked: Preflight, asJson: boolean): void {
  if (!asJson) return void process.stderr.write(describePreflight(checked));
  const log = createLog('supervisor', createLogWriter(true));
  for (const { severity, message, ...place } of checked.problems) log[severity === 'error' ? 'error' : 'warn'](place, message);
  for (const [message, remedy] of checked.refusals.map((text) => text.split(/\n */, 2))) log.error({ remedy }, message!);
}

function findOrphans(paths: RunDirectory): ProcessIdentity[] {
  return [paths.controlPid, paths.enginePid].flatMap((file) => {
    const identity = readPidFile(file);
    return identity && isAlive(identity) ? [identity] : [];
  });
}

class Supervisor {
  private readonly writeLine: (line: string) => void;
  private readonly log: Log;
  private readonly user: ControlUser | undefined = chooseControlUser();
  private readonly startedAtMs = performance.now();
  private readonly existed: boolean;
  private engine: ManagedChild | undefined;
  private control: ManagedChild | undefined;
  private mount: BpfMount | undefined;
  private engineOptions: EngineOptions;
  private readonly devices: Set<string>;  // that ever carried XDP in our time
  private watcher: FSWatcher | undefined;
  private watchTimer: NodeJS.Timeout | undefined;
  private isTakeover = false;
  private hasten = false;
  private ending: ((code: number) => void) | undefined;
  private readonly end: Promise<number>;
  private reloading: Promise<void> = Promise.resolve();

  constructor(private readonly options: UpOptions, private readonly paths: RunDirectory, private readonly checked: Preflight, private readonly startConfig: StartConfig) {
    this.writeLine = createLogWriter(options.logJson);
    this.log = createLog('supervisor', (line) => this.passOn(line));
    this.engineOptions = engineOptions(checked.config!);
    this.devices = new Set(devicesOf(checked.config!));
    this.existed = existsSync(paths.dir);
    this.end = new Promise((resolve) => { this.ending = resolve; });
  }

  async run(): Promise<number> {
    mkdirSync(this.paths.dir, { recursive: true, mode: 0o755 });
    const holder = takeLock(this.paths.supervisorPid, identify(process.pid, 'supervisor', SCRIPTS.supervisor)!);
    if (holder) {
      sayer(this.options.logJson)('error', `another sluice runs in ${this.paths.dir} (process ${holder.pid})`, 'stop it first, or choose another --dir');
      return 1;
    }
    process.title = 'sluice: supervisor';
    this.catchSignals();
    let code: number;
    try {
      await this.start();
      code = await Promise.race([this.end, this.reportReady()]).then((early) => early ?? this.end);
    } catch (error) {
      this.log.error({ err: error }, 'cannot start');
      code = 1;
    }
    return Math.max(code, await this.stop(code));
  }

  /** Control knows its own lines; those of the others are for its `system` streams. */
  private passOn(line: string): void {
    this.writeLine(line);
    this.control?.tell(line);
  }

  // ---- start ------------------------------------------------------------------------------------------------------

  private async start(): Promise<void> {
    const { paths } = this;
    const { revision } = this.startConfig;
    this.say(`Sluice ${packageVersion()} with ${this.options.config}${revision === undefined ? '' : ` (revision ${revision})`} in ${paths.dir}`);
    for (const line of describeConfig(this.checked.config!, this.checked.facts!)) this.say(line);
    this.makeState();
    const journal = CleanupJournal.load(paths.cleanup);
    const orphans = findOrphans(paths);
    this.mount = await ensureBpfMount(paths.bpf, orphans.map((orphan) => orphan.pid), journal);
    this.isTakeover = orphans.length > 0 || !this.mount.isFresh;
    if (this.isTakeover) this.say('  taking over what an earlier sluice left running; its forwarding state stays in force meanwhile');
    else rmSync(paths.lastApplied, { force: true });
    for (const orphan of orphans) {
      if (!await endProcess(orphan, STOP_GRACE_MS)) throw new Error(`${orphan.role} process ${orphan.pid} of an earlier sluice cannot be ended`);
      this.log.info({ pid: orphan.pid }, `ended the ${orphan.role} of an earlier sluice`);
    }
    // A refused file is not offered to control: what ran goes on.
    if (this.startConfig.revision === undefined) this.publishConfig();
    else rmSync(paths.runningConfig, { force: true });
    const fatal = (role: string): void => {
      this.log.error(`${role} cannot run; ending`);
      this.ending?.(1);
    };
    this.engine = new ManagedChild(this.enginePlan(), this.log, (line) => this.passOn(line), fatal);
    this.control = new ManagedChild(this.controlPlan(), this.log, this.writeLine, fatal);
    this.engine.start();
    this.control.start();
    this.watchStore();
  }

  /**
   * The state directory; in it, control's own parts, which it alone writes. Nothing there is followed: control may have put it there.
   * The rest stays root's, above all wireguard/, which the engine makes when it needs it.
   */
  private makeState(): void {
    const { paths, user } = this;
    mkdirSync(paths.state, { recursive: true, mode: 0o711 });
    chmodSync(paths.state, 0o711);
    for (const directory of [paths.configState, paths.auditState, paths.apiState, paths.logState]) {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      if (!user) continue;
      for (const name of readdirSync(directory)) lchownSync(join(directory, name), user.uid, user.gid);
      lchownSync(directory, user.uid, user.gid);
    }
  }

  /** A commit may change what the engine is started with. */
  private watchStore(): void {
    this.watcher = watch(this.paths.configState, (_event, name) => {
      if (name === null || !/^pointer-[ab]$/.test(name)) return;
      clearTimeout(this.watchTimer);
      this.watchTimer = setTimeout(() => {
        this.reloading = this.reloading.then(() => this.onCommit()).catch((error: unknown) => this.log.error({ err: error }, 'a commit could not be followed'));
      }, WATCH_DEBOUNCE_MS);
    });
    this.watcher.on('error', (error) => this.log.warn({ err: error }, 'the state directory cannot be watched; engine settings need a restart'));
  }

  private async onCommit(): Promise<void> {
    const pointer = ConfigStore.readPointer(this.paths.configState);
    if (this.hasten || pointer === undefined) return;
    for (const device of pointer.devices) this.devices.add(device);
    if (JSON.stringify(pointer.engine) === JSON.stringify(this.engineOptions)) return;
    this.engineOptions = pointer.engine;
    this.log.warn('engine settings changed; starting the engine again');
    await this.engine?.replace(this.enginePlan());
  }

  private publishConfig(): void {
    replaceFile(this.paths.runningConfig, readFileSync(this.options.config), 0o640);
    if (this.user) chownSync(this.paths.runningConfig, -1, this.user.gid);
  }

  private enginePlan(): ChildPlan {
    const { workers, framesPerWorker, busyPoll, txBudget, sessionsMax } = this.engineOptions;
    const options: EngineArguments = {
      dir: this.paths.dir, framesPerWorker, busyPoll, txBudget, sessionsMax, hostDevice: HOST_DEVICE,
      workers: workers === 'auto' ? Math.min(availableParallelism(), WORKERS_AUTO_MAX) : workers,
      ...(this.user ? { socketGid: this.user.gid } : {}),
    };
    const limits = ['setpriv', `--bounding-set=-all,${ENGINE_CAPABILITIES.map((name) => `+${name}`).join(',')}`];
    if (this.user) limits.push('--groups', `0,${this.user.gid}`); // a group of its own is all that chown needs
    return {
      role: 'engine', script: SCRIPTS.engine, pidFile: this.paths.enginePid, logFile: this.paths.engineLog, niceness: ENGINE_NICENESS,
      command: [...this.mount!.enter, ...limits, '--', process.execPath, '--v8-pool-size=1', scriptPath(SCRIPTS.engine), JSON.stringify(options)],
    };
  }

  private controlPlan(): ChildPlan {
    const options: ControlArguments = { dir: this.paths.dir, isTold: true, ...(this.user ? { user: this.user } : {}) };
    return {
      role: 'control', script: SCRIPTS.control, pidFile: this.paths.controlPid, logFile: this.paths.controlLog, isHeard: true, isTold: true, niceness: CONTROL_NICENESS,
      command: [...this.mount!.enter, ...keepsNiceness(), process.execPath, `--v8-pool-size=${v8Threads()}`, `--max-semi-space-size=${CONTROL_SEMI_SPACE_MIB}`, scriptPath(SCRIPTS.control), JSON.stringify(options)],
    };
  }

  /** Says when the data plane is ready. Resolves to an exit code when it refuses to become so, to undefined otherwise. */
  private async reportReady(): Promise<number | undefined> {
    const client = new ApiClient(this.paths.apiSocket);
    let status: StatusView | undefined;
    let failingSince: number | undefined;
    for (let seconds = 0; seconds < READY_SECONDS; seconds = (performance.now() - this.startedAtMs) / 1000) {
      if (this.hasten) return undefined;
      status = await client.get<StatusView>('/api/v1/status').catch(() => undefined);
      if (status?.ready) {
        this.say(`  ${'API'.padEnd(9)}  ${this.paths.apiSocket} (sluice status --dir ${this.paths.dir})`);
        this.say(`Ready in ${((performance.now() - this.startedAtMs) / 1000).toFixed(1)} s. Ctrl-C ends it and takes everything away.`);
        return undefined;
      }
      if ((this.engine?.restarts ?? 0) >= STARTS_FAILED_MAX) break;
      failingSince = status?.failure ? failingSince ?? performance.now() : undefined;
      if (failingSince !== undefined && performance.now() - failingSince > REFUSAL_SECONDS * 1000) break;
      await delay(50, undefined, { ref: false });
    }
    const reasons = status?.missing ?? ['control does not answer'];
    this.log.error(`not ready: ${reasons.join('; ')}`);
    return this.isTakeover ? undefined : 1;
  }

  private say(line: string): void {
    if (this.options.logJson) this.log.info(line.trim());
    else process.stdout.write(`${line}\n`);
  }

  // ---- signals ----------------------------------------------------------------------------------------------------

  private catchSignals(): void {
    const onEnd = (signal: NodeJS.Signals): void => {
      if (this.hasten) {
        this.log.warn('killing the processes');
        this.control?.signal('SIGKILL');
        this.engine?.signal('SIGKILL');
        return;
      }
      this.hasten = true;
      this.log.info(`${signal}: ending`);
      this.ending?.(0);
    };
    process.on('SIGINT', onEnd);
    process.on('SIGTERM', onEnd);
    process.on('SIGHUP', () => {
      this.reloading = this.reloading.then(() => this.reload()).catch((error: unknown) => this.log.error({ err: error }, 'reload failed'));
    });
    process.on('uncaughtException', (error) => {
      this.log.fatal({ err: error }, 'the supervisor failed; ending');
      this.ending?.(1);
    });
    // A reader that went away (`sluice up | head`) is no reason to stop forwarding.
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => { /* see above */ });
  }

  private async reload(): Promise<void> {
    if (this.hasten) return;
    this.log.info(`reading ${this.options.config} again`);
    const checked = await preflight(this.options.config, () => true);
    showPreflight(checked, this.options.logJson);
    if (isRefused(checked)) {
      this.log.error('the configuration is refused; the one in force stays');
      return;
    }
    this.publishConfig();
    this.control?.signal('SIGHUP');
  }

  // ---- end --------------------------------------------------------------------------------------------------------

  private async stop(code: number): Promise<number> {
    const { paths } = this;
    this.hasten = true; // from here on a signal kills
    clearTimeout(this.watchTimer);
    this.watcher?.close();
    await this.control?.stop();
    await this.engine?.stop();
    const failures: string[] = [];
    const attempt = async (what: string, work: () => Promise<unknown> | unknown): Promise<void> => {
      try {
        await work();
      } catch (error) {
        failures.push(`${what}: ${(error as Error).message}`);
      }
    };
    const journal = CleanupJournal.load(paths.cleanup);
    if (this.mount) await attempt('pins', () => removeBpfMount(paths.bpf, this.mount!));
    failures.push(...await undoAll(journal));
    await attempt('XDP programs', () => this.xdpIsGone());
    for (const failure of failures) this.log.error(`not taken away: ${failure}`);
    await attempt('files', () => this.removeFiles(code === 0 && failures.length === 0));
    if (failures.length === 0) this.say('Ended; nothing is left.');
    return failures.length === 0 ? 0 : 1;
  }

  private async xdpIsGone(): Promise<void> {
    const { devices } = this;
    for (const end = performance.now() + XDP_DETACH_MS_MAX; ;) {
      const links = JSON.parse(await run('ip', '-j', 'link', 'show')) as { ifname: string; xdp?: unknown }[];
      const left = links.filter((link) => link.xdp !== undefined && devices.has(link.ifname)).map((link) => link.ifname);
      if (left.length === 0) return;
      if (performance.now() > end) throw new Error(`still attached to ${left.join(', ')}`);
      await delay(20);
    }
  }

  /** Logs stay when something went wrong; a directory that was there before stays, and so does the state: configuration, audit log, keys. */
  private removeFiles(isClean: boolean): void {
    const { paths } = this;
    removeMountPoint(paths.bpf);
    const files = [paths.apiSocket, paths.engineSocket, paths.runningConfig, paths.lastApplied];
    if (isClean) files.push(paths.cleanup, paths.engineLog, paths.controlLog);
    for (const file of [...files, paths.supervisorPid]) rmSync(file, { force: true });
    for (const directory of [paths.configState, paths.auditState, paths.apiState, paths.logState, paths.wireguardState, paths.state, ...(this.existed ? [] : [paths.dir])]) {
      if (existsSync(directory) && readdirSync(directory).length === 0) rmdirSync(directory);
    }
  }
}

function scriptPath(script: string): string { return join(packageRoot(), 'dist', script); }

function v8Threads(): number { return Math.max(1, Math.min(V8_THREADS_MAX, availableParallelism() - 1)); }

/** The command by which another may not become less nice than it is, where the service manager lets us do so for the engine (LimitNICE). */
function keepsNiceness(): string[] {
  const limit = Number(/^Max nice priority\s+\d+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 0);
  return limit > 0 ? ['prlimit', '--nice=0', '--'] : [];
}
