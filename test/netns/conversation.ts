// Conversations of raw frames through the appliance: two hosts that no kernel knows, so that each byte that goes in and comes
// out is a test's. Used by the tests of offload, of survival and of faults.

import { expect } from 'vitest';
import { buildFrame, FrameHost, TCP, type Frame, type FrameCount, type FrameFields, type FrameStream, type L4 } from '../../lab/frames.js';
import { ADDRESSES, FAMILIES, type Family } from '../../lab/topology.js';
import { until } from '../../lab/until.js';
import type { Bench } from './fixture.js';

/** Of hosts that only exist as frames, behind the lab's nodes. */
export const RAW = {
  IPv4: { client: '10.0.1.50', server: '10.0.2.50', internet: '203.0.113.50', staticOutside: '203.0.113.9', nvaUntrust: ADDRESSES.IPv4.nvaUntrust },
  IPv6: { client: '2001:db8:2::50', server: '2001:db8:3::50', internet: '2001:db8:1::50', staticOutside: '2001:db8:1::9', nvaUntrust: ADDRESSES.IPv6.nvaUntrust },
} as const;
export type Node = 'client' | 'server' | 'internet';
export const PORT_OF: Record<Node, string> = { internet: 'eth0', client: 'eth1', server: 'eth2' };
export const NODES = ['client', 'server', 'internet'] as const;

/** Everything from inside is allowed, and what NAT publishes; port 9999 stays in the engine. */
export const OFFLOAD_POLICY = `version: 1
hostname: nva-offload
interfaces:
  untrust: { device: eth0, zone: untrust, addresses: [203.0.113.4/24, "2001:db8:1::4/64"] }
  trust:   { device: eth1, zone: trust,   addresses: [10.0.1.4/24, "2001:db8:2::4/64"] }
  dmz:     { device: eth2, zone: dmz,     addresses: [10.0.2.4/24, "2001:db8:3::4/64"] }
routes:
  - { to: 0.0.0.0/0, via: 203.0.113.1 }
  - { to: "::/0", via: "2001:db8:1::1" }
firewall:
  default: deny
  rules:
    - { name: stay, from: [trust], to: [dmz, untrust], service: [tcp/9999, udp/9999], action: allow, offload: never }
    - { name: short, from: [trust], to: [dmz], service: [udp/9998], action: allow }
    - { name: forbidden, from: [trust], to: [dmz, untrust], service: [tcp/23, udp/23], action: deny }
    - { name: out, from: [trust], to: [untrust], action: allow, log: both }
    - { name: internal, from: [trust], to: [dmz], action: allow, log: both }
    - { name: in, from: [untrust], to: [dmz], service: [tcp/443, udp/443, icmp/echo-request], action: allow }
nat:
  source:
    - { name: egress, from: [trust], to: [untrust], families: [ipv4, ipv6], translate: { interface: true } }
  destination:
    - { name: publish, from: [untrust], destination: 203.0.113.4, service: tcp/8443, translate: { address: 10.0.2.50, port: 443 } }
    - { name: publish-udp, from: [untrust], destination: 203.0.113.4, service: udp/8443, translate: { address: 10.0.2.50, port: 443 } }
    - { name: publish6, from: [untrust], destination: "2001:db8:1::4", service: tcp/8443, translate: { address: "2001:db8:3::50", port: 443 } }
    - { name: publish6-udp, from: [untrust], destination: "2001:db8:1::4", service: udp/8443, translate: { address: "2001:db8:3::50", port: 443 } }
  static:
    - { name: one-to-one, outside: 203.0.113.9, inside: 10.0.2.50 }
    - { name: one-to-one6, outside: "2001:db8:1::9", inside: "2001:db8:3::50" }
`;

/** Makes the hosts reachable: link addresses that stay, and routers that answer nothing for them. */
export function addRawHosts(bench: Bench): void {
  setNeighbours(bench);
  for (const family of FAMILIES) bench.lab.ip('internet', `route add blackhole ${RAW[family].internet}`);
}

