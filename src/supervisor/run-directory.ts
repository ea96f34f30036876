// The run directory (`--dir DIR`): where each file of a running appliance stands, and how files in it are replaced.
// Who: supervisor, engine, control and CLI; all agree on names here. The supervisor alone creates and removes the directory.
// Bounds: a Unix socket's path holds SOCKET_PATH_BYTES_MAX bytes, so DIR must be short.
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const DEFAULT_DIRECTORY = '/run/sluice';
export const DEFAULT_STATE_DIRECTORY = '/var/lib/sluice';
const SOCKET_PATH_BYTES_MAX = 107; // sizeof sockaddr_un.sun_path less its NUL

export interface RunDirectory {
  dir: string; state: string;
  apiSocket: string; engineSocket: string;
  supervisorPid: string; enginePid: string; controlPid: string;
  engineLog: string; controlLog: string;
  bpf: string; runningConfig: string; cleanup: string; lastApplied: string;
  configState: string; auditState: string; apiState: string; logState: string; nodeState: string;   // control's own parts of the state directory
  wireguardState: string;                                                        // the engine's own: private keys, closed to control
}

/** Throws Error when DIR is too long for its sockets. */
export function runDirectory(directory: string): RunDirectory {
  const dir = resolve(directory);
  const state = dir === DEFAULT_DIRECTORY ? DEFAULT_STATE_DIRECTORY : join(dir, 'state');
  const at = (name: string): string => join(dir, name);
  if (Buffer.byteLength(at('engine.sock')) > SOCKET_PATH_BYTES_MAX) {
    throw new Error(`the path ${dir} is too long for the sockets in it; choose a --dir of ${SOCKET_PATH_BYTES_MAX - '/engine.sock'.length} bytes at most`);
  }
  return {
    dir, state,
    apiSocket: at('api.sock'), engineSocket: at('engine.sock'),
    supervisorPid: at('supervisor.pid'), enginePid: at('engine.pid'), controlPid: at('control.pid'),
    engineLog: at('engine.log'), controlLog: at('control.log'),
    bpf: at('bpf'), runningConfig: at('running.yaml'), cleanup: at('cleanup.json'), lastApplied: join(state, 'last-applied.bin'),
    configState: join(state, 'config'), auditState: join(state, 'audit'), apiState: join(state, 'api'), logState: join(state, 'logs'), nodeState: join(state, 'node'), wireguardState: join(state, 'wireguard'),
  };
}

/** DIR of a command line: the option, else SLUICE_DIR, else the default. */
export function chosenDirectory(option: string | undefined): string {
  return option ?? (process.env['SLUICE_DIR'] || DEFAULT_DIRECTORY);
}

/** Replaces a file so that a reader, or (`isDurable`) a machine that loses power, finds the old content or the new one, never half. */
export function replaceFile(path: string, content: string | Uint8Array, mode = 0o600, isDurable = true): void {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.tmp`;
  rmSync(temporary, { force: true }); // and 'wx' below: a link planted there is never followed
  const file = openSync(temporary, 'wx', mode);
  try {
    const bytes = typeof content === 'string' ? Buffer.from(content) : content;
    for (let written = 0; written < bytes.length;) written += writeSync(file, bytes, written);
    if (isDurable) fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
  if (!isDurable) return;
  const directory = openSync(dirname(path), 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

let root: string | undefined;

/** The directory of package.json, from dist/ as from src/. */
export function packageRoot(): string {
  if (root !== undefined) return root;
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) {
    const parent = dirname(directory);
    if (parent === directory) throw new Error('package.json of sluice is not above this file; reinstall it');
    directory = parent;
  }
  root = directory;
  return root;
}

let version: string | undefined;

export function packageVersion(): string {
  version ??= (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version;
  return version;
}
