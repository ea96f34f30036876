// Files in the style of wg and wg-quick: read into a `wireguard:` section with its secrets beside it, and written from one without them.
//
// Called by `sluice wireguard import` and `export`. Pure: text in, values out; who calls writes files. The form is that of wg(8) and
// wg-quick(8): sections in brackets, keys without regard to case, comments from # on, lists by comma and by repetition. No message
// repeats what looks like a key: it may be a secret that got behind the wrong word. Bound: FILE_BYTES_MAX, which 10,000 peers stay far below.
import { AddressError, formatPrefix, isIpv4, networkOf, parseAddress, parseInterfaceAddress, type Prefix } from '../lib/address.js';
import { printable } from '../lib/text.js';
import { ConfigError, quote } from './problem.js';
import { KEY_PATTERN, type WireguardConfig, type WireguardPeerConfig } from './schema-wireguard.js';
import { asList } from './schema-parts.js';
import { listenPort, parseEndpoint } from './wireguard.js';

export const FILE_BYTES_MAX = 16 * 1024 * 1024;

/** What a file says that a configuration has a place for. */
export interface ImportedPeer { peer: WireguardPeerConfig; presharedKey?: string }
export interface Imported {
  /** Without zone and peers. */
  interface: Pick<WireguardConfig, 'listen' | 'addresses' | 'mtu' | 'routes'>;
  privateKey?: string;
  peers: ImportedPeer[];
  /** What was left out or changed, for the user to know. */
  notes: string[];
}

/** What is wrong with a file, and in which line. */
export class WgFileError extends Error {
  constructor(readonly line: number, message: string, readonly remedy: string) { super(`line ${line}: ${withoutKeys(message)}`); }
}

const withoutKeys = (text: string): string => text.replace(/[A-Za-z0-9+/]{43}=?/g, '(a key)');

interface Line { number: number; key: string; value: string }
interface Section { kind: 'interface' | 'peer'; number: number; lines: Line[]; name?: string }

const KEY = new RegExp(KEY_PATTERN);
const NAME_COMMENT = /^#\s*(?:friendly_)?name\s*[=:]\s*(.+?)\s*$/i;

export function parseWgFile(text: string): Imported {
  const sections = sectionsOf(text);
  const notes: string[] = [];
  const own = sections.filter(({ kind }) => kind === 'interface');
  if (own.length > 1) throw new WgFileError(own[1]!.number, 'a second [Interface]', 'a file describes one interface: keep one of them');
  const result: Imported = { interface: {}, peers: [], notes };
  if (own[0] !== undefined) readInterface(own[0], result);
  const names = new Set<string>();
  for (const section of sections) {
    if (section.kind !== 'peer') continue;
    const one = readPeer(section, `peer-${result.peers.length + 1}`, notes);
    if (names.has(one.peer.name)) throw new WgFileError(section.number, `a second peer is called ${quote(one.peer.name)}`, 'write another name behind # Name =');
    names.add(one.peer.name);
    result.peers.push(one);
  }
  return result;
}

function sectionsOf(text: string): Section[] {
  const sections: Section[] = [];
  let pendingName: string | undefined;
  text.split(/\r?\n/).forEach((whole, index) => {
    const number = index + 1;
    const comment = whole.indexOf('#');
    const content = (comment < 0 ? whole : whole.slice(0, comment)).trim();
    const named = comment < 0 || content !== '' ? undefined : NAME_COMMENT.exec(whole.slice(comment))?.[1];
    const current = sections.at(-1);
    if (named !== undefined) {
      // Behind [Peer] and above its key it is that peer's; else it stands above the next one.
      if (current?.kind === 'peer' && !current.lines.some(({ key }) => key === 'publickey')) current.name = named;
      else pendingName = named;
      return;
    }
    if (content === '') return;
    const head = /^\[\s*(\w+)\s*\]$/.exec(content)?.[1]?.toLowerCase();
    if (head === 'interface' || head === 'peer') {
      sections.push({ kind: head, number, lines: [], ...(pendingName === undefined || head === 'interface' ? {} : { name: pendingName }) });
      pendingName = undefined;
      return;
    }
    if (content.startsWith('[')) throw new WgFileError(number, `${quote(content)} is no section`, 'sections are [Interface] and [Peer]');
    const equals = content.indexOf('=');
    if (equals < 1) throw new WgFileError(number, 'neither a section nor KEY = VALUE', 'write lines like ListenPort = 51820');
    if (current === undefined) throw new WgFileError(number, 'a value before the first section', 'write [Interface] or [Peer] above it');
    current.lines.push({ number, key: content.slice(0, equals).trim().toLowerCase(), value: content.slice(equals + 1).trim() });
  });
  return sections;
}

const list = (value: string): string[] => value.split(',').map((one) => one.trim()).filter((one) => one !== '');