/** They go with the appliance's addresses. */
export function setNeighbours({ lab }: Bench): void {
  for (const family of FAMILIES)
    for (const node of NODES) lab.ip('nva', `neighbour replace ${RAW[family][node]} lladdr ${macOf(lab, node, 'eth0')} dev ${PORT_OF[node]} nud permanent`);
}

export function macOf(lab: Bench['lab'], node: string, device: string): string {
  return lab.ipJson<{ address: string }>(node, 'link', 'show', 'dev', device)[0]!.address;
}

export type Path = 'no NAT' | 'source NAT' | 'destination NAT' | 'static NAT';
export const PATHS: readonly Path[] = ['no NAT', 'source NAT', 'destination NAT', 'static NAT'];

export interface Ends {
  from: Node;
  to: Node;
  /** As the originator sends, and as the responder sees it. */
  src: string;
  dst: string;
  seenSrc: string;
  seenDst: string;
  dstPort: number;
  seenDstPort: number;
  /** Tags of the originator's and of the responder's side; without one: untagged. */
  vlans?: [number?, number?];
}

function endsOf(path: Path, family: Family): Ends {
  const at = RAW[family];
  switch (path) {
    case 'no NAT':
      return { from: 'client', to: 'server', src: at.client, dst: at.server, seenSrc: at.client, seenDst: at.server, dstPort: 7, seenDstPort: 7 };
    case 'source NAT':
      return { from: 'client', to: 'internet', src: at.client, dst: at.internet, seenSrc: at.nvaUntrust, seenDst: at.internet, dstPort: 7, seenDstPort: 7 };
    case 'destination NAT':
      return { from: 'internet', to: 'server', src: at.internet, dst: at.nvaUntrust, seenSrc: at.internet, seenDst: at.server, dstPort: 8443, seenDstPort: 443 };
    case 'static NAT':
      return { from: 'internet', to: 'server', src: at.internet, dst: at.staticOutside, seenSrc: at.internet, seenDst: at.server, dstPort: 443, seenDstPort: 443 };
  }
}

export class RawHosts {
  readonly hosts: Record<Node, FrameHost>;
  readonly macs: Record<Node, { own: string; nva: string }>;
  constructor(readonly bench: Bench) {
    const { lab } = bench;
    const each = <T>(make: (node: Node) => T): Record<Node, T> => Object.fromEntries(NODES.map((node) => [node, make(node)])) as Record<Node, T>;
    this.hosts = each((node) => new FrameHost(lab, node));
    this.macs = each((node) => ({ own: macOf(lab, node, 'eth0'), nva: macOf(lab, 'nva', PORT_OF[node]) }));
  }
  async stop(): Promise<void> {
    for (const host of Object.values(this.hosts)) await host.program.stop();
  }
}

/** Scaled by 7 bits it is no larger than what the SYNs said: the engine wants to see a larger one. */
const WINDOW = 502;
let nextPort = 20_000;
let nextToken = 1;

export interface Sent {
  frame: Frame;
  /** What the sender sent. */
  fields: FrameFields;
}

/** Direction 0: from the originator; 1: back. */
export class Conversation {
  readonly ends: Ends;
  readonly srcPort: number;
  /** The originator's port as the responder sees it. */
  seenSrcPort = 0;
  readonly #seq: [number, number];
  /** Packets and IP bytes that went through, a direction. */
  readonly packets: [number, number] = [0, 0];
  readonly bytes: [number, number] = [0, 0];

  constructor(
    readonly raw: RawHosts,
    readonly family: Family,
    readonly protocol: L4,
    readonly path: Path,
    options: { dstPort?: number; srcPort?: number; ends?: Partial<Ends> } = {},
  ) {
    this.ends = { ...endsOf(path, family), ...options.ends };
    if (options.dstPort !== undefined) this.ends = { ...this.ends, dstPort: options.dstPort, seenDstPort: options.dstPort };
    this.srcPort = options.srcPort ?? nextPort++;
    this.#seq = [this.srcPort * 65_536, (4_000_000_000 + this.srcPort * 65_536) >>> 0]; // one wraps for some of them
  }

