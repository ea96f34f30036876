// Gathers what `sluice doctor` judges: the machine, the files, the configuration, the running appliance. Who: src/cli/commands/doctor.ts.
// It changes nothing, needs no rights, and never fails: what it may not or cannot look at becomes an Unknown with its reason.
// Bounds: DNS_TIMEOUT_MS a name server, NAME_SERVERS_MAX of them; the tools' limits are src/engine/command.ts's.
import { Resolver } from 'node:dns/promises';
import { accessSync, constants, existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { availableParallelism, release, totalmem } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { ApiClient, ClientError } from '../api/client.js';
import type { Problem } from '../config/problem.js';
import type { Config } from '../config/schema.js';
import { chooseControlUser, findBarrier } from '../control/privileges.js';
import type { StatusView } from '../control/status.js';
import { addonPath, bpfObjectPath } from '../engine/binding.js';
import { run, tryRun, type Run } from '../engine/command.js';
import { readFacts, type HostFacts } from '../engine/facts.js';
import { runDirectory } from '../supervisor/run-directory.js';
import { isKnown, Unknown, type Known } from './finding.js';

const DNS_TIMEOUT_MS = 2000;
const NAME_SERVERS_MAX = 3;

export interface Feature { on: boolean; fixed: boolean }
export interface Listener { protocol: 'tcp' | 'udp'; address: string; port: number }
export interface PathFacts { path: string; exists: boolean; writable: boolean; openToOthers: boolean; freeBytes: Known<number>; freeFiles: Known<number> }
export type DnsAnswer = 'answers' | 'fails' | 'silent';

export interface DoctorFacts {
  isRoot: boolean;
  node: string;
  kernel: string;
  processors: number;
  tools: Record<string, boolean>;
  build: { addon: boolean; bpfObject: boolean };
  btf: boolean;
  bpfFilesystem: Known<boolean>;
  xdpSockets: Known<boolean>;
  tun: boolean;
  jit: Known<string>;
  lockdown: Known<string>;
  capabilities: Known<bigint>;
  memlockBytes: Known<number>;                 // Infinity: no limit
  memory: { totalBytes: number; availableBytes: Known<number>; transparentHugePages: Known<string> };
  config: Known<{ file: string; problems: Problem[]; config?: Config }>;
  host: Known<HostFacts>;
  firewallSeen: boolean;                       // may nft be asked? else `host.conflicts` means nothing
  features: Record<string, Known<Record<string, Feature>>>;   // by device, of ethtool -k
  maxQueues: Record<string, Known<number>>;
  clock: Known<{ isSynchronised: boolean; source: string }>;
  dns: Known<{ server: string; answer: DnsAnswer }[]>;
  listeners: Known<Listener[]>;
  run: PathFacts;
  state: PathFacts;
  control: Known<{ user: string; isAccount: boolean; barrier?: string }>;
  appliance: Known<StatusView | 'not running'>;
}

const TOOLS = ['ip', 'ethtool', 'nft', 'setpriv', 'prlimit', 'nsenter', 'mount', 'umount', 'find'];

export async function gatherFacts(dir: string, configFile: string | undefined, execute: Run = run): Promise<DoctorFacts> {
  const paths = runDirectory(dir);
  const isRoot = process.getuid?.() === 0;
  const [host, appliance, clock, dns] = await Promise.all([readHost(execute), askAppliance(paths.apiSocket), readClock(execute), askNameServers()]);
  const config = await readConfig(configFile ?? (existsSync(paths.runningConfig) ? paths.runningConfig : undefined), isKnown(host) ? host : undefined);
  const devices = devicesOf(config, appliance).filter((device) => isKnown(host) && host.devices.some((one) => one.name === device));
  return {
    isRoot, node: process.versions.node, kernel: release(), processors: availableParallelism(),
    tools: Object.fromEntries(TOOLS.map((tool) => [tool, isInstalled(tool)])),
    build: { addon: existsSync(addonPath()), bpfObject: existsSync(bpfObjectPath()) },
    btf: existsSync('/sys/kernel/btf/vmlinux'),
    bpfFilesystem: readText('/proc/filesystems', (text) => /\bbpf$/m.test(text)),
    xdpSockets: readText('/proc/net/protocols', (text) => /^XDP\s/m.test(text)),
    tun: existsSync('/dev/net/tun'),
    jit: readText('/proc/sys/net/core/bpf_jit_enable'),
    lockdown: readText('/sys/kernel/security/lockdown', (text) => /\[(\w+)\]/.exec(text)?.[1] ?? text),
    capabilities: readText('/proc/self/status', (text) => BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(text)?.[1] ?? '0'}`)),
    memlockBytes: readText('/proc/self/limits', (text) => limitOf(/^Max locked memory\s+(\S+)/m.exec(text)?.[1])),
    memory: {
      totalBytes: totalmem(),
      availableBytes: readText('/proc/meminfo', (text) => Number(/^MemAvailable:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024),
      transparentHugePages: readText('/sys/kernel/mm/transparent_hugepage/enabled', (text) => /\[(\w+)\]/.exec(text)?.[1] ?? text),
    },
    config, host,
    firewallSeen: (await tryRun(execute, 'nft', 'list', 'tables')) !== undefined,
    features: await forEachDevice(devices, async (device) => known(await tryRun(execute, 'ethtool', '-k', device), `ethtool -k ${device} gave nothing`, parseFeatures)),
    maxQueues: await forEachDevice(devices, async (device) => known(await tryRun(execute, 'ethtool', '-l', device), `${device} does not tell`, parseMaxQueues)),
    clock, dns,
    listeners: readListeners(),
    run: readPath(paths.dir), state: readPath(paths.state),
    control: isRoot ? readControl(paths.dir) : new Unknown('only root starts the appliance'),
    appliance,
  };
}

/** Of the configuration; without one, of the appliance that runs. */
export function devicesOf(config: DoctorFacts['config'], appliance: DoctorFacts['appliance']): string[] {
  if (isKnown(config)) return [...new Set(Object.values(config.config?.interfaces ?? {}).map((one) => one.device))];
  return isKnown(appliance) && appliance !== 'not running' ? [...new Set(appliance.interfaces.filter((one) => one.kind !== 'wireguard').map((one) => one.device))] : [];
}

function known<T>(text: string | undefined, reason: string, parse: (text: string) => T): Known<T> {
  return text === undefined ? new Unknown(reason) : parse(text);
}

async function forEachDevice<T>(devices: readonly string[], read: (device: string) => Promise<T>): Promise<Record<string, T>> {
  return Object.fromEntries(await Promise.all(devices.map(async (device) => [device, await read(device)] as const)));
}

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0]!;

function readText(path: string): Known<string>;
function readText<T>(path: string, parse: (text: string) => T): Known<T>;
function readText<T>(path: string, parse?: (text: string) => T): Known<T | string> {
  try {
    const text = readFileSync(path, 'utf8').trim();
    return parse ? parse(text) : text;
  } catch (error) {
    return new Unknown((error as NodeJS.ErrnoException).code === 'ENOENT' ? `${path} is not there` : reasonOf(error));
  }
}

const limitOf = (text: string | undefined): number => (text === 'unlimited' ? Infinity : Number(text ?? 0));

function isInstalled(tool: string): boolean {
  return [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/bin', '/bin'].some((directory) => directory !== '' && existsSync(join(directory, tool)));
}

async function readHost(execute: Run): Promise<Known<HostFacts>> {
  try {
    return await readFacts(execute);
  } catch (error) {
    return new Unknown(reasonOf(error));
  }
}

async function readConfig(file: string | undefined, host: HostFacts | undefined): Promise<DoctorFacts['config']> {
  if (file === undefined) return new Unknown('no appliance runs here, and no --config names a file');
  try {
    readFileSync(file).byteLength; // a file that may not be read is no error of the configuration
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return new Unknown(`this user may not read ${file}`);
  }
  const [{ checkFile }, { loadFile }] = await Promise.all([import('../config/check.js'), import('../config/load.js')]);
  const checked = checkFile(file, host);
  // What it says of devices is worth a look even where something else in it is wrong.
  const config = checked.config ?? loadFile(file).config;
  return { file, problems: checked.problems, ...(config ? { config } : {}) };
}

async function askAppliance(socket: string): Promise<DoctorFacts['appliance']> {
  try {
    return await new ApiClient(socket).get<StatusView>('/api/v1/status');
  } catch (error) {
    if (error instanceof ClientError && error.code === 'NOT_RUNNING') return 'not running';
    return new Unknown(reasonOf(error));
  }
}

/** Lines like `large-receive-offload: off [fixed]`. */
export function parseFeatures(text: string): Record<string, Feature> {
  return Object.fromEntries([...text.matchAll(/^\s*([\w-]+): (on|off)( \[fixed\])?/gm)].map((match) => [match[1]!, { on: match[2] === 'on', fixed: match[3] !== undefined }]));
}

/** The most receive channels that `ethtool -l` says a device can have. */
export function parseMaxQueues(text: string): number {
  const maxima = text.slice(0, Math.max(0, text.indexOf('Current hardware settings')));
  const count = (label: string): number => Number(new RegExp(`^${label}:[ \\t]*(\\d+)`, 'm').exec(maxima)?.[1] ?? 0);
  return count('RX') + count('Combined');
}

// ---- clock --------------------------------------------------------------------------------------------------------

async function readClock(execute: Run): Promise<DoctorFacts['clock']> {
  const chrony = await tryRun(execute, 'chronyc', '-n', 'tracking');
  if (chrony !== undefined) return { isSynchronised: /^Leap status\s*:\s*Normal/m.test(chrony), source: 'chrony' };
  const timedate = await tryRun(execute, 'timedatectl', 'show', '--property=NTPSynchronized', '--value');
  if (timedate !== undefined && /^(yes|no)/.test(timedate)) return { isSynchronised: timedate.startsWith('yes'), source: 'timedatectl' };
  return new Unknown('neither chronyc nor timedatectl answers');
}

// ---- DNS ----------------------------------------------------------------------------------------------------------

async function askNameServers(): Promise<DoctorFacts['dns']> {
  const file = readText('/etc/resolv.conf', (text) => [...text.matchAll(/^nameserver\s+(\S+)/gm)].map((match) => match[1]!));
  if (!isKnown(file)) return file;
  return Promise.all(file.slice(0, NAME_SERVERS_MAX).map(async (server) => ({ server, answer: await askNameServer(server) })));
}

/** Asks for the root's own servers: every resolver can tell, and no name of anybody is looked up. */
async function askNameServer(server: string): Promise<DnsAnswer> {
  const resolver = new Resolver({ timeout: DNS_TIMEOUT_MS, tries: 1 });
  try {
    resolver.setServers([server.includes(':') ? `[${server.replace(/%.*/, '')}]` : server]);
    await resolver.resolveNs('.');
    return 'answers';
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (['ENODATA', 'ENOTFOUND', 'EREFUSED', 'ENOTIMP'].includes(code)) return 'answers';
    return code === 'ESERVFAIL' ? 'fails' : 'silent';
  }
}

// ---- sockets ------------------------------------------------------------------------------------------------------

function readListeners(): DoctorFacts['listeners'] {
  const listeners: Listener[] = [];
  for (const name of ['tcp', 'tcp6', 'udp', 'udp6'] as const) {
    const found = readText(`/proc/self/net/${name}`, (text) => parseSockets(text, name.startsWith('tcp') ? 'tcp' : 'udp'));
    if (isKnown(found)) listeners.push(...found);
    else if (!name.endsWith('6')) return found;
  }
  return listeners;
}

const LISTEN = '0A';
const UNCONNECTED = '07';

/** Sockets that wait for others, of a table under /proc/net. */
export function parseSockets(text: string, protocol: Listener['protocol']): Listener[] {
  return text.split('\n').slice(1).flatMap((line): Listener[] => {
    const [, local = '', , state = ''] = line.trim().split(/\s+/);
    const [hex = '', port = ''] = local.split(':');
    if (state !== (protocol === 'tcp' ? LISTEN : UNCONNECTED)) return [];
    return [{ protocol, address: addressOf(hex), port: parseInt(port, 16) }];
  });
}

/** The kernel prints words of 32 bits in the machine's own order, which is little-endian wherever we run. */
function addressOf(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => (word.match(/../g) ?? []).reverse());
  if (bytes.length === 4) return bytes.map((byte) => parseInt(byte, 16)).join('.');
  const groups = Array.from({ length: 8 }, (_, index) => parseInt(`${bytes[index * 2]}${bytes[index * 2 + 1]}`, 16).toString(16));
  return groups.every((group) => group === '0') ? '::' : groups.join(':');
}

// ---- directories --------------------------------------------------------------------------------------------------

/** Of a directory that does not exist yet, what its nearest parent says. */
function readPath(path: string): PathFacts {
  let nearest = path;
  while (!existsSync(nearest) && dirname(nearest) !== nearest) nearest = dirname(nearest);
  let writable = true;
  try {
    accessSync(nearest, constants.W_OK | constants.X_OK);
  } catch {
    writable = false;
  }
  let freeBytes: Known<number> = new Unknown(`${nearest} cannot be looked at`);
  let freeFiles: Known<number> = freeBytes;
  try {
    const { bavail, bsize, ffree, files } = statfsSync(nearest);
    freeBytes = bavail * bsize;
    freeFiles = files === 0 ? new Unknown('this file system has no limit of files') : ffree;
  } catch { /* stays unknown */ }
  const mode = existsSync(path) ? statSync(path).mode : 0;
  return { path, exists: existsSync(path), writable, openToOthers: (mode & 0o002) !== 0, freeBytes, freeFiles };
}

function readControl(dir: string): DoctorFacts['control'] {
  const user = chooseControlUser();
  if (!user) return new Unknown('only root starts the appliance');
  const isAccount = !/^\d+$/.test(user.name);
  let nearest = dir;
  while (!existsSync(nearest)) nearest = dirname(nearest);
  const barrier = findBarrier(nearest, user);
  return { user: user.name, isAccount, ...(barrier === undefined ? {} : { barrier }) };
}
