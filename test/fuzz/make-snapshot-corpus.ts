// Writes the seeds of snapshot_fuzz.cc: `npx vite-node test/fuzz/make-snapshot-corpus.ts`. Each is a few edits of the sample's snapshot, a field
// of each section at least once, alone and as what changes with the next snapshot. Places are those of native/abi/dataplane.h.
import { mkdirSync, writeFileSync } from 'node:fs';

const corpus = new URL('corpus/snapshot_fuzz/', import.meta.url);
const SECTIONS = ['interfaces', 'addresses', 'prefixes', 'services', 'rules', 'natRules', 'natAddresses', 'nexthops', 'routes', 'wireguards', 'wireguardPeers'] as const;
const BYTES: Record<(typeof SECTIONS)[number], number> = { interfaces: 28, addresses: 24, prefixes: 24, services: 12, rules: 56, natRules: 80, natAddresses: 24, nexthops: 24, routes: 32, wireguards: 12, wireguardPeers: 16 };
const WHOLE = 15, LATER = 0x40;

type Edit = [section: keyof typeof BYTES | 'whole', entry: number, place: number, bytes: number[]];
const ones = (count: number): number[] => Array<number>(count).fill(0xff);

const edits: Record<string, Edit> = {
  'interface-vlan': ['interfaces', 3, 12, [0xff, 0x0f]], 'interface-zone': ['interfaces', 1, 14, [2]], 'interface-mtu': ['interfaces', 0, 20, [0, 2]], 'interface-kind': ['interfaces', 0, 24, [1]], 'interface-id-twice': ['interfaces', 1, 0, [1]],
  'a-subnet-of-length-0': ['addresses', 0, 18, [0x60]], 'address-interface': ['addresses', 1, 16, [9]], 'address-nat-slot': ['addresses', 0, 20, [64]], 'address-of-the-engine': ['addresses', 2, 22, [1]],
  'prefix-shorter': ['prefixes', 0, 16, [112]], 'prefix-of-another-family': ['prefixes', 0, 0, [0x20, 1, 0xd, 0xb8]], 'prefix-too-long': ['prefixes', 1, 16, [129]], 'prefix-any': ['prefixes', 0, 0, [...Array<number>(16).fill(0), 0]],
  'service-any': ['services', 0, 0, ones(2)], 'service-range': ['services', 0, 6, [0, 0, 0xff, 0xff]], 'service-upside-down': ['services', 1, 6, [9, 0, 1, 0]], 'service-source': ['services', 1, 2, [1, 0, 9, 0]],
  'rule-action': ['rules', 0, 20, [1]], 'rule-zones': ['rules', 2, 0, ones(16)], 'rule-services': ['rules', 2, 40, [0, 0, 0, 0, 3]], 'rule-sources': ['rules', 1, 24, [0, 0, 0, 0, 2]], 'rule-span-outside': ['rules', 1, 24, ones(8)], 'rule-id': ['rules', 0, 16, [99]],
  'nat-kind': ['natRules', 0, 20, [3]], 'nat-filtering': ['natRules', 0, 21, [2]], 'nat-endpoint-dependent': ['natRules', 0, 22, [3]], 'nat-pool': ['natRules', 0, 48, [1, 0, 0, 0, 1]], 'nat-to-port': ['natRules', 3, 72, [0xff, 0xff]], 'nat-static-length': ['natRules', 4, 74, [120]], 'nat-static-inside': ['natRules', 4, 56, ones(4)], 'nat-interface': ['natRules', 1, 76, [1, 0]],
  'pool-range': ['natAddresses', 0, 16, [1, 0, 1, 0]], 'pool-slot': ['natAddresses', 1, 20, [63]], 'nexthop-kind': ['nexthops', 0, 18, [1]], 'nexthop-interface': ['nexthops', 0, 16, [4]],
  'route-length': ['routes', 0, 16, [97]], 'route-nexthops': ['routes', 0, 24, [0, 0, 0, 0, 4]], 'route-none': ['routes', 1, 28, [0]], 'tunnel-port': ['wireguards', 0, 2, [1]], 'tunnel-interface': ['wireguards', 0, 0, [1]], 'tunnel-peers': ['wireguards', 0, 4, ones(8)],
  'peer-id': ['wireguardPeers', 0, 0, [0, 0]], 'peer-allowed': ['wireguardPeers', 0, 8, [0, 0, 0, 0, 9]], 'timers': ['whole', 0, 24, ones(31)], 'fewer-rules': ['whole', 0, 92 + 4 * 8, [2]], 'section-outside': ['whole', 0, 88, ones(8)],
};

mkdirSync(corpus, { recursive: true });
const encode = ([section, entry, place, bytes]: Edit, later: boolean): number[] => {
  const number = section === 'whole' ? WHOLE : SECTIONS.indexOf(section), at = section === 'whole' ? place : entry * BYTES[section] + place;
  return [at & 255, at >> 8 | number << 4, bytes.length | (later ? LATER : 0), ...bytes];
};
for (const [name, edit] of Object.entries(edits)) {
  writeFileSync(new URL(name, corpus), Uint8Array.from([0, ...encode(edit, false)]));
  writeFileSync(new URL(`${name}-later`, corpus), Uint8Array.from([0, ...encode(edit, true)]));
}
const all = Object.values(edits);
for (let i = 0; i + 2 < all.length; i += 3) writeFileSync(new URL(`three-later-${i / 3}`, corpus), Uint8Array.from([0, ...all.slice(i, i + 3).flatMap((edit) => encode(edit, true))]));
writeFileSync(new URL('cut', corpus), Uint8Array.of(0x81));
writeFileSync(new URL('unchanged', corpus), Uint8Array.of(0));
