// What was set on the system, in DIR/cleanup.json: written before a thing is set, struck out after it is taken away, so that
// a crash at any point leaves no thing without its line. A line without its thing is harmless: taking it away finds nothing.
// Who: the supervisor writes it before the engine starts and after it ended, the engine in between: one writer at a time.
// Forwarding sysctls are not here: they stay off after the end (fail closed). Bounds: ENTRIES_MAX.
import { readFileSync, rmSync } from 'node:fs';
import { CommandError, run, type Run } from '../engine/command.js';
import { readBootId, readNetworkNamespace } from './pid-file.js';
import { replaceFile } from './run-directory.js';

const ENTRIES_MAX = 4096; // SL_LOCAL_ADDRESSES_MAX addresses, SL_INTERFACES_MAX VLAN devices, and room

export type CleanupEntry =
  | { kind: 'mount'; path: string; host: boolean }      // host: mounted in the mount namespace of process 1
  | { kind: 'vlan'; device: string }
  | { kind: 'link-up'; device: string }
  | { kind: 'offload'; device: string; feature: string }
  | { kind: 'address'; device: string; address: string; prefixLength: number };

interface CleanupFile { bootId: string; networkNamespace?: string; entries: CleanupEntry[] }

export class CleanupJournal {
  private constructor(private readonly path: string, private list: CleanupEntry[]) {}

  /** Lines of an earlier boot are void: what they name died with it. So are those of another network namespace, but for mounts. */
  static load(path: string): CleanupJournal {
    let file: Partial<CleanupFile> = {};
    try {
      file = JSON.parse(readFileSync(path, 'utf8')) as Partial<CleanupFile>;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' && !(error instanceof SyntaxError)) throw error;
    }
    const entries = file.bootId === readBootId() && Array.isArray(file.entries) ? file.entries : [];
    const isHere = file.networkNamespace === readNetworkNamespace('self');
    return new CleanupJournal(path, entries.filter((entry) => isHere || entry.kind === 'mount'));
  }

  get entries(): readonly CleanupEntry[] { return this.list; }

  has(entry: CleanupEntry): boolean {
    const key = keyOf(entry);
    return this.list.some((other) => keyOf(other) === key);
  }

  /** On disk when it returns. */
  add(entry: CleanupEntry): void {
    if (this.has(entry)) return;
    if (this.list.length >= ENTRIES_MAX) throw new Error(`more than ${ENTRIES_MAX} things to take away again; give the interfaces fewer addresses`);
    this.list = [...this.list, entry];
    this.write();
  }

  remove(entry: CleanupEntry): void {
    const key = keyOf(entry);
    this.list = this.list.filter((other) => keyOf(other) !== key);
    this.write();
  }

  delete(): void {
    this.list = [];
    rmSync(this.path, { force: true });
  }

  private write(): void {
    const networkNamespace = readNetworkNamespace('self');
    const file: CleanupFile = { bootId: readBootId(), ...(networkNamespace ? { networkNamespace } : {}), entries: this.list };
    replaceFile(this.path, `${JSON.stringify(file, null, 1)}\n`);
  }
}

function keyOf(entry: CleanupEntry): string {
  switch (entry.kind) {
    case 'mount': return `mount ${entry.path}`;
    case 'address': return `address ${entry.device} ${entry.address}/${entry.prefixLength}`;
    case 'offload': return `offload ${entry.device} ${entry.feature}`;
    default: return `${entry.kind} ${entry.device}`;
  }
}

/** Takes one thing away. Resolves too when it is not there any more. */
export async function undo(entry: CleanupEntry, execute: Run = run): Promise<void> {
  try {
    switch (entry.kind) {
      case 'mount':
        if (entry.host) await execute('nsenter', '--target', '1', '--mount', '--', 'umount', '--lazy', entry.path);
        else await execute('umount', '--lazy', entry.path);
        return;
      case 'vlan': await execute('ip', 'link', 'delete', 'dev', entry.device); return;
      case 'link-up': await execute('ip', 'link', 'set', 'dev', entry.device, 'down'); return;
      case 'offload': await execute('ethtool', '-K', entry.device, entry.feature, 'on'); return;
      case 'address': await execute('ip', 'address', 'delete', `${entry.address}/${entry.prefixLength}`, 'dev', entry.device);
    }
  } catch (error) {
    if (!(error instanceof CommandError) || !/Cannot find device|Cannot assign requested address|not mounted|no mount point|No such (device|file)|not found/i.test(error.stderr)) throw error;
  }
}

/** Takes all away, newest first; returns what could not be, each with its reason. What failed keeps its line. */
export async function undoAll(journal: CleanupJournal, execute: Run = run): Promise<string[]> {
  const failures: string[] = [];
  for (const entry of [...journal.entries].reverse()) {
    try {
      await undo(entry, execute);
      journal.remove(entry);
    } catch (error) {
      failures.push(`${keyOf(entry)}: ${(error as Error).message}`);
    }
  }
  return failures;
}