function numberOf({ number, key, value }: Line, minimum: number, maximum: number): number {
  const parsed = /^\d+$/.test(value) ? Number(value) : NaN;
  if (!(parsed >= minimum && parsed <= maximum)) throw new WgFileError(number, `${key} is not a number from ${minimum} to ${maximum}`, 'write one');
  return parsed;
}

function keyOf({ number, key, value }: Line): string {
  if (!KEY.test(value)) throw new WgFileError(number, `${key} is no key: those are 44 characters of base64`, 'write the whole key, as `wg genkey` and `wg pubkey` print them');
  return value;
}

function readInterface({ lines }: Section, result: Imported): void {
  const addresses: string[] = [];
  for (const line of lines) {
    switch (line.key) {
      case 'privatekey': result.privateKey = keyOf(line); break;
      case 'listenport': {
        const listen = numberOf(line, 0, 65535);
        if (listen > 0) result.interface.listen = listen;
        break;
      }
      case 'address': for (const one of list(line.value)) addresses.push(interfaceAddress(line, one)); break;
      case 'mtu': result.interface.mtu = numberOf(line, 576, 65535); break;
      case 'table':
        if (line.value.toLowerCase() === 'off') result.interface.routes = false;
        else if (line.value.toLowerCase() !== 'auto') result.notes.push(`Table = ${withoutKeys(printable(line.value))}: there is one forwarding table here; allowed IPs become routes in it`);
        break;
      case 'dns': case 'fwmark': case 'saveconfig': result.notes.push(`${line.key} in line ${line.number} has no counterpart and was left out`); break;
      case 'preup': case 'postup': case 'predown': case 'postdown': result.notes.push(`${line.key} in line ${line.number} was left out: what such commands do (routes, rules, NAT) stands in the configuration here`); break;
      default: throw new WgFileError(line.number, `${quote(line.key)} is no key of [Interface]`, 'take the line away');
    }
  }
  if (addresses.length > 0) result.interface.addresses = addresses;
}

/** A lone address is wg-quick's way to say that no subnet is connected. */
function interfaceAddress(line: Line, text: string): string {
  return inLine(line, () => (text.includes('/') ? text : `${text}/${isIpv4(parseAddress(text)) ? 32 : 128}`), (address) => parseInterfaceAddress(address));
}

function inLine(line: Line, make: () => string, judge: (text: string) => unknown): string {
  try {
    const made = make();
    judge(made);
    return made;
  } catch (error) {
    if (error instanceof AddressError || error instanceof ConfigError) throw new WgFileError(line.number, error.message, error.remedy);
    throw error;
  }
}

function readPeer({ number, lines, name }: Section, fallback: string, notes: string[]): ImportedPeer {
  const peer: { -readonly [K in keyof WireguardPeerConfig]?: WireguardPeerConfig[K] } = { name: (name ?? fallback).replace(/[\u0000-\u001f\u007f]/g, '').slice(0, 64) };
  const allowedIPs = new Set<string>();
  let presharedKey: string | undefined;
  for (const line of lines) {
    switch (line.key) {
      case 'publickey': peer.publicKey = keyOf(line); break;
      case 'presharedkey': presharedKey = keyOf(line); break;
      case 'endpoint': peer.endpoint = inLine(line, () => line.value, parseEndpoint); break;
      case 'allowedips': for (const one of list(line.value)) allowedIPs.add(allowedIp(line, one, notes)); break;
      case 'persistentkeepalive': {
        const keepalive = line.value.toLowerCase() === 'off' ? 0 : numberOf(line, 0, 65535);
        if (keepalive > 0) peer.keepalive = keepalive;
        break;
      }
      default: throw new WgFileError(line.number, `${quote(line.key)} is no key of [Peer]`, 'take the line away');
    }
  }
  const { publicKey } = peer;
  if (publicKey === undefined) throw new WgFileError(number, 'a peer without PublicKey', 'write PublicKey = KEY');
  const { name: named, endpoint, keepalive } = peer;
  return {
    peer: {
      name: named!, publicKey, ...(endpoint === undefined ? {} : { endpoint }), ...(allowedIPs.size === 0 ? {} : { allowedIPs: [...allowedIPs] }), ...(keepalive === undefined ? {} : { keepalive }),
    },
    ...(presharedKey === undefined || /^A{43}=$/.test(presharedKey) ? {} : { presharedKey }), // all zero is wg's way to say none
  };
}

/** wg masks what is beyond the length; we say so, because a slip of the hand looks the same. */
function allowedIp(line: Line, text: string, notes: string[]): string {
  let prefix: Prefix | undefined;
  inLine(line, () => (text.includes('/') ? text : `${text}/${isIpv4(parseAddress(text)) ? 32 : 128}`), (whole) => { prefix = parseInterfaceAddress(whole); });
  const masked = formatPrefix(networkOf(prefix!));
  if (networkOf(prefix!).address !== prefix!.address) notes.push(`AllowedIPs in line ${line.number}: ${printable(text)} has bits beyond its length; it stands as ${masked}`);
  return masked;
}