  node(direction: 0 | 1): Node { return direction === 0 ? this.ends.from : this.ends.to; }
  host(direction: 0 | 1): FrameHost { return this.raw.hosts[this.node(direction)]; }
  /** The appliance's netdev that packets of a direction come in on. */
  device(direction: 0 | 1): string { return PORT_OF[this.node(direction)]; }

  fields(direction: 0 | 1, more: Partial<FrameFields> = {}): FrameFields {
    const { own, nva } = this.raw.macs[this.node(direction)];
    const { ends } = this;
    const echo = this.protocol === 'icmp';
    const addresses = direction === 0
      ? { src: ends.src, dst: ends.dst, srcPort: this.srcPort, dstPort: echo ? this.srcPort : ends.dstPort }
      : { src: ends.seenDst, dst: ends.seenSrc, srcPort: echo ? this.seenSrcPort : ends.seenDstPort, dstPort: this.seenSrcPort };
    const tcp = this.protocol === 'tcp' ? { seq: this.#seq[direction], ack: this.#seq[direction === 0 ? 1 : 0], flags: TCP.ACK, window: WINDOW } : {};
    const vlan = ends.vlans?.[direction];
    return { srcMac: own, dstMac: nva, ...(vlan === undefined ? {} : { vlan }), protocol: this.protocol, reply: direction === 1, ...addresses, ...tcp, payload: `token ${nextToken++}`, ...more };
  }

  /** Sends, and says nothing of what becomes of it; a TCP segment moves the sender's sequence unless `seq` was given. */
  send(direction: 0 | 1, more: Partial<FrameFields> = {}): FrameFields {
    const fields = this.fields(direction, more);
    this.host(direction).send(buildFrame(fields));
    if (this.protocol === 'tcp' && more.seq === undefined) {
      const flags = fields.flags ?? 0;
      this.#seq[direction] = (this.#seq[direction] + Buffer.from(fields.payload ?? '').length + (flags & TCP.SYN ? 1 : 0) + (flags & TCP.FIN ? 1 : 0)) >>> 0;
    }
    return fields;
  }

  /** Whether a frame at the other end is the one that was sent. */
  isSame(fields: FrameFields): (frame: Frame) => boolean {
    return (frame) => frame.protocol === this.protocol && frame.payload.equals(Buffer.from(fields.payload ?? '')) && (this.protocol !== 'tcp' || (frame.flags === fields.flags && frame.seq === fields.seq! >>> 0));
  }

  /** Sends, waits for it at the other end, and judges it there: addresses, ports, link addresses, TTL, checksums, payload. */
  async pass(direction: 0 | 1, more: Partial<FrameFields> = {}): Promise<Frame> {
    const receiver = this.host(direction === 0 ? 1 : 0);
    const from = receiver.frames.length;
    const fields = this.send(direction, more);
    const [frame] = await receiver.receive(`${this.family} ${this.protocol} ${this.path}: direction ${direction} arrives`, this.isSame(fields), { from });
    this.judge(direction, fields, frame!);
    this.packets[direction] += 1;
    this.bytes[direction] += frame!.ipBytes;
    return frame!;
  }

  judge(direction: 0 | 1, fields: FrameFields, frame: Frame): void {
    const { ends } = this;
    const echo = this.protocol === 'icmp';
    if (direction === 0) this.seenSrcPort ||= frame.srcPort;
    const to = this.raw.macs[this.node(direction === 0 ? 1 : 0)];
    const wanted = direction === 0
      ? { src: ends.seenSrc, dst: ends.seenDst, srcPort: this.seenSrcPort, dstPort: echo ? this.seenSrcPort : ends.seenDstPort }
      : { src: ends.dst, dst: ends.src, srcPort: echo ? this.srcPort : ends.dstPort, dstPort: this.srcPort };
    expect(frame.vlan).toBe(ends.vlans?.[direction === 0 ? 1 : 0]);
    expect(frame).toMatchObject({ ...wanted, srcMac: to.nva, dstMac: to.own, ttl: (fields.ttl ?? 64) - 1, headerChecksumRight: true, checksumRight: true });
    if (this.path !== 'source NAT') expect(this.seenSrcPort).toBe(this.srcPort);
  }

  /** A handshake, a request with its reply: from here on packets are forwarded by the XDP program. */
  async establish(): Promise<this> {
    if (this.protocol === 'tcp') {
      const scale = Buffer.from([1, 3, 3, 7]);
      await this.pass(0, { flags: TCP.SYN, ack: 0, payload: '', tcpOptions: scale, window: 64240 });
      await this.pass(1, { flags: TCP.SYN | TCP.ACK, payload: '', tcpOptions: scale, window: 64240 });
      await this.pass(0, { payload: '' });
    } else {
      await this.pass(0);
      await this.pass(1);
    }
    return this;
  }

  /** Nothing of it may arrive; what is sent after it, in order, shows that it would have by then. */
  async expectDropped(direction: 0 | 1, more: Partial<FrameFields>, next: Partial<FrameFields> = {}): Promise<void> {
    const receiver = this.host(direction === 0 ? 1 : 0);
    const from = receiver.frames.length;
    const fields = this.send(direction, more);
    await this.pass(direction, next);
    expect(receiver.frames.slice(from).filter(this.isSame(fields))).toEqual([]);
  }

  /** Its session as the appliance lists it. */
  async session(): Promise<Awaited<ReturnType<Bench['appliance']['flows']>>[number]> {
    return until('the session is listed', async () =>
      (await this.raw.bench.appliance.flows('--source', this.ends.src)).find((flow) => flow.event === 'update' && flow.sourcePort === this.srcPort && flow.source === this.ends.src));
  }
}

export interface Counts {
  received: number;
  toEngine: Record<string, number>;
  offloaded: Record<string, number>;
  drops: Record<string, number>;
}

export async function countsOf({ appliance }: Bench): Promise<Counts> {
  const { counters, drops, steering } = await appliance.api<{
    counters: Record<string, number>; drops: Record<string, number>; steering: Record<string, { counters: Record<string, number> }>;
  }>('/api/v1/counters');
  const of = (name: string): Record<string, number> => Object.fromEntries(Object.entries(steering).map(([device, one]) => [device, one.counters[name] ?? 0]));
  return { received: counters['rx-packets'] ?? 0, toEngine: of('to-engine'), offloaded: of('offloaded'), drops };
}

/**
 * All that an offloaded stream sent arrives, once. A session whose turn after a commit comes late, because its worker waited for a processor, goes
 * through the engine packet by packet, and those packets may be overtaken (docs/internals/offload.md, "Order"): `byEngine` is how many these
 * can have been. That a session is forwarded on before its turn, `test/native/offload_test.cc` shows without a clock.
 */
export async function expectWhole(stream: FrameStream, count: FrameCount, byEngine: () => Promise<number> = async () => 0): Promise<void> {
  const sent = stream.sent();
  await until('all of it arrived', () => {
    const faults = { ...count.faults(), last: count.counted().last, sent };
    if (faults.last < sent - 1 || faults.lost > 0) throw new Error(JSON.stringify(faults));
    return true;
  });
  const { reordered, repeated } = count.counted();
  expect(repeated).toBe(0);
  expect(reordered).toBeLessThanOrEqual(await byEngine());
}

/** What `work` made of the counters. */
export async function countsDuring(bench: Bench, work: () => Promise<void>): Promise<Counts> {
  const before = await countsOf(bench);
  await work();
  const after = await countsOf(bench);
  const less = (a: Record<string, number>, b: Record<string, number>): Record<string, number> => Object.fromEntries(Object.entries(a).map(([name, value]) => [name, value - (b[name] ?? 0)]));
  return { received: after.received - before.received, toEngine: less(after.toEngine, before.toEngine), offloaded: less(after.offloaded, before.offloaded), drops: less(after.drops, before.drops) };
}
