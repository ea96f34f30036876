// The bpffs at DIR/bpf: XDP programs stay attached as long as it is mounted somewhere, whoever dies. Who: the supervisor.
// Three cases. The mount is visible here: used. It is not, but a process of an earlier supervisor lives in the mount namespace that
// has it (`ip netns exec` makes a private one each time): our children run in that namespace too. Else: mounted, in the
// namespace of process 1 where that is possible and reaches us, so that it outlives even the last of our processes; or here.
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync, rmdirSync, statSync } from 'node:fs';
import { run, tryRun, CommandError, type Run } from '../engine/command.js';
import type { CleanupEntry, CleanupJournal } from './cleanup.js';

const PINS = /^(link|map)-/;

export interface BpfMount {
  enter: string[];      // put before a command that needs to see the mount; empty: we see it
  isFresh: boolean;     // nothing is pinned in it
  release(): void;      // the namespace need not be kept any more
}

function isMountedFor(pid: number | 'self', path: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/mountinfo`, 'utf8').split('\n')
      .some((line) => line.split(' ')[4] === path && / - bpf /.test(line));
  } catch {
    return false;
  }
}

export async function ensureBpfMount(path: string, orphans: readonly number[], journal: CleanupJournal, execute: Run = run): Promise<BpfMount> {
  const here = (isFresh: boolean): BpfMount => ({ enter: [], isFresh, release: () => { /* nothing is held */ } });
  mkdirSync(path, { recursive: true, mode: 0o700 });
  // One that is no line of the journal is not ours (the service manager's, say): used, and left at the end.
  if (isMountedFor('self', path)) return here(!readdirSync(path).some((name) => PINS.test(name)));
  const keeper = orphans.find((pid) => isMountedFor(pid, path));
  if (keeper !== undefined) {
    const namespace = openSync(`/proc/${keeper}/ns/mnt`, 'r'); // keeps it when the orphan has ended
    return { enter: ['nsenter', `--mount=/proc/${process.pid}/fd/${namespace}`, '--'], isFresh: false, release: () => closeSync(namespace) };
  }
  if (isHostReachable(path)) {
    const entry: CleanupEntry = { kind: 'mount', path, host: true };
    journal.add(entry);
    const mounted = await tryRun(execute, 'nsenter', '--target', '1', '--mount', '--', 'mount', '-t', 'bpf', '-o', 'mode=0700', 'bpf', path);
    if (mounted !== undefined && isMountedFor('self', path)) return here(true);
    if (mounted !== undefined) await tryRun(execute, 'nsenter', '--target', '1', '--mount', '--', 'umount', path);
    journal.remove(entry);
  }
  journal.add({ kind: 'mount', path, host: false });
  await execute('mount', '-t', 'bpf', '-o', 'mode=0700', 'bpf', path);
  return here(true);
}

/** Is process 1 in another mount namespace, in which this path is the same directory? */
function isHostReachable(path: string): boolean {
  try {
    if (readlinkSync('/proc/1/ns/mnt') === readlinkSync('/proc/self/ns/mnt')) return false;
    const there = statSync(`/proc/1/root${path}`);
    const ours = statSync(path);
    return there.dev === ours.dev && there.ino === ours.ino;
  } catch {
    return false; // another user's process 1, as in containers
  }
}

/** Unpins everything, so that XDP programs are detached even where another mount namespace keeps a copy of the mount; then unmounts. */
export async function removeBpfMount(path: string, mount: BpfMount, execute: Run = run): Promise<void> {
  const [program = '', ...args] = [...mount.enter, 'find', path, '-xdev', '-mindepth', '1', '-maxdepth', '1', '-type', 'f', '!', '-name', '*.debug', '-delete']; // the kernel's own two cannot be deleted
  await execute(program, ...args);
  if (mount.enter.length > 0) {
    const [nsenter = '', ...rest] = [...mount.enter, 'umount', '--lazy', path];
    await tryRun(execute, nsenter, ...rest);
  }
  mount.release();
}

/** Names of the netdevs whose link is pinned: programs of ours. */
export async function pinnedLinks(path: string, mount: BpfMount, execute: Run = run): Promise<string[]> {
  const [program = '', ...args] = [...mount.enter, 'find', path, '-mindepth', '1', '-maxdepth', '1', '-name', 'link-*', '-printf', '%f\n'];
  try {
    return (await execute(program, ...args)).split('\n').filter((name) => name !== '').map((name) => name.slice('link-'.length));
  } catch (error) {
    if (error instanceof CommandError) return [];
    throw error;
  }
}

export function removeMountPoint(path: string): void {
  try {
    rmdirSync(path);
  } catch { /* not empty or still mounted: said elsewhere */ }
}
