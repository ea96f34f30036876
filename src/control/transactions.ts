// Transactions: the one way in which the configuration changes. Running, candidate, history; commit, confirm, rollback.
// Who: src/control/process.ts makes one and gives it to the API; src/api/routes/ and the supervisor's SIGHUP (through control) use it.
// Thread: Node's main thread of the control process; changes run one after the other, WAITING_MAX wait.
// A commit, in this order: 1 precondition (base, pending confirmation), 2 parse, share with what runs, shape, 3 check against the machine,
// 4 difference, 5 write the revision, and meanwhile compile, 6 netdevs and snapshot in the engine, 7 the pointer: the commit point,
// 8 history's bounds. Until 7 is done, any failure leaves, or brings back, the former configuration, in the engine and on disk.
import { formatChanges, diffConfigs, type Change, type Difference } from '../config/diff.js';
import { engineOptions } from '../config/defaults.js';
import type { Facts } from '../config/facts.js';
import { findSecrets, parseText } from '../config/load.js';
import type { Problem } from '../config/problem.js';
import type { Config } from '../config/schema.js';
import { warmSplice } from '../config/splice.js';
import { ApiError } from '../api/errors.js';
import type { Filled } from '../nodes/learnt.js';
import type { Log } from '../supervisor/log.js';
import { compileChecked, type AttachedSlot, type CompileResult } from './compiled.js';
import type { Control } from './control.js';
import { passFaultPoint } from './fault-points.js';
import { ConfigStore, etagOf, type Pending, type Pointer, type RevisionHead } from './store.js';
import { DamagedFile } from './store-files.js';
import type { Author, Candidate, CommitRequest, CommitResult, Follower, Revision, Version } from './transaction-types.js';
import { invalid, readVersion, type KnownVersion } from './version.js';

export type { Author, Candidate, Change, CommitRequest, CommitResult, Revision, Version } from './transaction-types.js';

const WAITING_MAX = 64;
const COMMENT_CHARACTERS_MAX = 1000;
export const CONFIRM_WITHIN_S_MAX = 86_400;
const TIMER_MS_MAX = 0x7fff_ffff; // setTimeout's own bound
const WRITE_RETRY_MS = 10_000;
const SYSTEM: Author = { name: 'sluice', via: 'system' };

type Action = Revision['action'];
interface Step { request: CommitRequest; action: Action; file?: { sha256: string }; /** Without it when it is away. */ engine: 'needed' | 'if-there' }

export type CommitOutcome = 'done' | 'refused' | 'failed';

export class Transactions {
  private version: KnownVersion | undefined;
  private readonly store: ConfigStore;
  private turn: Promise<unknown> = Promise.resolve();
  private waiting = 0;
  private timer: NodeJS.Timeout | undefined;
  private control: Control | undefined;
  /** Control starts again to take restored keys. */
  onKeysRestored: (() => void) | undefined;
  /** Puts what other nodes told into a configuration that is compiled; src/control/process.ts sets it. */
  fill: ((config: Config) => Filled) | undefined;
  /** Set before the first change. */
  follower: Follower | undefined;
  /** Told how each commit ended, and how long it took; metrics count it. */
  onCommit: ((result: CommitOutcome, milliseconds: Partial<CommitResult['milliseconds']> & { total: number }) => void) | undefined;
  /** What the store had to say when it was read: damage, and what runs instead. */
  readonly damage: readonly string[];

  constructor(directory: string, private readonly log: Log) {
    this.store = ConfigStore.read(directory);
    this.damage = this.store.damage;
  }

  // ---- start ------------------------------------------------------------------------------------------------------

