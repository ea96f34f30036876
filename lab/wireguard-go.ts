// Debian's wireguard-go in a node of the lab: the peer of the interop tests, and what the benches compare with. Configured
// with `wg` over its socket, as a user would. Each runs in the foreground, ends with its lab, and takes its TUN device along.
//
// The socket stands in /run/wireguard of the whole machine, whatever network namespace the program is in, so each device has a
// name that no other lab uses. A program that was killed leaves its socket behind; the next start removes those.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Lab } from './lab.js';
import type { Program } from './program.js';

const SOCKET_DIRECTORY = '/run/wireguard';
const DEVICE_PREFIX = 'slwg';
const STALE_AFTER_MS = 60_000;
export const WIREGUARD_PORT = 51820;
export const WIREGUARD_MTU = 1420;

export interface KeyPair {
  privateKey: string;
  publicKey: string;
}

/** Keys in the base64 form of `wg`. */
export function newKeyPair(): KeyPair {
  const { x, d } = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' });
  const base64 = (text: string): string => Buffer.from(text, 'base64url').toString('base64');
  return { privateKey: base64(d!), publicKey: base64(x!) };
}

export const newPresharedKey = (): string => randomBytes(32).toString('base64');

export interface WireguardPeer {
  publicKey: string;
  presharedKey?: string | undefined;
  /** ADDRESS:PORT; without one the other side begins. */
  endpoint?: string | undefined;
  allowedIPs: readonly string[];
  /** Seconds. */
  keepalive?: number | undefined;
}

export interface WireguardGoOptions {
  keys: KeyPair;
  listen?: number;
  mtu?: number;
  /** Of the TUN device, with their length. */
  addresses?: readonly string[];
  /** Prefixes that go into the tunnel. */
  routes?: readonly string[];
  peers: readonly WireguardPeer[];
  /** A command that places the program, in front of it. */
  placement?: readonly string[];
}

export interface PeerState {
  publicKey: string;
  /** ADDRESS:PORT, or undefined when it is not known. */
  endpoint: string | undefined;
  allowedIPs: string[];
  /** Seconds since 1970; 0: never. */
  latestHandshake: number;
  rxBytes: number;
  txBytes: number;
  keepalive: number;
}

let devicesMade = 0;

export class WireguardGo {
  private constructor(
    readonly program: Program,
    readonly device: string,
    readonly options: WireguardGoOptions,
    private readonly lab: Lab,
    private readonly node: string,
  ) {}

  /** Starts it in a node, configured, its device up. */
  static async start(lab: Lab, node: string, options: WireguardGoOptions): Promise<WireguardGo> {
    await removeStaleSockets();
    const device = `${DEVICE_PREFIX}${lab.id}${(devicesMade++).toString(36)}`;
    const program = lab.start(node, [...(options.placement ?? []), 'wireguard-go', '--foreground', device], { env: { LOG_LEVEL: 'verbose' } });
    const one = new WireguardGo(program, device, options, lab, node);
    // Not by asking: `wg` removes a socket on which nobody listens yet.
    await program.waitForOutput(/UAPI listener started/);
    await one.configure();
    const family = (prefix: string): string => (prefix.includes(':') ? '-6' : '-4');
    lab.ip(node, `link set ${device} mtu ${options.mtu ?? WIREGUARD_MTU} up`, ...(options.addresses ?? []).map((address) => lab.addressLine(address, device)));
    for (const route of options.routes ?? []) lab.runSync(node, ['ip', family(route), 'route', 'replace', route, 'dev', device]);
    return one;
  }

  /** Puts key, port and peers in force; sessions and peers that were there end. */
  private async configure(): Promise<void> {
    const { keys, listen = WIREGUARD_PORT, peers } = this.options;
    const lines = ['[Interface]', `PrivateKey = ${keys.privateKey}`, `ListenPort = ${listen}`];
    for (const peer of peers) {
      lines.push('[Peer]', `PublicKey = ${peer.publicKey}`, ...(peer.presharedKey ? [`PresharedKey = ${peer.presharedKey}`] : []));
      lines.push(`AllowedIPs = ${peer.allowedIPs.join(', ')}`, ...(peer.endpoint ? [`Endpoint = ${peer.endpoint}`] : []));
      if (peer.keepalive) lines.push(`PersistentKeepalive = ${peer.keepalive}`);
    }
    const file = join(this.lab.directory, `${this.device}.conf`);
    writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o600 });
    await this.lab.must(this.node, ['wg', 'setconf', this.device, file]);
  }

  /** `wg set`, for what changes while it runs. */
  async set(...words: (string | number)[]): Promise<void> {
    await this.lab.must(this.node, ['wg', 'set', this.device, ...words.map(String)]);
  }

  async peers(): Promise<PeerState[]> {
    return parseDump(await this.lab.must(this.node, ['wg', 'show', this.device, 'dump']));
  }

  /** The only peer, as most tests have it. */
  async peer(): Promise<PeerState> {
    return (await this.peers())[0]!;
  }

  get pid(): number {
    return this.program.pid;
  }

  async stop(): Promise<void> {
    await this.program.stop();
    rmSync(join(SOCKET_DIRECTORY, `${this.device}.sock`), { force: true });
  }
}

/** Reads `wg show DEVICE dump`: the interface's line, then a line a peer; tabs between. */
export function parseDump(text: string): PeerState[] {
  const absent = (word: string | undefined): boolean => word === undefined || word === '(none)' || word === 'off';
  return text
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => {
      const [publicKey, , endpoint, allowedIPs, latestHandshake, rxBytes, txBytes, keepalive] = line.split('\t');
      return {
        publicKey: publicKey!,
        endpoint: absent(endpoint) ? undefined : endpoint,
        allowedIPs: absent(allowedIPs) ? [] : allowedIPs!.split(','),
        latestHandshake: Number(latestHandshake),
        rxBytes: Number(rxBytes),
        txBytes: Number(txBytes),
        keepalive: absent(keepalive) ? 0 : Number(keepalive),
      };
    });
}

/** Sockets of our devices on which nobody listens any more; a young one may be about to. */
async function removeStaleSockets(): Promise<void> {
  let names: string[] = [];
  try {
    names = readdirSync(SOCKET_DIRECTORY).filter((name) => name.startsWith(DEVICE_PREFIX));
  } catch {
    return; // none ever ran here
  }
  for (const name of names) {
    const path = join(SOCKET_DIRECTORY, name);
    const stat = statSync(path, { throwIfNoEntry: false });
    if (!stat || Date.now() - stat.mtimeMs < STALE_AFTER_MS) continue;
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      const socket = connect(path, () => resolve(undefined)).on('error', resolve);
      socket.on('connect', () => socket.destroy());
    });
    if (error?.code === 'ECONNREFUSED') rmSync(path, { force: true });
  }
}
