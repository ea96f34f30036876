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

let total = 0;
for (const file of readdirSync(cases).filter((name) => name.endsWith('.yaml')).sort()) {
  const content = parse(readFileSync(new URL(file, cases), 'utf8'), { merge: true, maxAliasCount: -1 }) as { cases: { steps: Node }[] };
  for (const [index, one] of content.cases.entries()) {
    for (const way of index % OTHER_WAYS_EVERY === 0 ? WAYS : WAYS.slice(0, 1)) {
      const parts: Uint8Array[] = [];
      for (const packet of packets(one.steps)) {
        const at = INTERFACES.indexOf(packet.in ?? 'trust');
        const frame = frameOf(packet, variables, [2, 0, 0, 0, 0, (packet.vlan === undefined ? at : INTERFACES.indexOf('guests')) + 1]);
        if (at < 0 || frame.length > FRAME_BYTES_MAX) continue;
        parts.push(Uint8Array.of(at | way << 2, way === 0 ? TIME : TIME | ALLOWED_SOURCE, frame.length & 255, frame.length >> 8), frame);
      }
      const bytes = Buffer.concat(parts);
      if (bytes.length === 0 || total + bytes.length > CORPUS_BYTES_MAX) continue;
      total += bytes.length;
      writeFileSync(new URL(createHash('sha1').update(bytes).digest('hex').slice(0, 16), corpus), bytes);
    }
  }
}
console.log(`${readdirSync(corpus).length} inputs, ${total} bytes`);
