// /api/v1/observe and the commands that follow it: what is there, what comes, who reads too slowly, how many may follow.
import { spawn } from 'node:child_process';
import { request } from 'node:http';
import { describe, expect, onTestFinished, test } from 'vitest';
import { findMissing } from '../../src/control/status.js';
import { FlowEvent } from '../../src/engine/abi.generated.js';
import { Observers, OBSERVERS_MAX } from '../../src/flowlog/observers.js';
import { FLOW_RECORD_BYTES } from '../../src/engine/abi.generated.js';
import { makeDrop, makeFlow, startBench, type ControlBench } from '../control/bench.js';
import { nameTexts, randomFlows, spanOf } from './support.js';

const SECOND_NS = 1_000_000_000n;

async function start(): Promise<ControlBench> {
  const bench = await startBench();
  await bench.api.listen({ path: bench.paths.apiSocket });
  await expect.poll(() => findMissing(bench.control)).toEqual([]);
  return bench;
}

async function feed(bench: ControlBench, flows: Uint8Array[], drops: Uint8Array[] = []): Promise<void> {
  const before = bench.flowLog.taken;
  bench.addon.pendingRecords = { flows, drops };
  await expect.poll(() => bench.flowLog.taken).toBe(before + flows.length + drops.length);
}

type Line = Record<string, unknown>;
const parse = (text: string): Line[] => text.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Line);

async function get(bench: ControlBench, query: string): Promise<{ status: number; lines: Line[]; type: string }> {
  const response = await bench.api.inject(`/api/v1/observe?${query}`);
  return { status: response.statusCode, lines: parse(response.body), type: String(response.headers['content-type']) };
}

function follow(bench: ControlBench, query: string): { lines: () => Line[]; started: Promise<number>; pause(): void; resume(): void; close(): void } {
  let text = '';
  let pause = (): void => undefined;
  let resume = (): void => undefined;
  const asking = request({ socketPath: bench.paths.apiSocket, path: `/api/v1/observe?follow=true&${query}` });
  const started = new Promise<number>((resolve, reject) => {
    asking.on('response', (response) => {
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => { text += chunk; });
      response.on('error', () => undefined);
      pause = () => void response.pause();
      resume = () => void response.resume();
      resolve(response.statusCode!);
    });
    asking.on('error', reject);
  });
  asking.end();
  onTestFinished(() => void asking.destroy());
  return { lines: () => parse(text.slice(0, text.lastIndexOf('\n') + 1)), started, pause: () => pause(), resume: () => resume(), close: () => asking.destroy() };
}

describe('what is there', () => {
  test('both kinds by time, the newest, oldest first', async () => {
    const bench = await start();
    await feed(bench, [makeFlow({ sessionId: 1n }), makeFlow({ sessionId: 2n, event: FlowEvent.END, lastNs: 1_700_000_003n * SECOND_NS })], [makeDrop()]);
    const { status, lines, type } = await get(bench, 'last=10');
    expect([status, type]).toEqual([200, 'application/x-ndjson']);
    expect(lines.map(({ kind, event }) => [kind, event])).toEqual([['drop', 'denied'], ['flow', 'start'], ['flow', 'end']]);
    expect(lines[1]).toMatchObject({ rule: 'outbound', tcpFlags: ['SA', 'A'], durationMs: 1000 });
    expect((await get(bench, 'last=1')).lines.map(({ event }) => event)).toEqual(['end']);
    expect((await get(bench, 'last=0')).lines).toEqual([]);
  });

  test('what is there and what comes: nothing twice', async () => {
    const bench = await start();
    // In one turn of the event loop: records are taken, and somebody asks before they were looked at.
    bench.control.flows.push(makeFlow({ sessionId: 1n }));
    bench.flowLog.take(1, 0, makeFlow({ sessionId: 1n }));
    const lines: string[] = [];
    const leave = bench.flowLog.observe({}, { write: (bytes) => lines.push(...bytes.toString().split('\n').filter(Boolean)) > 0, writableLength: 0 });
    bench.flowLog.take(1, 0, makeFlow({ sessionId: 2n }));
    await expect.poll(() => lines.map((line) => (JSON.parse(line) as Line)['sessionId'])).toEqual(['2']);
    leave();
  });

  test('filters, and what is refused', async () => {
    const bench = await start();
    await feed(bench, [makeFlow()], [makeDrop()]);
    const kindsOf = async (query: string): Promise<unknown[]> => [query, ...(await get(bench, query)).lines.map(({ kind }) => kind)];
    for (const [query, ...kinds] of [
      ['verdict=dropped', 'drop'], ['verdict=allowed', 'flow'], ['event=denied', 'drop'], ['event=end'], ['from=trust', 'flow'], ['from=10.0.0.0/8', 'flow'], ['from=untrust', 'drop'],
      ['to=untrust', 'flow'], ['to=198.51.100.0/24', 'flow'], ['port=443', 'flow'], ['port=23', 'drop'], ['protocol=tcp', 'drop', 'flow'], ['protocol=udp'], ['rule=egress', 'flow'], ['reason=policy-deny', 'drop'],
    ] as const) expect(await kindsOf(query)).toEqual([query, ...kinds]);
    for (const query of ['verdict=maybe', 'protocol=tpc', 'source=10.0.0.1/8', 'last=1000000', 'colour=red', 'follow=perhaps']) {
      expect((await bench.api.inject(`/api/v1/observe?${query}`)).json()).toMatchObject({ status: 400, code: 'SLUICE_API_ARGUMENT' });
    }
  });
});