  /** `offered`: the file of `sluice up --config`. Resolves when it is known what runs; the engine may still be away. */
  async start(control: Control, offered?: string): Promise<void> {
    this.control = control;
    await this.store.open().catch((error: unknown) => this.log.error({ err: error }, 'the state directory cannot be written; changes will be refused'));
    const { running } = this.store;
    if (running !== undefined) this.version = this.versionOf(running.head, running.text);
    for (const damage of this.store.damage) this.log.error(`configuration store: ${damage}${running ? `; revision ${running.head.revision}, the last good one, runs` : ''}`);
    const { pending } = this.store.pointer ?? {};
    if (pending !== undefined) {
      // A clock that was set back must not lengthen it.
      const leftMs = Math.min(pending.deadlineMs - Date.now(), pending.withinS * 1000);
      if (leftMs <= 0) await this.inTurn(() => this.takeBack(pending));
      else this.awaitConfirmation(leftMs);
    }
    if (offered !== undefined) await this.takeFile(offered);
    this.warm();
  }

  /** The first change over the API needs to know all entries of the text: better read before than while somebody waits. */
  private warm(): void {
    const { version } = this;
    if (version === undefined) return;
    const steps = warmSplice(version.text, version.config);
    const step = (): void => { if (this.version === version && !steps.next().done) setImmediate(step).unref(); };
    setImmediate(step).unref();
  }

  stop(): void { clearTimeout(this.timer); }

  /** The file that `up` was given: taken over when it differs from what was last taken over from it; else what the store has goes on. */
  async takeFile(text: string): Promise<CommitResult | undefined> {
    const sha256 = etagOf(text);
    if (this.store.pointer?.file?.sha256 === sha256) return undefined;
    return this.inTurn(async () => {
      const result = await this.commitNow({
        request: { text, by: { name: 'file', via: 'file' }, comment: 'the file given to sluice up changed', force: true },
        action: 'file', file: { sha256 }, engine: 'if-there',
      });
      this.log.info({ revision: result.revision, changes: result.changeCount }, 'took the file over as a new revision');
      this.warm();
      return result;
    });
  }

  // ---- what there is ----------------------------------------------------------------------------------------------

  /** Throws ApiError SLUICE_NOT_READY while there is none. */
  get running(): Version { return this.runningOrThrow(); }
  get runningConfig(): Config | undefined { return this.version?.config; }

  get pending(): { revision: number; revertTo: number; confirmBy: string } | undefined {
    const { pending } = this.store.pointer ?? {};
    return pending && { revision: pending.revision, revertTo: pending.revertTo, confirmBy: new Date(pending.deadlineMs).toISOString() };
  }

  get candidate(): Candidate | undefined {
    const { candidate } = this.store;
    return candidate && { ...candidate.head, text: candidate.text };
  }

  /** Newest first. */
  history(): Revision[] { return this.store.history.map((head) => this.revisionOf(head)); }