// ---- export ----------------------------------------------------------------------------------------------------------

export interface ExportOptions {
  hostname?: string;
  /** Ours, when it is known. */
  publicKey?: string;
}

/** The whole interface, as this end would have it. The private key and preshared keys are named, never written. */
export function formatWgFile(name: string, config: WireguardConfig, { hostname, publicKey }: ExportOptions): string {
  const lines = [
    '[Interface]', `# ${name}${hostname === undefined ? '' : ` of ${hostname}`}, zone ${config.zone}`,
    ...(publicKey === undefined ? [] : [`# PublicKey = ${publicKey}`]),
    `# PrivateKey is not exported: ${config.privateKeyFile === undefined ? 'it stays in the state directory' : `it is in ${printable(config.privateKeyFile)}`}`,
    `ListenPort = ${listenPort(config)}`,
    ...listLine('Address', config.addresses), ...(config.mtu === undefined ? [] : [`MTU = ${config.mtu}`]), ...(config.routes === false ? ['Table = off'] : []),
  ];
  for (const peer of config.peers ?? []) {
    lines.push('', '[Peer]', `# Name = ${peer.name}`, peer.publicKey === undefined ? `# PublicKey = what node ${peer.node} tells` : `PublicKey = ${peer.publicKey}`,
      ...(peer.presharedKeyFile === undefined ? [] : [`# PresharedKey is not exported: it is in ${printable(peer.presharedKeyFile)}`]),
      ...listLine('AllowedIPs', peer.allowedIPs), ...(peer.endpoint === undefined ? [] : [`Endpoint = ${peer.endpoint}`]), ...(peer.keepalive ? [`PersistentKeepalive = ${peer.keepalive}`] : []));
  }
  return `${lines.join('\n')}\n`;
}

/** What the peer itself would have: its side of the tunnel, as far as we know it. `endpoint`: where it reaches us. */
export function formatPeerFile(name: string, config: WireguardConfig, peer: WireguardPeerConfig, { hostname, publicKey }: ExportOptions, endpoint?: string): string {
  const own = asList<string>(config.addresses).map((text) => parseInterfaceAddress(text));
  // Single addresses that it may send from, and that lie in the tunnel's subnets, are its own.
  const inside = asList<string>(peer.allowedIPs).filter((text) => {
    const prefix = parseInterfaceAddress(text.includes('/') ? text : `${text}/${isIpv4(parseAddress(text)) ? 32 : 128}`);
    return prefix.length === 128 && own.some((subnet) => networkOf({ address: prefix.address, length: subnet.length }).address === networkOf(subnet).address);
  });
  const lines = [
    '[Interface]', `# ${peer.name}, peer of ${name}${hostname === undefined ? '' : ` of ${hostname}`}`,
    ...(peer.publicKey === undefined ? ['# PrivateKey = a key of its own, which rotates'] : ['# PrivateKey = the key that belongs to', `# PublicKey = ${peer.publicKey}`]),
    ...(inside.length > 0 ? [`Address = ${inside.map((text) => (text.includes('/') ? text : `${text}/${isIpv4(parseAddress(text)) ? 32 : 128}`)).join(', ')}`] : ['# Address = its address in the tunnel']),
    ...(peer.endpoint === undefined ? [] : [`ListenPort = ${parseEndpoint(peer.endpoint).port}`]), ...(config.mtu === undefined ? [] : [`MTU = ${config.mtu}`]),
    '', '[Peer]', `# Name = ${hostname ?? name}`, publicKey === undefined ? '# PublicKey = what `sluice wireguard show` prints' : `PublicKey = ${publicKey}`,
    ...(peer.presharedKeyFile === undefined ? [] : [`# PresharedKey is not exported: it is in ${printable(peer.presharedKeyFile)}`]),
    `# AllowedIPs: add what else is behind ${hostname ?? name}, separated by commas`,
    ...(own.length > 0 ? [`AllowedIPs = ${[...new Set(own.map((prefix) => formatPrefix(networkOf(prefix))))].join(', ')}`] : []),
    endpoint === undefined ? `# Endpoint = an address of ours, port ${listenPort(config)}` : `Endpoint = ${endpoint}`,
    ...(peer.keepalive ? [`PersistentKeepalive = ${peer.keepalive}`] : []),
  ];
  return `${lines.join('\n')}\n`;
}

const listLine = (key: string, value: string | readonly string[] | undefined): string[] => (value === undefined ? [] : [`${key} = ${asList<string>(value).join(', ')}`]);
