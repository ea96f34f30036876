// Process identities (pid, start time, boot) in DIR/*.pid, and the lock that lets one supervisor rule a run directory.
// Who: the supervisor. A pid alone says nothing (pids come again): before a signal is sent, start time and command are compared.
import { linkSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export interface ProcessIdentity {
  pid: number;
  startTicks: number;  // field 22 of /proc/PID/stat
  bootId: string;
  role: string;        // the title is `sluice: ROLE`
  script: string;      // what the command line holds until the title is set
}

export function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Two processes with the same text share their network namespace. */
export function readNetworkNamespace(pid: number | 'self'): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch {
    return undefined; // it ended
  }
}

interface ProcessStat { startTicks: number; state: string; command: string }

function readProcess(pid: number): ProcessStat | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command's name stands in parentheses and may hold both blanks and parentheses.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
    return { state: fields[0] ?? '', startTicks: Number(fields[19]), command };
  } catch {
    return undefined;
  }
}

export function identify(pid: number, role: string, script: string): ProcessIdentity | undefined {
  const found = readProcess(pid);
  return found && { pid, startTicks: found.startTicks, bootId: readBootId(), role, script };
}

/** True while exactly this process lives; zombies do not. */
export function isAlive(identity: ProcessIdentity): boolean {
  if (identity.bootId !== readBootId()) return false;
  const found = readProcess(identity.pid);
  if (!found || found.startTicks !== identity.startTicks || found.state === 'Z' || found.state === 'X') return false;
  return found.command.startsWith(`sluice: ${identity.role}`) || found.command.includes(identity.script);
}

/** Undefined for a file that is missing or holds no identity. */
export function readPidFile(path: string): ProcessIdentity | undefined {
  try {
    const value = JSON.parse(readFileSync(path, 'utf8')) as Partial<ProcessIdentity>;
    if (!Number.isInteger(value.pid) || value.pid! < 2 || !Number.isInteger(value.startTicks)) return undefined;
    if (typeof value.bootId !== 'string' || typeof value.role !== 'string' || typeof value.script !== 'string' || value.script === '') return undefined;
    return value as ProcessIdentity;
  } catch {
    return undefined;
  }
}

export function writePidFile(path: string, identity: ProcessIdentity): void {
  const temporary = `${path}.${process.pid}`;
  rmSync(temporary, { force: true });
  writeFileSync(temporary, `${JSON.stringify(identity)}\n`, { mode: 0o644, flag: 'wx' });
  renameSync(temporary, path);
}

/** Takes the lock, or returns who holds it. link(2) makes one winner of several that start together. */
export function takeLock(path: string, own: ProcessIdentity): ProcessIdentity | undefined {
  const temporary = `${path}.${own.pid}`;
  rmSync(temporary, { force: true });
  writeFileSync(temporary, `${JSON.stringify(own)}\n`, { mode: 0o644, flag: 'wx' });
  try {
    for (let attempt = 0; attempt < 10; attempt += 1) {
      try {
        linkSync(temporary, path);
        return undefined;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      }
      const holder = readPidFile(path);
      if (holder && isAlive(holder)) return holder;
      discardStale(path, own.pid);
    }
    throw new Error(`${path} changes hands again and again; remove it when no sluice runs there`);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Moves a stale lock aside; when a rival replaced it just now, puts the rival's back. */
function discardStale(path: string, pid: number): void {
  const aside = `${path}.stale.${pid}`;
  try {
    renameSync(path, aside);
  } catch {
    return; // a rival was faster
  }
  const moved = readPidFile(aside);
  if (moved && isAlive(moved)) {
    try {
      linkSync(aside, path);
    } catch { /* a third one holds it by now, and finds this one alive */ }
  }
  rmSync(aside, { force: true });
}

/** Ends a process of ours: SIGTERM, and SIGKILL when it still lives after `graceMs`. False when it would not die. */
export async function endProcess(identity: ProcessIdentity, graceMs: number): Promise<boolean> {
  const signal = (name: NodeJS.Signals): void => {
    try {
      if (isAlive(identity)) process.kill(identity.pid, name);
    } catch { /* it ended in between */ }
  };
  signal('SIGTERM');
  if (await isGone(identity, graceMs)) return true;
  signal('SIGKILL');
  return isGone(identity, 5000);
}

async function isGone(identity: ProcessIdentity, withinMs: number): Promise<boolean> {
  const end = performance.now() + withinMs;
  while (isAlive(identity)) {
    if (performance.now() >= end) return false;
    await delay(20);
  }
  return true;
}
