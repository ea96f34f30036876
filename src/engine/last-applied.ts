// The forwarding state in force, on disk (state directory, last-applied.bin): a killed engine comes back forwarding with it, also
// when control is dead. Who: src/engine/host.ts. Format: magic, u32 length and bytes of the plan (JSON), u32 length and bytes of
// the snapshot, SHA-256 of all before it. Whatever does not fit is treated as absent: the engine then waits, closed, for control.
// Not synced: after a power cut the supervisor removes it, because the sessions that it belongs to are gone.
import { createHash } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { SL_PORTS_MAX, SL_WIREGUARD_PEERS_MAX, SL_WIREGUARDS_MAX } from './abi.generated.js';
import { replaceFile } from '../supervisor/run-directory.js';
import type { AddressPlan, VlanPlan } from './netdevs.js';
import type { XdpMode } from './binding.js';

const MAGIC = Buffer.from('SLAPPLY1');
const DIGEST_BYTES = 32;

export interface PortPlan {
  name: string; ifindex: number; slot: number; queues: number;
  mode: XdpMode; allowGeneric: boolean;   // generic when native does not work
  partialChecksums: boolean;
}

/** A peer's keys are public ones, base64; the next one is answered to beside the first while the peer rotates its own. */
export interface WireguardPeerPlan {
  id: number; name: string;
  publicKey: string; nextPublicKey?: string;
  presharedKeyFile?: string;
  endpoint?: { address: string; port: number };   // a literal address, or a host name
  keepalive?: number;                             // seconds; 0 and absent: off
}

/** No private and no preshared key stands in it: the engine has them from files. */
export interface WireguardPlan {
  interface: string; id: number; listen: number; mtu: number;
  privateKeyFile?: string;                        // instead of the key that the engine makes and keeps
  peers: WireguardPeerPlan[];
}

/** What `configure` asks for. */
export interface ConfigurePlan { ports: PortPlan[]; vlans: VlanPlan[]; addresses: AddressPlan[]; wireguards?: WireguardPlan[] }

export interface LastApplied { plan: ConfigurePlan; snapshot: Uint8Array }

export function saveLastApplied(path: string, { plan, snapshot }: LastApplied): void {
  const json = Buffer.from(JSON.stringify(plan));
  const content = Buffer.concat([MAGIC, lengthOf(json), json, lengthOf(snapshot), snapshot]);
  replaceFile(path, Buffer.concat([content, createHash('sha256').update(content).digest()]), 0o600, false);
}

export function loadLastApplied(path: string): LastApplied | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch {
    return undefined;
  }
  const end = bytes.length - DIGEST_BYTES;
  if (end < MAGIC.length + 8 || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const content = bytes.subarray(0, end);
  if (!createHash('sha256').update(content).digest().equals(bytes.subarray(end))) return undefined;
  const planEnd = MAGIC.length + 4 + content.readUInt32LE(MAGIC.length);
  if (planEnd + 4 > end || planEnd + 4 + content.readUInt32LE(planEnd) !== end) return undefined;
  try {
    const plan = parsePlan(JSON.parse(content.toString('utf8', MAGIC.length + 4, planEnd)));
    return { plan, snapshot: new Uint8Array(content.subarray(planEnd + 4)) };
  } catch {
    return undefined;
  }
}

export function removeLastApplied(path: string): void { rmSync(path, { force: true }); }

function lengthOf(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return length;
}

