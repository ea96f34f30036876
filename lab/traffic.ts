// Traffic of real programs between the lab's hosts. Each function says what happened; none decides whether that is right.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab, RunOptions } from './lab.js';
import type { Program } from './program.js';
import { ADDRESSES, endpoint, FAMILIES, PORTS } from './topology.js';
import { patternChunks, patternSha256 } from './pattern.js';
import { until } from './until.js';

const bracket = (address: string): string => (address.includes(':') ? `[${address}]` : address);
export const url = (address: string, port: number, path = '/'): string => `http://${bracket(address)}:${port}${path}`;

export interface Who {
  remote: string;
  remotePort: number;
  local: string;
  localPort: number;
  bytes: number;
  sha256: string;
}

const CURL = ['curl', '--silent', '--show-error', '--globoff', '--noproxy', '*', '--connect-timeout', '15'];

/** Asks a web server who is asking: shows what NAT made of the source. */
export async function who(lab: Lab, node: string, address: string, port = 80, curlOptions: string[] = []): Promise<Who> {
  return JSON.parse(await lab.must(node, [...CURL, '--fail', '--max-time', '60', ...curlOptions, url(address, port)])) as Who;
}

export interface Transfer {
  ok: boolean;
  bytes: number;
  seconds: number;
  detail: string;
}

/** Downloads patterned bytes with curl and compares their SHA-256. */
export async function download(
  lab: Lab,
  node: string,
  address: string,
  bytes: number,
  options: { port?: number; deadlineMs?: number } = {},
): Promise<Transfer> {
  const { port = 80, deadlineMs = 60_000 } = options;
  const command = `set -o pipefail; ${[...CURL, '--fail'].map(quote).join(' ')} ${quote(url(address, port, `/bytes/${bytes}`))} | sha256sum`;
  const result = await lab.run(node, ['bash', '-c', command], { deadlineMs });
  const same = result.stdout.startsWith(patternSha256(bytes));
  return {
    ok: result.code === 0 && same,
    bytes,
    seconds: result.milliseconds / 1000,
    detail: result.code !== 0 ? result.stderr.trim() || `exit code ${result.code}` : same ? 'checksum right' : 'checksum WRONG',
  };
}

/** A download without an end, as load; whoever starts it stops it. */
export function startLoad(lab: Lab, node: string, address: string): Program {
  return lab.start(node, [...CURL, '--output', '/dev/null', url(address, 80, '/bytes/1000000000000')]);
}

/** Uploads patterned bytes with curl; the server answers with their SHA-256. */
export async function upload(lab: Lab, node: string, address: string, bytes: number, port = 80): Promise<Transfer> {
  const file = join(lab.directory, `upload-${bytes}`);
  writeFileSync(file, Buffer.concat([...patternChunks(bytes)]));
  const result = await lab.run(node, [...CURL, '--fail', '--upload-file', file, url(address, port, '/upload')], { deadlineMs: 60_000 });
  const answer = result.code === 0 ? (JSON.parse(result.stdout) as Who) : undefined;
  const same = answer?.bytes === bytes && answer.sha256 === patternSha256(bytes);
  return {
    ok: same,
    bytes,
    seconds: result.milliseconds / 1000,
    detail: answer ? (same ? 'checksum right' : 'checksum WRONG') : result.stderr.trim(),
  };
}

const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

export interface UdpExchange {
  sent: number;
  answered: number;
  damaged: number;
  lost: number;
  errors: string[];
}

export async function udpExchange(
  lab: Lab,
  node: string,
  address: string,
  /** Of several sizes each datagram takes the next. */
  options: { port?: number; count?: number; size?: number | readonly number[]; bind?: string } = {},
): Promise<UdpExchange> {
  const { port = 7, count = 20, size = 64, bind } = options;
  const argv = endpoint('udp', address, port, '--count', count, '--size', [size].flat().join(','), ...(bind ? ['--bind', bind] : []));
  return JSON.parse(await lab.must(node, argv, { deadlineMs: 60_000 })) as UdpExchange;
}

export interface Ping {
  ok: boolean;
  sent: number;
  received: number;
  output: string;
}

export async function ping(
  lab: Lab,
  node: string,
  address: string,
  options: { count?: number; size?: number; /** How long an answer may take. */ seconds?: number; extra?: string[] } = {},
): Promise<Ping> {
  const { count = 3, size, seconds = 20, extra = [] } = options;
  const argv = [
    'ping',
    '-n',
    '-c',
    String(count),
    '-i',
    '0.2',
    '-W',
    String(seconds),
    ...(size === undefined ? [] : ['-s', String(size)]),
    ...extra,
    address,
  ];
  const result = await lab.run(node, argv, { deadlineMs: (count + seconds) * 1000 + 30_000 });
  const figures = /(\d+) packets transmitted, (\d+) received/.exec(result.stdout);
  const [sent, received] = [Number(figures?.[1] ?? 0), Number(figures?.[2] ?? 0)];
  return { ok: sent > 0 && sent === received, sent, received, output: result.stdout + result.stderr };
}

/** Echo requests again and again, until the program is stopped. */
export class Pinging {
  constructor(readonly program: Program) {}

