// `sluice wireguard ...`: shows tunnels, makes keys, takes wg files over and writes them. Who: src/cli/program.ts. genkey, pubkey and import
// need no appliance. Secrets go to stdout only where they are what was asked for (genkey), and to files that their owner alone may read.
import { closeSync, mkdirSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { WireguardConfig } from '../../config/schema-wireguard.js';
import type { WireguardPeerView, WireguardView } from '../../control/wireguard.js';
import { whyUnread } from '../../lib/text.js';
import { addCommon, clientOf, type CommonOptions } from '../options.js';
import { CliError, formatDuration, note, print, printExact, printJson } from '../output.js';
import { generateKey, publicKeyOf } from '../wireguard-keys.js';
import { addRotateCommand } from './wireguard-rotate.js';

const KEYS_DIRECTORY = '/etc/sluice/wireguard';
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/;

interface ImportOptions extends CommonOptions { interface?: string; zone: string; keys: string }
interface ExportOptions extends CommonOptions { peer?: string; endpoint?: string }

export function addWireguardCommand(program: Command): void {
  const wireguard = program.command('wireguard').description('tunnels: state, keys, files in the style of wg');
  addCommon(wireguard.command('show').description('interfaces and peers: keys, endpoints, latest handshakes, transfer').argument('[TUNNEL]', 'only this one'))
    .action((name: string | undefined, options: CommonOptions) => show(name, options));
  addRotateCommand(wireguard);
  addCommon(wireguard.command('genkey').description('print a new private key; the appliance makes its own by itself'))
    .action((options: CommonOptions) => genkey(options));
  addCommon(wireguard.command('pubkey').description('read a private key from the input, print its public key'))
    .action((options: CommonOptions) => pubkey(options));
  addCommon(wireguard.command('import').description('turn a file of wg or wg-quick into a section wireguard: of the configuration; its secrets go to files of their own')
    .argument('<FILE>', 'the file, like /etc/wireguard/wg0.conf'))
    .option('--interface <NAME>', 'what to call the tunnel (default: the file\'s name without .conf)')
    .option('--zone <NAME>', 'the zone of the tunnel', 'mesh')
    .option('--keys <DIR>', 'where to put the private key and preshared keys', KEYS_DIRECTORY)
    .action((file: string, options: ImportOptions) => importFile(file, options));
  addCommon(wireguard.command('export').description('print a tunnel in the style of wg-quick, without its secrets').argument('<TUNNEL>', 'its name'))
    .option('--peer <PEER>', 'print what this peer needs at its end instead')
    .option('--endpoint <HOST:PORT>', 'with --peer: where it reaches us')
    .action((name: string, options: ExportOptions) => exportFile(name, options));
}

// ---- show ------------------------------------------------------------------------------------------------------------

async function show(name: string | undefined, options: CommonOptions): Promise<void> {
  const { interfaces } = await clientOf(options).get<{ interfaces: WireguardView[] }>('/api/v1/wireguard');
  const shown = name === undefined ? interfaces : [pick(interfaces, name)];
  if (options.json) printJson({ interfaces: shown });
  else if (shown.length === 0) print('No tunnels. They stand under wireguard: in the configuration.');
  else print(shown.map((one) => formatInterface(one, Date.now())).join('\n'));
}

function pick(interfaces: readonly WireguardView[], name: string): WireguardView {
  const found = interfaces.find((one) => one.interface === name);
  if (found) return found;
  throw new CliError(`there is no tunnel '${name}'`, interfaces.length === 0 ? 'there is none at all: they stand under wireguard: in the configuration' : `there is ${interfaces.map((one) => one.interface).join(', ')}`);
}

/** As wg(8) shows it, so that who reads or parses that finds his way. */
export function formatInterface(one: WireguardView, nowMs: number): string {
  const lines = [
    `interface: ${one.interface}`,
    `  public key: ${one.publicKey ?? '(none)'}`,
    ...(one.nextPublicKey === null ? [] : [`  next public key: ${one.nextPublicKey}`]),
    '  private key: (hidden)',
    `  listening port: ${one.listen}`,
    `  zone: ${one.zone}`,
    ...one.faults.map((fault) => `  fault: ${fault}`),
    ...(one.addresses.length === 0 ? [] : [`  addresses: ${one.addresses.join(', ')}`]),
  ];
  // Who was heard of last comes first, as in wg show.
  const peers = one.peers.slice().sort((a, b) => (b.latestHandshake ?? '').localeCompare(a.latestHandshake ?? ''));
  return `${lines.join('\n')}\n${peers.map((peer) => formatPeer(peer, nowMs)).join('')}`;
}

function formatPeer(peer: WireguardPeerView, nowMs: number): string {
  const lines = [
    '', `peer: ${peer.publicKey ?? '(none)'}`, `  name: ${peer.name}`, ...(peer.node === null ? [] : [`  node: ${peer.node}${peer.publicKey === null ? ', which has not told its key yet' : ''}`]),
    ...(peer.nextPublicKey === null ? [] : [`  next public key: ${peer.nextPublicKey}`]), ...(peer.presharedKey ? ['  preshared key: (hidden)'] : []),
    ...(peer.endpoint === null ? [] : [`  endpoint: ${peer.endpoint}`]),
    `  allowed ips: ${peer.allowedIPs.length === 0 ? '(none)' : peer.allowedIPs.join(', ')}`,
    ...(peer.latestHandshake === null ? [] : [`  latest handshake: ${ago(peer.latestHandshake, nowMs)}`]),
    ...(peer.rxBytes + peer.txBytes === 0 ? [] : [`  transfer: ${transfer(peer.rxBytes)} received, ${transfer(peer.txBytes)} sent`]),
    ...(peer.keepalive === null ? [] : [`  persistent keepalive: every ${peer.keepalive} second${peer.keepalive === 1 ? '' : 's'}`]),
    `  state: ${peer.state}`,
  ];
  return `${lines.join('\n')}\n`;
}

function ago(time: string, nowMs: number): string {
  const seconds = Math.max(0, Math.floor((nowMs - new Date(time).getTime()) / 1000));
  return seconds === 0 ? 'now' : `${formatDuration(seconds)} ago`;
}

/** Powers of 1,024, as wg(8) does. */
function transfer(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let amount = bytes;
  let unit = 0;
  while (amount >= 1024 && unit < units.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${amount} B` : `${amount.toFixed(2)} ${units[unit]}`;
}

// ---- keys ------------------------------------------------------------------------------------------------------------

function genkey(options: CommonOptions): void {
  const privateKey = generateKey();
  if (options.json) printJson({ privateKey, publicKey: publicKeyOf(privateKey) });
  else print(privateKey);
}

function pubkey(options: CommonOptions): void {
  const publicKey = publicKeyOf(readFileSync(0, 'utf8'));
  if (publicKey === undefined) throw new CliError('the input is no private key', 'give it 44 characters of base64, like `sluice wireguard genkey | sluice wireguard pubkey`');
  if (options.json) printJson({ publicKey });
  else print(publicKey);
}

// ---- files in the style of wg ----------------------------------------------------------------------------------------

async function importFile(file: string, options: ImportOptions): Promise<void> {
  const [{ parseWgFile, WgFileError, FILE_BYTES_MAX }, { emitConfig }] = await Promise.all([import('../../config/wireguard-file.js'), import('../../config/emit.js')]);
  const name = options.interface ?? basename(file).replace(/\.conf$/, '');
  if (!NAME.test(name)) throw new CliError(`'${name}' cannot be the name of a tunnel`, 'name one with --interface: letters, digits, dash, dot and underscore');
  let text: string;
  try {
    if (statSync(file).size > FILE_BYTES_MAX) throw new Error(`larger than ${FILE_BYTES_MAX} bytes`);
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new CliError(`${file}: ${whyUnread(error)}`, 'name a file that this user may read');
  }
  let imported;
  try {
    imported = parseWgFile(text);
  } catch (error) {
    if (error instanceof WgFileError) throw new CliError(`${file}: ${error.message}`, error.remedy);
    throw error;
  }
  const directory = resolve(options.keys);
  const written: string[] = [];
  const keep = (fileName: string, key: string): string => {
    const path = join(directory, fileName);
    if (writeSecret(path, key)) written.push(path);
    return path;
  };
  const own = imported.privateKey === undefined ? {} : { privateKeyFile: keep(`${name}.key`, imported.privateKey) };
  const peers = imported.peers.map(({ peer, presharedKey }, index) => {
    // Names of peers may hold what a file's name may not.
    const plain = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(peer.name) ? peer.name : `peer-${index + 1}`;
    return { ...peer, ...(presharedKey === undefined ? {} : { presharedKeyFile: keep(`${name}.${plain}.psk`, presharedKey) }) };
  });
  const config: WireguardConfig = { zone: options.zone, ...imported.interface, ...own, ...(peers.length === 0 ? {} : { peers }) };
  const notes = imported.privateKey === undefined ? [...imported.notes, 'there is no PrivateKey: the engine makes one at the first start'] : imported.notes;
  if (options.json) return printJson({ wireguard: { [name]: config }, written, notes });
  printExact(emitConfig({ wireguard: { [name]: config } }));
  for (const path of written) note(`wrote ${path}, for root alone to read`);
  for (const text of notes) note(`note: ${text}`);
}

/** False: it is there already, with this very key. Never replaces another one. */
function writeSecret(path: string, key: string): boolean {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    const file = openSync(path, 'wx', 0o600);
    try {
      writeSync(file, `${key}\n`);
    } finally {
      closeSync(file);
    }
    return true;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'EEXIST') throw new CliError(message, 'run this as root, or name a directory of yours with --keys');
    if (readFileSync(path, 'utf8').trim() === key) return false;
    throw new CliError(`${path} is there already, with another key`, 'move it away, or name another directory with --keys');
  }
}

async function exportFile(name: string, options: ExportOptions): Promise<void> {
  const client = clientOf(options);
  const [{ formatPeerFile, formatWgFile }, { interfaces }, { name: _name, ...config }, { hostname }] = await Promise.all([
    import('../../config/wireguard-file.js'), client.get<{ interfaces: WireguardView[] }>('/api/v1/wireguard'),
    client.get<WireguardConfig & { name: string }>(`/api/v1/config/wireguard/${encodeURIComponent(name)}`), client.get<{ hostname: string | null }>('/api/v1/status'),
  ]);
  const publicKey = interfaces.find((one) => one.interface === name)?.publicKey;
  const known = { ...(hostname === null ? {} : { hostname }), ...(publicKey ? { publicKey } : {}) };
  let text: string;
  if (options.peer === undefined) text = formatWgFile(name, config, known);
  else {
    const peer = config.peers?.find((one) => one.name === options.peer);
    if (!peer) throw new CliError(`${name} has no peer '${options.peer}'`, `it has ${config.peers?.map((one) => one.name).slice(0, 12).join(', ') ?? 'none'}`);
    text = formatPeerFile(name, config, peer, known, options.endpoint);
  }
  if (options.json) printJson({ interface: name, text });
  else printExact(text);
}