  /** Throws ApiError SLUICE_API_NOT_FOUND. */
  revisionText(revision: number): string {
    if (revision === this.version?.revision) return this.version.text;
    try {
      const found = this.store.has(revision) ? this.store.readRevision(revision) : undefined;
      if (found) return found.text;
    } catch (error) {
      if (!(error instanceof DamagedFile)) throw error;
      throw new ApiError(500, 'SLUICE_STATE_DAMAGED', `revision ${revision} is damaged on disk`);
    }
    throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no revision ${revision} in history; \`sluice config history\` lists them`);
  }

  diff(from: number | 'running' | 'candidate', to: number | 'running' | 'candidate'): Change[] { return this.difference(from, to).changes; }

  difference(from: number | 'running' | 'candidate', to: number | 'running' | 'candidate'): Difference {
    return diffConfigs(this.valueOf(from), this.valueOf(to));
  }

  /** What compiles now: control asks at each change of the machine. */
  compileRunning(facts: Facts, generation: number, slots: readonly AttachedSlot[]): CompileResult {
    const { version } = this;
    if (version === undefined) return { problems: [{ severity: 'error', code: 'SLUICE_CONFIG_UNREADABLE', file: 'running', line: 1, column: 1, path: '', message: 'there is no configuration yet', remedy: 'commit one' }] };
    return this.compile(version, facts, generation, slots);
  }

  // ---- changes ----------------------------------------------------------------------------------------------------

  commit(request: CommitRequest): Promise<CommitResult> {
    return this.inTurn(() => this.commitNow({ request, action: 'commit', engine: 'needed' }));
  }

  /** Keeps what a commit with confirmWithinS put in force. */
  confirm(by: Author): Promise<Revision> {
    return this.inTurn(async () => {
      const { pointer } = this.store;
      if (pointer?.pending === undefined) throw new ApiError(409, 'SLUICE_CONFIRM_NONE', 'no change waits for a confirmation');
      const { pending, ...rest } = pointer;
      await this.durably(() => this.store.point(rest));
      clearTimeout(this.timer);
      this.log.info({ revision: pending.revision, by: by.name }, 'confirmed');
      return this.revisionOf(this.store.history.find((one) => one.revision === pointer.revision)!);
    });
  }

  /** Commits the content of an earlier revision again, as a new one. Ends a wait for confirmation. */
  rollback(revision: number, by: Author, comment = ''): Promise<CommitResult> {
    return this.inTurn(() => this.commitNow({
      request: { text: this.revisionText(revision), by, comment: comment || `back to revision ${revision}`, force: true }, action: 'rollback', engine: 'needed',
    }));
  }

  /** A backup's configuration. */
  restore(text: string, by: Author, comment: string): Promise<CommitResult> {
    return this.inTurn(() => this.commitNow({ request: { text, by, comment, force: true }, action: 'restore', engine: 'needed' }));
  }

  /** Text that is not committed yet; it must be YAML, and need not be right. */
  setCandidate(text: string, by: Author, base?: string): Promise<Candidate> {
    return this.inTurn(async () => {
      const { value, problems, locate } = parseText(text, 'candidate');
      if (problems.length > 0) throw invalid(problems);
      const secrets = findSecrets(value, 'candidate', locate);
      if (secrets.length > 0) throw invalid(secrets); // it would stand on disk, for all who may read candidates
      const head = { etag: etagOf(text), base: base ?? this.candidate?.base ?? this.version?.etag ?? '', by, at: new Date().toISOString() };
      await this.durably(() => this.store.setCandidate(head, text));
      return { ...head, text };
    });
  }

  discardCandidate(): Promise<void> { return this.inTurn(() => this.durably(() => this.store.setCandidate(undefined))); }

  // ---- a commit, step by step -------------------------------------------------------------------------------------

  private async commitNow(step: Step): Promise<CommitResult> {
    const begunMs = performance.now();
    const tell = (result: CommitOutcome, milliseconds: Partial<CommitResult['milliseconds']> & { total: number }): void => { if (!step.request.dryRun) this.onCommit?.(result, milliseconds); };
    try {
      const result = await this.commitSteps(step);
      tell('done', result.milliseconds);
      return result;
    } catch (error) {
      tell(error instanceof ApiError && error.status < 500 ? 'refused' : 'failed', { total: performance.now() - begunMs });
      throw error;
    }
  }

  private async commitSteps({ request, action, file, engine }: Step): Promise<CommitResult> {
    passFaultPoint('commit-begun');
    const control = this.control!;
    const begunMs = performance.now();
    const former = this.version;
    const fromCandidate = request.text === undefined && request.config === undefined;
    const candidate = fromCandidate ? this.candidate : undefined;
    if (fromCandidate && candidate === undefined) throw new ApiError(409, 'SLUICE_CONFIG_CANDIDATE', 'there is no candidate to commit');
    this.refuseConflict(request, candidate, former);
    const { pending } = this.store.pointer ?? {};
    if (pending !== undefined && action === 'commit' && !request.dryRun) throw confirmPending(pending);
    const within = request.confirmWithinS;
    if (within !== undefined && !(Number.isInteger(within) && within >= 1 && within <= CONFIRM_WITHIN_S_MAX)) {
      throw new ApiError(400, 'SLUICE_API_ARGUMENT', `confirmWithinS is a whole number from 1 to ${CONFIRM_WITHIN_S_MAX}`, '/confirmWithinS');
    }
    if (within !== undefined && former === undefined) throw new ApiError(409, 'SLUICE_CONFIRM_NONE', 'the first configuration has nothing to go back to; commit it without a confirmation');

    const next = readVersion(request.text ?? candidate?.text, request.config, former, action === 'file' ? 'file' : 'candidate');
    passFaultPoint('commit-parsed');
    const problems = next.problems(control.facts);
    if (problems.some(({ severity }) => severity === 'error')) throw invalid(problems);
    const { changes, count } = diffConfigs(former?.config ?? {}, next.config);
    passFaultPoint('commit-validated');
    const warnings = [...problems, ...this.engineWarnings(former, next)];
    const validateMs = performance.now() - begunMs;
    const result = (revision: number, compileMs: number, applyMs: number, confirmBy?: string): CommitResult => ({
      revision, etag: next.etag, changes, changeCount: count, warnings,
      milliseconds: { validate: round(validateMs), compile: round(compileMs), apply: round(applyMs), total: round(performance.now() - begunMs) },
      ...(confirmBy === undefined ? {} : { confirmBy }),
    });
    const compile = (facts: Facts, generation: number, slots: readonly AttachedSlot[]): CompileResult => this.compile(next, facts, generation, slots);
    if (request.dryRun) {
      const compileBegunMs = performance.now();
      await control.tryCompile(compile).catch((error: unknown) => { throw readable(error); });
      return result(former?.revision ?? 0, performance.now() - compileBegunMs, 0);
    }
    if (former !== undefined && next.etag === former.etag && action === 'commit' && within === undefined) {
      if (fromCandidate) await this.dropCandidate();
      return result(former.revision, 0, 0);
    }

    // What nobody asked for in person has to happen, whatever the listener says to it.
    const isAsked = action !== 'file' && action !== 'not-confirmed';
    const following = isAsked ? await this.follower?.prepare(next.config, former?.config, request) : undefined;
    const head: RevisionHead = {
      revision: this.store.nextRevision, etag: next.etag, at: new Date().toISOString(), by: request.by,
      comment: (request.comment ?? '').slice(0, COMMENT_CHARACTERS_MAX), action, changes: count, bytes: next.bytes!.length,
    };
    const { pending: _over, sequence: _sequence, ...kept } = this.store.pointer ?? ({} as Partial<Pointer>);
    const pointer: Omit<Pointer, 'sequence'> = {
      ...kept, ...(file === undefined ? {} : { file }), revision: head.revision, etag: next.etag,
      engine: engineOptions(next.config), devices: devicesOf(next.config),
      ...(within === undefined ? {} : { pending: { revision: head.revision, revertTo: former!.revision, deadlineMs: Date.now() + within * 1000, withinS: within, by: request.by } }),
    };
    const prepared = this.durably(() => this.store.prepare(head, next.bytes!)).then(() => passFaultPoint('commit-prepared'));
    prepared.catch(() => undefined); // whoever needs it awaits it
    let compileMs = 0;
    let applyMs = 0;
    const become = { ...next, revision: head.revision, bytes: undefined };
    const keep = async (): Promise<void> => {
      await this.durably(() => this.store.point(pointer));
      this.version = become;
    };
    try {
      if (control.engine.isConnected || engine === 'needed') ({ compileMs, applyMs } = await control.change({ compile, prepared, keep }));
      else {
        await prepared;
        await keep();
        control.reload();
      }
    } catch (error) {
      await following?.abandon();
      await prepared.catch(() => undefined);
      await this.store.forget(head.revision).catch(() => undefined);
      throw readable(error);
    }
    await (following?.commit() ?? this.follower?.configure(next.config));
    this.follower?.changed(head);
    clearTimeout(this.timer);
    if (pointer.pending) this.awaitConfirmation(within! * 1000);
    await this.store.settle(head.revision).catch((error: unknown) => this.log.warn({ err: error }, 'history could not be tidied; the next commit tries again'));
    if (fromCandidate) await this.dropCandidate();
    if (request.config === undefined) this.warm();
    passFaultPoint('candidate-dropped');
    this.log.info({ revision: head.revision, by: request.by.name, via: request.by.via, action, changes: count, confirmBy: pointer.pending?.deadlineMs }, 'committed');
    passFaultPoint('commit-answering');
    return result(head.revision, compileMs, applyMs, pointer.pending && new Date(pointer.pending.deadlineMs).toISOString());
  }

  private refuseConflict(request: CommitRequest, candidate: Candidate | undefined, former: KnownVersion | undefined): void {
    const base = request.base ?? candidate?.base;
    if (base === undefined || request.force || former === undefined || base === former.etag) return;
    const origin = this.store.history.find((one) => one.etag === base);
    const difference = origin === undefined ? undefined : this.difference(origin.revision, 'running');
    const since = origin === undefined ? `it was made from a version that history does not have` : `it was made from revision ${origin.revision}`;
    throw new ApiError(412, 'SLUICE_CONFIG_CONFLICT', `${since}, and revision ${former.revision} runs by now; look at the difference and commit again`, undefined, {
      headers: { etag: `"${former.etag}"` },
      members: { running: { revision: former.revision, etag: former.etag }, ...(difference && { changes: difference.changes, changeCount: difference.count, difference: formatChanges(difference) }) },
    });
  }

  private engineWarnings(former: KnownVersion | undefined, next: KnownVersion): Problem[] {
    if (former === undefined || JSON.stringify(engineOptions(former.config)) === JSON.stringify(engineOptions(next.config))) return [];
    return [{ severity: 'warning', code: 'SLUICE_ENGINE_RESTART', file: 'candidate', line: 1, column: 1, path: 'engine', message: 'the engine is started again for its new settings: sessions end', remedy: 'change engine: and limits.sessions when that does no harm' }];
  }

  private async dropCandidate(): Promise<void> {
    await this.store.setCandidate(undefined).catch((error: unknown) => this.log.warn({ err: error }, 'the committed candidate could not be taken away'));
  }

  // ---- confirmation -----------------------------------------------------------------------------------------------

  private awaitConfirmation(leftMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const { pending } = this.store.pointer ?? {};
      if (pending === undefined) return;
      if (leftMs > TIMER_MS_MAX) return this.awaitConfirmation(leftMs - TIMER_MS_MAX);
      void this.inTurn(() => this.takeBack(pending)).catch((error: unknown) => this.log.error({ err: error }, 'taking the unconfirmed change back failed'));
    }, Math.min(leftMs, TIMER_MS_MAX));
    this.timer.unref();
  }

  /** The unconfirmed change goes, whatever it takes: when the disk cannot be written, what runs changes all the same, and writing is tried again. */
  private async takeBack(pending: Pending): Promise<void> {
    if (this.store.pointer?.pending?.revision !== pending.revision) return;
    const comment = `revision ${pending.revision} was not confirmed within ${pending.withinS} s`;
    this.log.warn(`${comment}: going back to revision ${pending.revertTo}`);
    const text = this.revisionText(pending.revertTo);
    try {
      await this.commitNow({ request: { text, by: SYSTEM, comment, force: true }, action: 'not-confirmed', engine: 'if-there' });
    } catch (error) {
      this.log.error({ err: error }, `going back to revision ${pending.revertTo} failed; it is what control puts in force from now on, and it is tried again`);
      this.version = { ...readVersion(text, undefined, this.version, 'candidate', pending.revertTo), bytes: undefined };
      this.control?.reload();
      if (this.version) await this.follower?.configure(this.version.config);
      this.awaitConfirmation(WRITE_RETRY_MS);
    }
  }

  // ---- helpers ----------------------------------------------------------------------------------------------------

  private runningOrThrow(): KnownVersion {
    if (this.version === undefined) throw new ApiError(503, 'SLUICE_NOT_READY', 'there is no configuration yet');
    return this.version;
  }

  private revisionOf(head: RevisionHead): Revision {
    const { revision, etag, at, by, comment, action, changes, bytes } = head;
    const { pending } = this.store.pointer ?? {};
    return {
      revision, etag, at, by, comment, action, changes, bytes, running: revision === this.version?.revision,
      ...(pending?.revision === revision ? { confirmBy: new Date(pending.deadlineMs).toISOString() } : {}),
    };
  }

  private valueOf(which: number | 'running' | 'candidate'): unknown {
    if (which === 'running' || which === this.version?.revision) return this.runningOrThrow().config;
    const text = which === 'candidate' ? this.candidate?.text : this.revisionText(which);
    if (text === undefined) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', 'there is no candidate');
    return parseText(text, String(which)).value;
  }

  private versionOf(head: RevisionHead, text: string): KnownVersion | undefined {
    const file = `revision ${head.revision}`;
    try {
      return { ...readVersion(text, undefined, undefined, file), revision: head.revision, bytes: undefined };
    } catch (error) {
      // A revision of a version of Sluice whose schema knew more: nothing is put in force, and the engine keeps what it has.
      if (!(error instanceof ApiError)) throw error;
      this.log.error({ problems: error.extras.problems?.slice(0, 5) }, `${file} is none that this version takes; commit another`);
      return undefined;
    }
  }

  private compile(version: KnownVersion, facts: Facts, generation: number, slots: readonly AttachedSlot[]): CompileResult {
    const problems = version.problems(facts);
    if (problems.some(({ severity }) => severity === 'error')) return { problems };
    const filled = this.fill?.(version.config);
    return compileChecked(filled?.config ?? version.config, problems, `revision ${version.revision}`, facts, generation, slots, filled);
  }

  private async durably<T>(write: () => Promise<T>): Promise<T> {
    try {
      return await write();
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      if (code === 'ENOSPC' || code === 'EDQUOT') throw new ApiError(507, 'SLUICE_STATE_DISK', `the disk of ${this.store.directory} is full; nothing was changed. Make room there and commit again`);
      if (code === undefined) throw error;
      throw new ApiError(507, 'SLUICE_STATE_DISK', `${this.store.directory} cannot be written (${message}); nothing was changed`);
    }
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.waiting >= WAITING_MAX) {
      return Promise.reject(new ApiError(503, 'SLUICE_API_BUSY', `${WAITING_MAX} changes wait already`, undefined, { headers: { 'retry-after': '1' } }));
    }
    this.waiting += 1;
    const result = this.turn.then(work).finally(() => { this.waiting -= 1; });
    this.turn = result.catch(() => undefined);
    return result;
  }
}

export function devicesOf(config: Config): string[] {
  return [...new Set(Object.values(config.interfaces ?? {}).map((one) => one.device))];
}

function confirmPending(pending: Pending): ApiError {
  const confirmBy = new Date(pending.deadlineMs).toISOString();
  return new ApiError(409, 'SLUICE_CONFIRM_PENDING', `revision ${pending.revision} waits for its confirmation until ${confirmBy}; confirm it or roll back first`, undefined, { members: { revision: pending.revision, revertTo: pending.revertTo, confirmBy } });
}

/** What the machine at this moment does not allow is the configuration's fault to whoever commits it. */
function readable(error: unknown): unknown {
  const { problems } = (error ?? {}) as { problems?: Problem[] };
  return !(error instanceof ApiError) && problems ? invalid(problems) : error;
}

function round(milliseconds: number): number { return Math.round(milliseconds * 100) / 100; }
