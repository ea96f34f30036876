// What other nodes told of themselves: their last records, kept on disk, and what of them becomes part of this node's tunnels.
// Who: src/nodes/nodes.ts; `fillNodes` is called for each compilation (src/control/transactions.ts). Thread: control's main one.
// It is state, not configuration: no revision is made of it, and the configuration alone decides what of it counts. A record gives keys to the
// peers that say `node: NAME`, an endpoint to those that have none, and of its allowed IPs only those that lie within the node's `allow`. A key that
// two nodes claim is his who claimed it first: public keys are public, and whoever repeats another one's would cut that one off.
// Files: a record a file in the directory, named after the node's id. One that is damaged is as good as absent: the next exchange brings it.
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { nodeAndInterface } from '../config/check-nodes.js';
import { plainPrefix } from '../config/objects.js';
import { asList } from '../config/schema-parts.js';
import type { Config } from '../config/schema.js';
import type { WireguardConfig, WireguardPeerConfig } from '../config/schema-wireguard.js';
import { allowedPrefixes, prefixKey } from '../config/wireguard.js';
import { contains, parseInterfaceAddress, parsePrefix, type Prefix } from '../lib/address.js';
import { replaceFile } from '../supervisor/run-directory.js';
import { keysOf, openRecord, type Announcement, type NodeRecord, type SignedRecord } from './record.js';

const FILE_BYTES_MAX = 128 * 1024;
const SUFFIX = '.json';
const NOTES_MAX = 8;

/** `claimedMs`: since when each of its public keys has stood in the node's records without a break; since the epoch. */
export interface Learnt { readonly record: NodeRecord; readonly signed: SignedRecord; readonly acceptedAt: string; readonly claimedMs: Readonly<Record<string, number>> }

const claimsOf = ({ wireguard }: NodeRecord, before: Readonly<Record<string, number>>, nowMs: number): Record<string, number> =>
  Object.fromEntries(wireguard.flatMap(keysOf).map((key) => [key, Number.isFinite(before[key]) ? before[key]! : nowMs]));

export class LearntRecords {
  private readonly known = new Map<string, Learnt>(); // by id
  /** What was found damaged, worded for people. */
  readonly damage: string[] = [];

  /** Expired ones are read too: their sequence still says what is older. */
  constructor(private readonly directory: string) {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(directory)) {
      const path = join(directory, name);
      if (!name.endsWith(SUFFIX)) {
        rmSync(path, { force: true, recursive: true }); // of a write that was cut short
        continue;
      }
      try {
        if (statSync(path).size > FILE_BYTES_MAX) throw new Error('larger than any record');
        const { acceptedAt, claimedMs, ...signed } = JSON.parse(readFileSync(path, 'utf8')) as SignedRecord & { acceptedAt: string; claimedMs?: Record<string, number> };
        const id = `ed25519:${name.slice(0, -SUFFIX.length)}`;
        const record = openRecord(signed, id, -Infinity, { kept: true });
        this.known.set(id, { record, signed, acceptedAt: String(acceptedAt), claimedMs: claimsOf(record, claimedMs ?? {}, Date.parse(acceptedAt) || 0) });
      } catch (error) {
        this.damage.push(`${path}: ${(error as Error).message}`);
      }
    }
  }

  get(id: string): Learnt | undefined { return this.known.get(id); }

  /** One that has not ended. */
  current(id: string, nowMs: number): NodeRecord | undefined {
    const record = this.known.get(id)?.record;
    return record !== undefined && Date.parse(record.expiresAt) > nowMs ? record : undefined;
  }

  /** Takes a record that a node sent. It is durable when this returns. True: it is another one than before. Throws RecordError, or the system's error. */
  accept(id: string, signed: SignedRecord, nowMs: number): boolean {
    const before = this.known.get(id);
    const record = openRecord(signed, id, nowMs, before ? { former: { sequence: before.record.sequence, record: before.signed.record } } : {});
    if (before?.signed.record === signed.record) return false;
    const acceptedAt = new Date(nowMs).toISOString();
    const claimedMs = claimsOf(record, before?.claimedMs ?? {}, nowMs);
    replaceFile(this.pathOf(id), JSON.stringify({ acceptedAt, claimedMs, ...signed }));
    this.known.set(id, { record, signed: { record: signed.record, signature: signed.signature }, acceptedAt, claimedMs });
    return true;
  }

  /** Forgets the nodes that are not trusted any more. */
  keep(ids: ReadonlySet<string>): void {
    for (const id of [...this.known.keys()]) {
      if (ids.has(id)) continue;
      this.known.delete(id);
      rmSync(this.pathOf(id), { force: true });
    }
  }

  private pathOf(id: string): string { return join(this.directory, `${id.slice(id.indexOf(':') + 1)}${SUFFIX}`); }
}

// ---- into the configuration ---------------------------------------------------------------------------------------------

export interface Filled {
  /** Peers that are nodes have keys now, as far as they are known. */
  config: Config;
  /** The sequence of the record of each node that counted, with every key in it: only then may the node begin to use them. */
  sequences: ReadonlyMap<string, number>;
  /** By node, what of its record does not count and why. */
  notes: ReadonlyMap<string, readonly string[]>;
}

