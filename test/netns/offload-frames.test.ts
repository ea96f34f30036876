// Flows that the XDP program forwards, between tagged and untagged sides; and datagrams of such flows that are larger than the path: their
// fragments go through the engine, and the flow stays where it was.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildFrame } from '../../lab/frames.js';
import { ADDRESSES, FAMILIES } from '../../lab/topology.js';
import { udpExchange } from '../../lab/traffic.js';
import { addRawHosts, Conversation, countsDuring, macOf, OFFLOAD_POLICY, RawHosts, type Ends, type Path } from './conversation.js';
import { describeNetns, useLab } from './fixture.js';

const [GUESTS, LAB] = [30, 31];
const GUEST = { IPv4: '10.0.30.50', IPv6: '2001:db8:30::50' } as const;
const SERVER = { IPv4: '10.0.31.50', IPv6: '2001:db8:31::50' } as const;
const POLICY = OFFLOAD_POLICY
  .replaceAll('from: [trust]', 'from: [trust, guests]')
  .replace('routes:', `  guests: { device: eth1, vlan: ${GUESTS}, zone: guests, addresses: [10.0.30.4/24, "2001:db8:30::4/64"] }\n  labs: { device: eth2, vlan: ${LAB}, zone: dmz, addresses: [10.0.31.4/24, "2001:db8:31::4/64"] }\nroutes:`);
const ROUNDS = 5;
/** Two fragments of an Ethernet MTU. */
const LARGE = 2400;

describeNetns('offload, frame by frame', () => {
  const bench = useLab({ appliance: { configText: POLICY } });
  let raw: RawHosts;
  beforeAll(() => {
    addRawHosts(bench);
    // A kernel without 802.1q has no VLAN devices: then neighbours of a tagged interface stand at its port.
    const devices = bench.lab.ipJson<{ ifname: string }>('nva', 'link', 'show').map(({ ifname }) => ifname);
    const neighbour = (address: string, node: string, port: string, vlan: number): void =>
      bench.lab.ip('nva', `neighbour replace ${address} lladdr ${macOf(bench.lab, node, 'eth0')} dev ${devices.includes(`${port}.${vlan}`) ? `${port}.${vlan}` : port} nud permanent`);
    for (const family of FAMILIES) {
      neighbour(GUEST[family], 'client', 'eth1', GUESTS);
      neighbour(SERVER[family], 'server', 'eth2', LAB);
    }
    raw = new RawHosts(bench);
  });
  afterAll(() => raw?.stop());

  const ways = FAMILIES.flatMap((family) => {
    const [guest, server] = [GUEST[family], SERVER[family]];
    const list: { name: string; path: Path; ends: Partial<Ends> }[] = [
      { name: 'tagged to untagged', path: 'no NAT', ends: { src: guest, seenSrc: guest, vlans: [GUESTS, undefined] } },
      { name: 'untagged to tagged', path: 'no NAT', ends: { dst: server, seenDst: server, vlans: [undefined, LAB] } },
      { name: 'tagged to tagged', path: 'no NAT', ends: { src: guest, seenSrc: guest, dst: server, seenDst: server, vlans: [GUESTS, LAB] } },
      { name: 'tagged to untagged, source NAT', path: 'source NAT', ends: { src: guest, vlans: [GUESTS, undefined] } },
    ];
    return (['tcp', 'udp', 'icmp'] as const).flatMap((protocol) => list.map((way) => ({ family, protocol, ...way })));
  });

  test.each(ways)('$family $protocol, $name: forwarded by the XDP program, tags and all', async ({ family, protocol, path, ends }) => {
    const talk = await new Conversation(raw, family, protocol, path, { ends }).establish();
    const counts = await countsDuring(bench, async () => {
      for (let round = 0; round < ROUNDS; round++) {
        await talk.pass(0, { payload: Buffer.alloc(round * 250 + 1, `${round} ${talk.srcPort}`) });
        await talk.pass(1);
      }
    });
    expect(counts.received).toBe(0);
    expect(counts.toEngine).toEqual({ eth0: 0, eth1: 0, eth2: 0 });
    expect([counts.offloaded[talk.device(0)], counts.offloaded[talk.device(1)]]).toEqual([ROUNDS, ROUNDS]);
    expect(await talk.session()).toMatchObject({ packets: talk.packets, bytes: talk.bytes });
  });

  test('a frame with another tag than its session is none of it', async () => {
    const talk = await new Conversation(raw, 'IPv4', 'udp', 'no NAT', { ends: { src: GUEST.IPv4, seenSrc: GUEST.IPv4, vlans: [GUESTS, undefined] } }).establish();
    for (const vlan of [LAB, 0xffe]) {
      const counts = await countsDuring(bench, () => talk.expectDropped(0, { vlan, payload: `tag ${vlan}` }));
      expect(counts.offloaded['eth1']).toBe(1); // the one after it
      expect(counts.drops['unknown-vlan']).toBe(1);
    }
    const untagged = talk.fields(0, { payload: 'no tag' });
    delete untagged.vlan;
    const from = talk.host(1).frames.length;
    const counts = await countsDuring(bench, async () => {
      talk.host(0).send(buildFrame(untagged));
      await talk.pass(0);
    });
    expect(talk.host(1).frames.slice(from).filter((frame) => frame.payload.toString() === 'no tag')).toEqual([]);
    expect(counts.drops['anti-spoofing']).toBe(1);
  });

  describe.each(FAMILIES)('%s: datagrams larger than the path', (family) => {
    test.each([['no NAT', ADDRESSES[family].server], ['source NAT', ADDRESSES[family].far]])('%s: whole ones by the XDP program, fragments by the engine, all of them right', async (_path, address) => {
      const count = 40;
      const counts = await countsDuring(bench, async () => {
        // One socket: small and large datagrams are one session.
        expect(await udpExchange(bench.lab, 'client', address, { count, size: [64, LARGE] })).toEqual({ sent: count, answered: count, damaged: 0, lost: 0, errors: [] });
      });
      // Every second one is small, the others are two fragments; answers are alike. Each is counted where it came by.
      const offloaded = Object.values(counts.offloaded).reduce((sum, packets) => sum + packets, 0);
      expect(counts.received + offloaded).toBeGreaterThanOrEqual((count / 2) * (1 + 2) * 2);
      expect(counts.received).toBeGreaterThanOrEqual((count / 2) * 2 * 2);
      // The first exchange sets the session up, and on a busy machine a few more pass before it changes over.
      expect(offloaded).toBeGreaterThanOrEqual(count / 2);
      expect(Object.entries(counts.drops).filter(([, drops]) => drops > 0)).toEqual([]);
    });
  });

});