  #sequences(): number[] {
    return [...this.program.stdout.matchAll(/ icmp_seq=(\d+) .*time=/g)].map(([, sequence]) => Number(sequence));
  }

  answered(): number {
    return this.#sequences().length;
  }

  /** Requests before the last answered one that have no answer. Later ones may be on their way. */
  missing(): number[] {
    const seen = new Set(this.#sequences());
    return Array.from({ length: Math.max(0, ...seen) }, (_, n) => n + 1).filter((sequence) => !seen.has(sequence));
  }
}

export function startPing(lab: Lab, node: string, address: string, intervalSeconds: number): Pinging {
  return new Pinging(lab.start(node, ['ping', '-n', '-i', String(intervalSeconds), address]));
}

export interface Connect {
  /** `connected`, `timeout`, or the error's name: `ECONNREFUSED`, `EHOSTUNREACH`, … */
  result: string;
  milliseconds: number;
}

export async function tcpConnect(
  lab: Lab,
  node: string,
  address: string,
  port: number,
  options: { timeoutMs?: number; bind?: string } = {},
): Promise<Connect> {
  const { timeoutMs = 15_000, bind } = options;
  return JSON.parse(
    await lab.must(node, endpoint('connect', address, port, '--timeout', timeoutMs, ...(bind ? ['--bind', bind] : []))),
  ) as Connect;
}

export interface Iperf {
  ok: boolean;
  bitsPerSecond: number;
  retransmits: number;
  detail: string;
}

/** An iperf3 run over TCP; its own server stands in the other host, and takes one client at a time: the answer comes when it is ready for the next. */
export async function iperf(
  lab: Lab,
  node: string,
  address: string,
  options: { seconds?: number; reverse?: boolean; extra?: string[] } = {},
): Promise<Iperf> {
  const { seconds = 2, reverse = false, extra = [] } = options;
  const argv = [
    'iperf3',
    '--client',
    address,
    '--port',
    String(PORTS.iperf),
    '--time',
    String(seconds),
    '--json',
    '--connect-timeout',
    '15000',
  ];
  const server = lab.running('iperf3', nodeOf(address));
  const listened = (): number => server?.stdout.match(/Server listening/g)?.length ?? 0;
  const before = listened();
  const result = await lab.run(node, [...argv, ...(reverse ? ['--reverse'] : []), ...extra], { deadlineMs: (seconds + 60) * 1000 });
  if (server && result.code === 0) await until('the iperf3 server is ready for the next client', () => listened() > before);
  try {
    const report = JSON.parse(result.stdout) as IperfReport;
    const bitsPerSecond = report.end?.sum_received?.bits_per_second ?? 0;
    return {
      ok: result.code === 0 && !report.error && bitsPerSecond > 0,
      bitsPerSecond,
      retransmits: report.end?.sum_sent?.retransmits ?? 0,
      detail: report.error ?? '',
    };
  } catch {
    return { ok: false, bitsPerSecond: 0, retransmits: 0, detail: result.stderr.trim() || result.stdout.trim() };
  }
}

const nodeOf = (address: string): string =>
  FAMILIES.flatMap((family) => Object.entries(ADDRESSES[family])).find(([, one]) => one === address)?.[0] ?? '';

interface IperfReport {
  error?: string;
  end?: { sum_sent?: { retransmits?: number }; sum_received?: { bits_per_second?: number } };
}

/** Numbered lines over one TCP connection, as long as the program runs. */
export class Stream {
  constructor(readonly program: Program) {}

  /** Lines that came back so far, each in its place; throws when the connection broke. */
  received(): number {
    const last = this.program.stdout.trimEnd().split('\n').at(-1) ?? '';
    const report = last ? (JSON.parse(last) as { event: string; received?: number; error?: string }) : { event: 'none' };
    if (report.event === 'broken' || !this.program.running) throw new Error(`the connection broke: ${report.error ?? this.program.tail()}`);
    return report.received ?? 0;
  }
}

export function startStream(lab: Lab, node: string, address: string, port = 7, options: RunOptions = {}): Stream {
  return new Stream(lab.start(node, endpoint('stream', address, port), options));
}

/** Forbidden traffic, again and again. */
export class Knock {
  constructor(readonly program: Program) {}

  count(): number {
    const counts = [...this.program.stdout.matchAll(/"knocks":(\d+)/g)];
    return Number(counts.at(-1)?.[1] ?? 0);
  }
}

export function startKnock(lab: Lab, node: string, address: string, port: number): Knock {
  return new Knock(lab.start(node, endpoint('knock', address, port)));
}

/** Captures in a node until it is stopped: proves what did and what did not arrive. */
export class Capture {
  constructor(readonly program: Program) {}

  packets(): string[] {
    return this.program.stdout.split('\n').filter(Boolean);
  }
}

export async function startCapture(lab: Lab, node: string, device: string, filter: string): Promise<Capture> {
  const program = lab.start(node, ['tcpdump', '-n', '-l', '-U', '--immediate-mode', '-i', device, '-Z', 'root', ...filter.split(' ')]);
  await program.waitForOutput(/listening on/);
  return new Capture(program);
}
