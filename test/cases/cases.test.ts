// The packet cases: every mapping under `cases` of the YAML files in this folder is one test, run against the engine in
// memory. README.md says how a case is written. Called by vitest; the addon is build/native/sluice.node, or SLUICE_ADDON.
//
// Beside what a case expects, each frame that leaves is judged by rules that hold for all of them: judgeFrame().
import { readdirSync, readFileSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { beforeEach, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import type { InjectResult } from '../../src/engine/binding.js';
import { decode, frameOf, l4Fault, macOf, refuseUnknownKeys, resolve, wireAddress, type Decoded, type Packet, type Value, type Variables } from './packet-language.js';
import { merge, namedConfig, World, type CaseConfig } from './world.js';

interface Step {
  send?: Packet; expect?: string; out?: Expected | Expected[]; host?: number;
  advance?: number; wait?: number; reload?: CaseConfig; reloadTo?: string; neighbour?: { interface: string; address: string; known: boolean };
  counters?: Record<string, Value>; sessions?: number | Record<string, Value>[]; check?: string; repeat?: number; steps?: Steps; kill?: number; note?: string;
}
type Steps = (Step | Steps)[];
type Expected = Record<string, unknown>;
interface Case { name: string; why?: string; config?: CaseConfig; sessionsMax?: number; steps: Steps }
interface CaseFile { about: string; config: string; patch?: CaseConfig; parts?: unknown; cases: Case[] }

const directory = new URL('.', import.meta.url);
const files = readdirSync(directory).filter((name) => name.endsWith('.yaml')).sort();
const names = new Set<string>();

// The cases themselves never wait, and vitest takes a worker that it does not hear of for dead.
beforeEach(() => setImmediate());

for (const file of files) {
  const content = parse(readFileSync(new URL(file, directory), 'utf8'), { merge: true, maxAliasCount: -1 }) as CaseFile;
  refuseUnknownKeys(content, ['about', 'config', 'patch', 'parts', 'cases'], file);
  describe(file.replace('.yaml', ''), () => {
    for (const one of content.cases) {
      if (names.has(one.name)) throw new Error(`${file}: two cases are called ${one.name}`);
      names.add(one.name);
      it(one.name, () => runCase(content, one));
    }
  });
}

/** After this time no packet waits for a link address any more. */
const HELD_NS_MAX = 4_000_000_000n;
/** Engine-made packets start with this TTL. */
const OWN_TTL = 64;

class Run {
  readonly variables: Variables = new Map();
  readonly #fragments = new Map<string, { protocol: number; v4: boolean; src: string; dst: string; parts: Map<number, Uint8Array>; total?: number }>();
  constructor(readonly world: World) {}

  /** What holds for every frame that leaves, whatever the case is about. */
  judgeFrame(frame: Uint8Array, interfaceIndex: number, sent: Packet | undefined, forwarded: boolean): Decoded {
    expect(interfaceIndex, 'the frame leaves by an interface of the configuration').toBeLessThan(this.world.interfaces.length);
    const tagged = frame[12] === 0x81 && frame[13] === 0;
    const ip = frame.slice(tagged ? 18 : 14);
    const decoded = decode(ip);
    const type = (frame[tagged ? 16 : 12]! << 8) | frame[tagged ? 17 : 13]!;
    expect(type, 'ethertype').toBe(decoded.family === 4 ? 0x0800 : 0x86dd);
    expect([...frame.slice(6, 11)], 'source link address is ours').toEqual([2, 0, 0, 0, 0]);
    if (sent?.allow !== 'bad-l4') expect(decoded.faults, 'checksums and lengths, computed in full').toEqual([]);
    if (decoded.udpChecksum === 0 && sent) expect(typeof sent.udp === 'object' && sent.udp.checksum === 'zero', 'a missing UDP checksum is passed on, never made').toBe(true);
    if (sent && forwarded) {
      expect(decoded.ttl, 'TTL is one less').toBe((sent.ttl ?? 64) - 1);
      if (!sent.icmp?.about) expect(decoded.tos, 'traffic class is kept').toBe(sent.tos ?? 0);
    }
    if (sent && !forwarded) {
      expect(decoded.ttl, 'own packets start with TTL 64').toBe(OWN_TTL);
      expect([...frame.slice(0, 6)], 'an answer goes back to the link address it came from').toEqual([...macOf(String(resolve(sent.src ?? '10.0.1.10', this.variables)))]);
    }
    this.#noteFragment(decoded);
    return decoded;
  }

  /** Fragments are put together here, so that the checksum of the whole is judged too. */
  #noteFragment(d: Decoded): void {
    if (!d.frag || (d.frag.offset === 0 && !d.frag.more)) return;
    const key = [d.src, d.dst, d.protocol, d.frag.id].join(' ');
    const whole = this.#fragments.get(key) ?? { protocol: d.protocol, v4: d.family === 4, src: d.src, dst: d.dst, parts: new Map<number, Uint8Array>() };
    this.#fragments.set(key, whole);
    whole.parts.set(d.frag.offset, d.payload);
    if (!d.frag.more) whole.total = d.frag.offset + d.payload.length;
  }
  judgeDatagrams(): void {
    for (const [key, { protocol, v4, src, dst, parts, total }] of this.#fragments) {
      if (total === undefined) continue;
      const bytes = new Uint8Array(total);
      let seen = 0;
      for (const [offset, part] of parts) { bytes.set(part, offset); seen += part.length; }
      if (seen === total) expect(l4Fault(protocol, v4, Uint8Array.from(wireAddress(src)), Uint8Array.from(wireAddress(dst)), bytes), `datagram ${key} put together`).toBeUndefined();
    }
  }

  run(steps: Steps, path: string): void {
    steps.flat(Infinity as 1).forEach((step, i) => this.step(step as Step, `${path}${i + 1}`));
  }

  step(step: Step, path: string): void {
    try {
      this.#step(step, path);
    } catch (error) {
      if (error instanceof Error && !error.message.startsWith('step ')) error.message = `step ${path} ${JSON.stringify(step).slice(0, 300)}\n${error.message}`;
      throw error;
    }
  }

  #step(step: Step, path: string): void {
    refuseUnknownKeys(step, ['send', 'expect', 'out', 'host', 'advance', 'wait', 'reload', 'reloadTo', 'neighbour', 'counters', 'sessions', 'check', 'repeat', 'steps', 'kill', 'note'], 'step');
    const { world } = this;
    if (step.repeat !== undefined) {
      for (let i = 0; i < step.repeat; i++) {
        this.variables.set('i', i);
        this.run(structuredClone(step.steps ?? []), `${path}[${i}].`);
      }
      return;
    }
    if (step.wait !== undefined) world.nowNs += BigInt(Math.round(step.wait * 1e9));
    if (step.reload !== undefined) world.apply(merge(world.config, step.reload) as CaseConfig);
    if (step.reloadTo !== undefined) world.apply(namedConfig(step.reloadTo));
    if (step.neighbour) world.neighbour(step.neighbour.interface, step.neighbour.address, step.neighbour.known);
    if (step.kill !== undefined) expect(world.kill(world.sessionIds()[step.kill]!), 'session killed').toBe(true);
    if (step.advance !== undefined) {
      world.nowNs += BigInt(Math.round(step.advance * 1e9));
      this.#result(step, undefined, world.advance());
    }
    if (step.send) {
      world.nowNs += 1_000_000n;
      const inside = step.send.in ?? 'trust';
      const frame = frameOf(step.send, this.variables, [2, 0, 0, 0, 0, world.station(inside)]);
      this.#result(step, step.send, world.inject(inside, frame));
    }
    for (const [name, value] of Object.entries(step.counters ?? {})) this.#match(world.counter(name), value, `counter ${name}`);
    if (typeof step.sessions === 'number') expect(world.sessions().length, 'sessions').toBe(step.sessions);
    else if (step.sessions) {
      const found = world.sessions();
      expect(found.length, 'sessions').toBe(step.sessions.length);
      step.sessions.forEach((wanted, i) => {
        for (const [key, value] of Object.entries(wanted)) this.#match(found[i]![key], value, `session ${i}: ${key}`);
      });
    }
    if (step.check !== undefined) this.#check(step.check);
  }

  #result(step: Step, sent: Packet | undefined, result: InjectResult): void {
    const verdict = result.verdict === 'drop' ? `drop ${result.reason}` : result.verdict;
    if (sent) {
      if (step.expect === undefined) throw new Error('a step that sends says what it expects');
      expect(verdict, 'verdict').toBe(step.expect);
    }
    const wanted = step.out === undefined ? [] : Array.isArray(step.out) ? step.out : [step.out];
    const count = step.out !== undefined ? wanted.length : verdict === 'forward' ? 1 : 0;
    const frames = result.frames.map(({ frame, interface: index }) => ({ index, decoded: this.judgeFrame(frame, index, sent, verdict === 'forward'), frame }));
    expect(frames.length, `frames that leave (${frames.map((f) => JSON.stringify({ ...f.decoded, data: undefined, payload: undefined })).join('; ')})`).toBe(count);
    wanted.forEach((one, i) => this.#matchFrame(frames[i]!, one, sent, verdict === 'forward'));
    expect(result.host.length, 'packets for the host').toBe(step.host ?? (verdict === 'host' ? 1 : 0));
    if (sent && verdict === 'forward' && frames.length === 1 && !sent.icmp?.about && sent.hex === undefined && sent.frag === undefined) {
      const data = typeof sent.data === 'string' ? Buffer.from(sent.data).toString('hex') : undefined;
      if (data !== undefined) expect(Buffer.from(frames[0]!.decoded.data).toString('hex'), 'payload').toBe(data);
    }
  }

  #matchFrame({ index, decoded, frame }: { index: number; decoded: Decoded; frame: Uint8Array }, wanted: Expected, sent: Packet | undefined, forwarded: boolean): void {
    const { on, via, vlan, ...fields } = wanted as { on?: string; via?: string; vlan?: number } & Expected;
    if (on !== undefined) expect(this.world.interfaces[index], 'egress interface').toBe(on);
    if (sent === undefined || forwarded) expect(frame[11], 'source link address is the egress interface\'s').toBe(this.world.station(this.world.interfaces[index]!));
    if (via !== undefined) expect([...frame.slice(0, 6)], `link address of ${via}`).toEqual([...macOf(via)]);
    if (vlan !== undefined) expect(frame[12] === 0x81 ? ((frame[14]! << 8) | frame[15]!) & 0xfff : 0, 'VLAN').toBe(vlan);
    this.#matchPacket(decoded, fields, 'out');
  }

  #matchPacket(found: Decoded, wanted: Expected, where: string): void {
    for (const [key, value] of Object.entries(wanted)) {
      if (key === 'udp' || key === 'tcp') {
        expect(found.protocol, `${where}: protocol`).toBe(key === 'udp' ? 17 : 6);
        const fields = typeof value === 'string' ? portFields(value) : value as Record<string, Value>;
        refuseUnknownKeys(fields, ['ports', 'sport', 'dport', 'flags', 'seq', 'ack', 'win', 'mss', 'wscale', 'checksum'], where);
        for (const [name, one] of Object.entries(fields)) {
          if (name === 'ports') for (const [n, v] of Object.entries(portFields(String(one)))) this.#match(found[n as 'sport'], v, `${where}: ${n}`);
          else this.#match(name === 'checksum' ? found.udpChecksum : found[name as 'sport'], one, `${where}: ${name}`);
        }
      } else if (key === 'icmp') {
        const fields = value as Record<string, Value | Expected>;
        refuseUnknownKeys(fields, ['type', 'code', 'id', 'seq', 'mtu', 'about'], where);
        expect(found.icmp, `${where}: ICMP`).toBeDefined();
        for (const [name, one] of Object.entries(fields)) {
          if (name === 'about') {
            expect(found.icmp!.about, `${where}: quoted packet`).toBeDefined();
            this.#matchPacket(found.icmp!.about!, one as Expected, `${where}, quoted`);
          } else this.#match(found.icmp![name as 'id'], one as Value, `${where}: icmp ${name}`);
        }
      } else if (key === 'frag') {
        if (value === null) { expect(found.frag, `${where}: no fragment`).toBeUndefined(); continue; }
        expect(found.frag, `${where}: fragment`).toMatchObject(value as object);
      } else if (key === 'data') {
        expect(Buffer.from(found.data).toString('utf8'), `${where}: data`).toBe(value);
      } else if (key === 'dataBytes') {
        this.#match(found.data.length, value as Value, `${where}: bytes of data`);
      } else {
        if (!['src', 'dst', 'ttl', 'tos', 'length', 'protocol', 'df', 'id', 'family'].includes(key)) throw new Error(`${where}: unknown key "${key}"`);
        this.#match(found[key as 'src'], value as Value, `${where}: ${key}`);
      }
    }
  }

  /** Equal; `$name` captures the first time and compares afterwards; `a..b` is a range; `a|b` one of these. */
  #match(found: unknown, wanted: Value | boolean, where: string): void {
    if (typeof wanted === 'string') {
      const range = /^(\d+)\.\.(\d+)$/.exec(wanted);
      if (range) {
        expect(Number(found), where).toBeGreaterThanOrEqual(Number(range[1]));
        expect(Number(found), where).toBeLessThanOrEqual(Number(range[2]));
        return;
      }
      const capture = /^\$([a-zA-Z_]\w*)$/.exec(wanted);
      if (capture && !this.variables.has(capture[1]!)) {
        expect(found, where).toBeDefined();
        this.variables.set(capture[1]!, found as string | number);
        return;
      }
      if (wanted.includes('|')) {
        expect(wanted.split('|').map((one) => String(resolve(one, this.variables))), where).toContain(String(found));
        return;
      }
      const value = resolve(wanted, this.variables);
      expect(String(found), where).toBe(String(value));
      return;
    }
    expect(found, where).toBe(wanted);
  }

  /** `A op B`, A and B like $p, $p % 2 or a number; op: == != < >. */
  #check(text: string): void {
    const parts = /^(.+?) (==|!=|<|>) (.+)$/.exec(text);
    if (!parts) throw new Error(`cannot read "${text}"`);
    const side = (one: string): string | number => {
      const [value, modulo] = one.split('%').map((word) => word.trim());
      const known = resolve(value!, this.variables);
      return modulo === undefined ? known : Number(known) % Number(modulo);
    };
    const a = side(parts[1]!), b = side(parts[3]!);
    const holds = parts[2] === '==' ? a === b : parts[2] === '!=' ? a !== b : parts[2] === '<' ? a < b : a > b;
    expect(holds, `${text}, with ${a} and ${b}`).toBe(true);
  }
}

function portFields(text: string): Record<string, Value> {
  const [ports, flags] = text.trim().split(/\s+/);
  const [sport, dport] = ports!.split('>');
  return { ...(sport ? { sport } : {}), ...(dport ? { dport } : {}), ...(flags ? { flags } : {}) };
}

function runCase(file: CaseFile, one: Case): void {
  refuseUnknownKeys(one, ['name', 'why', 'config', 'sessionsMax', 'steps'], one.name);
  const config = merge(merge(namedConfig(file.config), file.patch ?? {}), one.config ?? {}) as CaseConfig;
  const world = new World(config, one.sessionsMax ?? 4096);
  try {
    const run = new Run(world);
    run.run(one.steps, '');
    run.judgeDatagrams();
    world.nowNs += HELD_NS_MAX;
    world.advance();
    expect(world.counter('gauge/umemFree'), 'no packet buffer is lost').toBe(world.counter('gauge/umemTotal'));
  } finally {
    world.close();
  }
}
