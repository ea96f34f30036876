// Writes the packet fuzzer's corpus from the packet cases: one input a case, its frames in order.
// Run: npx vite-node test/fuzz/make-corpus.ts. The result is checked in; run it again when cases were added.
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { parse } from 'yaml';
import { frameOf, type Packet } from '../cases/packet-language.js';

const CORPUS_BYTES_MAX = 900_000; // checked in: kept under a megabyte
const FRAME_BYTES_MAX = 600;      // long frames teach a fuzzer nothing that short ones do not
const INTERFACES = ['untrust', 'trust', 'dmz', 'guests'];
const TIME = 10;                  // 2^10 microseconds between frames
const WAYS = [0, 1, 2, 3, 4, 5];  // packet_fuzz's: received, and by the host's stack and tunnels
const ALLOWED_SOURCE = 32;
const ASKED = 6, WATCHED = 7;      // records that are no packets: a question, and a capture's filter
const OTHER_WAYS_EVERY = 12;      // cases that also come by the other ways

const cases = new URL('../cases/', import.meta.url);
const corpus = new URL('corpus/packet_fuzz/', import.meta.url);
rmSync(corpus, { recursive: true, force: true });
mkdirSync(corpus, { recursive: true });

type Node = { send?: Packet; steps?: Node[] } | Node[];

/** Captured variables are not known here: any number will do. */
const variables = { get: () => 2000, has: () => true } as unknown as Map<string, number>;

function* packets(steps: Node): Generator<Packet> {
  if (Array.isArray(steps)) for (const step of steps) yield* packets(step);
  else {
    if (steps.send) yield steps.send;
    if (steps.steps) yield* packets(steps.steps);
  }
}

const record = (operation: number, time: number, bytes: Uint8Array): Uint8Array[] => [Uint8Array.of(operation, time, bytes.length & 255, bytes.length >> 8), bytes];
const mapped = (last: number[]): number[] => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...last];
// From trust's host to the outside, 4000 to 53, UDP; which also ends a session (an odd time).
const question = Uint8Array.from([...mapped([10, 0, 1, 10]), ...mapped([198, 51, 100, 10]), 4000 & 255, 4000 >> 8, 53, 0, 1, 0, 17, 0]);

let total = 0;
for (const file of readdirSync(cases).filter((name) => name.endsWith('.yaml')).sort()) {
  const content = parse(readFileSync(new URL(file, cases), 'utf8'), { merge: true, maxAliasCount: -1 }) as { cases: { steps: Node }[] };
  for (const [index, one] of content.cases.entries()) {
    for (const way of index % OTHER_WAYS_EVERY === 0 ? [...WAYS, WATCHED] : WAYS.slice(0, 1)) {
      const watched = way === WATCHED;
      const parts: Uint8Array[] = watched ? record(WATCHED << 2, TIME, new Uint8Array(0)) : [];
      for (const packet of packets(one.steps)) {
        const at = INTERFACES.indexOf(packet.in ?? 'trust');
        const frame = frameOf(packet, variables, [2, 0, 0, 0, 0, (packet.vlan === undefined ? at : INTERFACES.indexOf('guests')) + 1]);
        if (at < 0 || frame.length > FRAME_BYTES_MAX) continue;
        parts.push(...record(at | (watched ? 0 : way << 2), way === 0 || watched ? TIME : TIME | ALLOWED_SOURCE, frame));
      }
      if (watched) parts.push(...record(ASKED << 2, TIME | 1, question));
      const bytes = Buffer.concat(parts);
      if (bytes.length === 0 || total + bytes.length > CORPUS_BYTES_MAX) continue;
      total += bytes.length;
      writeFileSync(new URL(createHash('sha1').update(bytes).digest('hex').slice(0, 16), corpus), bytes);
    }
  }
}
console.log(`${readdirSync(corpus).length} inputs, ${total} bytes`);