/** Checks a plan that came over the socket or from disk. Throws TypeError. */
export function parsePlan(value: unknown): ConfigurePlan {
  const plan = value as Partial<ConfigurePlan> | null;
  const isText = (one: unknown): one is string => typeof one === 'string' && /^[^\s/-][^\s/]{0,14}$/.test(one);
  const valid = plan && Array.isArray(plan.ports) && Array.isArray(plan.vlans) && Array.isArray(plan.addresses)
    && plan.ports.every((port) => isText(port.name) && Number.isInteger(port.ifindex) && Number.isInteger(port.queues)
      && port.queues > 0 && Number.isInteger(port.slot) && port.slot >= 0 && port.slot < SL_PORTS_MAX && typeof port.allowGeneric === 'boolean' && (port.mode === 'native' || port.mode === 'generic') && typeof port.partialChecksums === 'boolean')
    && plan.vlans.every((vlan) => isText(vlan.device) && isText(vlan.parent) && Number.isInteger(vlan.vlanId))
    && plan.addresses.every((one) => isText(one.device) && /^[0-9a-fA-F.:]+$/.test(one.address) && Number.isInteger(one.prefixLength));
  if (valid && new Set(plan.ports!.map((port) => port.slot)).size !== plan.ports!.length) throw new TypeError('two ports of a plan have one slot');
  if (!valid) throw new TypeError('a plan has ports {name, ifindex, slot, queues, mode, allowGeneric, partialChecksums}, vlans {device, parent, vlanId} and addresses {device, address, prefixLength}');
  if (plan.wireguards !== undefined) checkWireguards(plan.wireguards);
  return plan as ConfigurePlan;
}

const PUBLIC_KEY = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/;
const isId = (value: unknown): boolean => Number.isInteger(value) && Number(value) > 0 && Number(value) <= 0xffffffff;
const isPort = (value: unknown): boolean => Number.isInteger(value) && Number(value) > 0 && Number(value) <= 0xffff;
/** Also a file's name: control is less trusted than the engine that opens it. */
const isInterfaceName = (value: unknown): boolean => typeof value === 'string' && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/.test(value);
const isPath = (value: unknown): boolean => value === undefined || (typeof value === 'string' && value.startsWith('/') && value.length <= 4096 && !value.includes('\0'));

function checkWireguards(wireguards: unknown): void {
  if (!Array.isArray(wireguards)) throw new TypeError('wireguards of a plan is a list');
  const list = wireguards as WireguardPlan[];
  for (const one of list) {
    const where = `WireGuard interface '${String(one?.interface).slice(0, 63)}' of a plan`;
    if (!isInterfaceName(one?.interface) || !isId(one.id) || !isPort(one.listen) || !Number.isInteger(one.mtu) || !isPath(one.privateKeyFile) || !Array.isArray(one.peers)) {
      throw new TypeError(`${where} has interface, id, listen, mtu, peers and possibly privateKeyFile, an absolute path`);
    }
    for (const peer of one.peers) {
      const valid = isId(peer?.id) && typeof peer.name === 'string' && PUBLIC_KEY.test(peer.publicKey) && (peer.nextPublicKey === undefined || PUBLIC_KEY.test(peer.nextPublicKey))
        && isPath(peer.presharedKeyFile) && (peer.endpoint === undefined || (typeof peer.endpoint?.address === 'string' && /^[A-Za-z0-9.:_-]{1,255}$/.test(peer.endpoint.address) && isPort(peer.endpoint.port)))
        && (peer.keepalive === undefined || (Number.isInteger(peer.keepalive) && peer.keepalive >= 0 && peer.keepalive <= 0xffff));
      if (!valid) throw new TypeError(`a peer of ${where} has id, name, publicKey, and possibly nextPublicKey, presharedKeyFile, endpoint {address, port} and keepalive`);
    }
    const keys = one.peers.flatMap((peer) => [peer.publicKey, ...(peer.nextPublicKey === undefined ? [] : [peer.nextPublicKey])]);
    if (new Set(keys).size !== keys.length) throw new TypeError(`two peers of ${where} have one public key`);
  }
  const peers = list.flatMap((one) => one.peers);
  if (list.length > SL_WIREGUARDS_MAX || peers.length > SL_WIREGUARD_PEERS_MAX) throw new TypeError(`a plan has at most ${SL_WIREGUARDS_MAX} WireGuard interfaces and ${SL_WIREGUARD_PEERS_MAX} peers`);
  for (const values of [list.map((one) => one.interface), list.map((one) => one.id), list.map((one) => one.listen), peers.map((peer) => peer.id)]) {
    if (new Set<unknown>(values).size !== values.length) throw new TypeError('WireGuard interfaces of a plan differ in name, id and listen port, and all peers in id');
  }
}
