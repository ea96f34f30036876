// Control runs as an unprivileged user. It starts as root, opens what only root may (its socket, its modules in a checkout that may
// stand under /root), and then gives root up for good. Who: src/control/main.ts; the supervisor for the group of the engine's socket.
// The user is `sluice` where the system has it, else an id of the range that systemd keeps for such users (no account needed).
import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

const USER_NAME = 'sluice';
const ID_FIRST = 61184; // systemd's dynamic users: 61184..65519
const ID_LAST = 65519;
const ID_PREFERRED = 62753;

export interface ControlUser { uid: number; gid: number; name: string }

/** Undefined when not root: whoever started us stays the user. */
export function chooseControlUser(): ControlUser | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const accounts = readDatabase('/etc/passwd');
  const account = accounts.find((fields) => fields[0] === USER_NAME);
  if (account) return { uid: Number(account[2]), gid: Number(account[3]), name: USER_NAME };
  const taken = new Set([...accounts, ...readDatabase('/etc/group')].map((fields) => Number(fields[2])));
  let id = ID_PREFERRED;
  while (taken.has(id)) id = id === ID_LAST ? ID_FIRST : id + 1;
  return { uid: id, gid: id, name: String(id) };
}

function readDatabase(path: string): string[][] {
  try {
    return readFileSync(path, 'utf8').split('\n').filter((line) => line.includes(':')).map((line) => line.split(':'));
  } catch {
    return [];
  }
}

/** Can this user reach files in a directory? Else the nearest parent that bars the way. */
export function findBarrier(directory: string, user: ControlUser): string | undefined {
  for (let path = directory; ; path = dirname(path)) {
    const { mode, uid, gid } = statSync(path);
    const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0) return path;
    if (path === dirname(path)) return undefined;
  }
}

/** Gives up root. There is no way back: saved ids and supplementary groups go too. */
export function dropPrivileges(user: ControlUser): void {
  process.setgroups!([user.gid]);
  process.setgid!(user.gid);
  process.setuid!(user.uid);
}