describe('live', () => {
  test('each follower gets what it asked for, as it comes', async () => {
    const bench = await start();
    await feed(bench, [makeFlow({ sessionId: 1n })]);
    const all = follow(bench, 'last=5');
    const dropped = follow(bench, 'last=0&verdict=dropped');
    expect([await all.started, await dropped.started]).toEqual([200, 200]);
    expect(bench.flowLog.observers.count).toBe(2);
    await feed(bench, [makeFlow({ sessionId: 2n })], [makeDrop()]);
    await expect.poll(() => [all.lines().length, dropped.lines().length]).toEqual([3, 1]);
    expect(all.lines().map(({ kind, sessionId }) => [kind, sessionId])).toEqual([['flow', '1'], ['flow', '2'], ['drop', undefined]]);
    all.close();
    await expect.poll(() => bench.flowLog.observers.count).toBe(1);
  });

  test('not more than there is room for', async () => {
    const bench = await start();
    const none = { write: () => true, writableLength: 0 };
    for (let n = 0; n < OBSERVERS_MAX; n += 1) bench.flowLog.observers.add({}, none);
    const refused = follow(bench, '');
    expect(await refused.started).toBe(503);
  });

  test('a slow reader loses records, learns how many, and holds up nobody', () => {
    const observers = new Observers();
    const lines: string[] = [];
    const slow = { writableLength: 0, write: (bytes: Buffer) => {
      lines.push(...bytes.toString().trim().split('\n'));
      return true;
    } };
    const leave = observers.add({}, slow);
    const flows = randomFlows(100, 2);
    const pass = (): void => {
      observers.flows(spanOf(flows, FLOW_RECORD_BYTES), nameTexts());
      observers.flush();
    };
    pass();
    slow.writableLength = 5 * 1024 * 1024;
    pass();
    pass();
    slow.writableLength = 0;
    pass();
    expect([lines.length, lines[100]]).toEqual([201, '{"kind":"lost","records":200}']);
    expect(observers.lostInAll).toBe(200);
    leave();
    expect([observers.count, observers.lostInAll]).toEqual([0, 200]);
  });

  test('one that reads nothing at all costs a bounded buffer', async () => {
    const bench = await start();
    const stuck = follow(bench, 'last=0');
    await stuck.started;
    stuck.pause();
    const flows = randomFlows(5000, 2);
    let taken = 0;
    while (bench.flowLog.observers.lostInAll === 0 && taken < 500_000) {
      bench.flowLog.take(5000, 0, flows);
      taken += 5000;
      await expect.poll(() => bench.flowLog.waiting, { interval: 1 }).toBe(0);
    }
    expect(bench.flowLog.observers.lostInAll).toBeGreaterThan(0);
    stuck.resume();
    await expect.poll(() => stuck.lines().length).toBeGreaterThan(1000);
    bench.flowLog.take(1, 0, makeFlow());
    await expect.poll(() => stuck.lines().some(({ kind }) => kind === 'lost')).toBe(true);
    const lost = stuck.lines().filter(({ kind }) => kind === 'lost').reduce((sum, { records }) => sum + (records as number), 0);
    await expect.poll(() => stuck.lines().filter(({ kind }) => kind !== 'lost').length).toBe(taken + 1 - lost);
  });
});

describe('sluice observe', () => {
  const run = (bench: ControlBench, ...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> => new Promise((resolve) => {
    const child = spawn(process.execPath, ['bin/sluice', 'observe', '--dir', bench.paths.dir, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (data: Buffer) => { stdout += data.toString(); });
    child.stderr.on('data', (data: Buffer) => { stderr += data.toString(); });
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });

  test('for people and as JSON; --dns says what it would need', async () => {
    const bench = await start();
    await feed(bench, [makeFlow({ event: FlowEvent.END, endReason: 2 })], [makeDrop()]);
    const { code, stdout } = await run(bench, '--last', '5');
    expect(code).toBe(0);
    expect(stdout).toMatch(/denied +policy-deny +tcp 198\.51\.100\.9:55555 → 203\.0\.113\.4:23 flags S on untrust/);
    expect(stdout).toMatch(/allowed ended tcp-fin +tcp 10\.0\.1\.10:40000 → 198\.51\.100\.7:443 \(from 203\.0\.113\.4:50123\) trust → untrust rule outbound 5 packets, 2\.3 KB/);
    const json = JSON.parse((await run(bench, '--json', '--from', '10.0.1.0/24', '--event', 'end')).stdout) as { records: Line[] };
    expect(json.records.map(({ kind }) => kind)).toEqual(['flow']);
    expect(await run(bench, '--dns', 'example.net')).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('DNS snooping') as string });
  });
});