/** `records`: by the node's name in the configuration. `ownKeys`: our own public keys, which no node has. `claimedMs`: see Learnt. */
export function fillNodes(config: Config, records: ReadonlyMap<string, NodeRecord>, ownKeys: ReadonlySet<string>, claimedMs: (node: string, key: string) => number = () => 0): Filled {
  const sequences = new Map([...records].map(([name, { sequence }]) => [name, sequence]));
  const notes = new Map<string, string[]>();
  if (!Object.values(config.wireguard ?? {}).some(({ peers }) => peers?.some(({ node }) => node !== undefined))) return { config, sequences, notes };
  const note = (node: string, text: string): void => {
    const list = notes.get(node) ?? [];
    if (list.length < NOTES_MAX) notes.set(node, [...list, text]);
  };
  const allow = new Map((config.nodes?.peers ?? []).map((peer) => [peer.name, asList<string>(peer.allow).map(plainPrefix)]));
  const own = ownAddresses(config);
  const owners = new Map<string, string>(); // key → node
  for (const [node, { wireguard: announced }] of records) {
    for (const key of announced.flatMap(keysOf)) {
      const owner = owners.get(key);
      if (owner === undefined || claimedMs(node, key) < claimedMs(owner, key)) owners.set(key, node);
    }
  }
  const wireguard = Object.fromEntries(Object.entries(config.wireguard!).map(([name, tunnel]) => [name, fillTunnel(name, tunnel)]));
  return { config: { ...config, wireguard }, sequences, notes };

  function fillTunnel(name: string, tunnel: WireguardConfig): WireguardConfig {
    const peers = tunnel.peers ?? [];
    if (!peers.some(({ node }) => node !== undefined)) return tunnel;
    // What the configuration says goes first: no node takes a key or a prefix from it. Prefixes within the `allow` of several are the first one's.
    const keys = new Set([...ownKeys, ...peers.flatMap(({ publicKey, nextPublicKey }) => [publicKey, nextPublicKey].filter((key) => key !== undefined))]);
    const prefixes = new Set(peers.flatMap((peer) => allowedPrefixes(peer).map(prefixKey)));
    return { ...tunnel, peers: peers.map((peer) => fillPeer(name, peer, keys, prefixes)) };
  }

  function fillPeer(interfaceName: string, peer: WireguardPeerConfig, keys: Set<string>, prefixes: Set<string>): WireguardPeerConfig {
    if (peer.node === undefined) return peer;
    const [node, theirs] = nodeAndInterface(peer.node);
    const record = records.get(node);
    if (record === undefined) return peer;
    const announced = announcementFor(record, theirs, interfaceName);
    if (announced === undefined) {
      note(node, `it announces no tunnel ${theirs ?? interfaceName}${record.wireguard.length === 0 ? '' : `, but ${record.wireguard.map((one) => one.interface).join(', ')}`}`);
      return peer;
    }
    const isTaken = (key: string): boolean => keys.has(key) || owners.get(key) !== node;
    for (const key of keysOf(announced).filter(isTaken)) {
      note(node, `the public key ${key} of its tunnel ${announced.interface} is somebody else's already`);
      sequences.delete(node);
    }
    const [publicKey, nextPublicKey = null] = keysOf(announced).filter((key) => !isTaken(key));
    if (publicKey === undefined) return peer;
    keys.add(publicKey);
    if (nextPublicKey !== null) keys.add(nextPublicKey);
    const added = addedPrefixes(node, peer, announced, prefixes);
    return remembered(peer, { ...announced, publicKey, nextPublicKey }, added);
  }

  function addedPrefixes(node: string, peer: WireguardPeerConfig, { allowedIPs }: Announcement, prefixes: Set<string>): string[] {
    const configured = allowedPrefixes(peer);
    const permitted = allow.get(node) ?? [];
    return allowedIPs.filter((text) => {
      const prefix = parsePrefix(text);
      if (isWithin(prefix, configured)) return false; // it has that anyway
      if (!isWithin(prefix, permitted)) note(node, `${text} is not among what it may announce`);
      else if (prefixes.has(prefixKey(prefix))) note(node, `${text} is another peer's`);
      else if (prefix.length === 128 && own.has(prefix.address)) note(node, `${text} is our own address`);
      else {
        prefixes.add(prefixKey(prefix));
        return true;
      }
      return false;
    });
  }
}

const isWithin = (prefix: Prefix, list: readonly Prefix[]): boolean => list.some((one) => one.length <= prefix.length && contains(one, prefix.address));

/** The one that is asked for, else the one that is called as ours, else the only one. */
export function announcementFor({ wireguard }: NodeRecord, theirs: string | undefined, ours: string): Announcement | undefined {
  const named = wireguard.find((one) => one.interface === (theirs ?? ours));
  return named ?? (theirs === undefined && wireguard.length === 1 ? wireguard[0] : undefined);
}

function ownAddresses(config: Config): ReadonlySet<bigint> {
  const all = [...Object.values(config.interfaces ?? {}), ...Object.values(config.wireguard ?? {})].flatMap((one) => asList<string>(one.addresses));
  return new Set(all.map((text) => parseInterfaceAddress(text).address));
}

// The same peer with the same record stays the same object: what was compiled of it before need not be compiled again.
const filled = new WeakMap<WireguardPeerConfig, { key: string; peer: WireguardPeerConfig }>();

function remembered(peer: WireguardPeerConfig, { publicKey, nextPublicKey, endpoint }: Announcement, added: readonly string[]): WireguardPeerConfig {
  const key = JSON.stringify([publicKey, nextPublicKey, endpoint, added]);
  const before = filled.get(peer);
  if (before?.key === key) return before.peer;
  const at = peer.endpoint ?? endpoint ?? undefined;
  const made: WireguardPeerConfig = {
    ...peer, publicKey, ...(nextPublicKey === null ? {} : { nextPublicKey }), ...(at === undefined ? {} : { endpoint: at }),
    ...(added.length === 0 ? {} : { allowedIPs: [...asList<string>(peer.allowedIPs), ...added] }),
  };
  filled.set(peer, { key, peer: made });
  return made;
}
