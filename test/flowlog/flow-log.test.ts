// The pipeline as a whole: streams by type, their configuration live, losses counted where there is no room, updates of long sessions, and
// one sink that stands still beside another that does not.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { DROP_RECORD_BYTES, DropReason, FLOW_RECORD_BYTES, FlowEvent } from '../../src/engine/abi.generated.js';
import type { ObservabilityConfig } from '../../src/config/schema-observability.js';
import { compileFile } from '../../src/control/compiled.js';
import { FlowLog, type FlowLogConfig } from '../../src/flowlog/flow-log.js';
import { createLog } from '../../src/supervisor/log.js';
import { loggedRules, Updates } from '../../src/flowlog/updates.js';
import { CONFIG, id, makeDrop, makeFlow } from '../control/bench.js';
import { makeFacts, silentLog } from '../engine/fake-addon.js';
import { OctetCounter, parseSyslog, receiveStream } from './receivers.js';
import { randomFlows, temporaryDirectory } from './support.js';

const NO_SESSIONS = { sessions: () => Promise.resolve({ count: 0, cursor: 0, bytes: new Uint8Array(0) }) };

function configOf(observability?: ObservabilityConfig): FlowLogConfig {
  const file = join(temporaryDirectory(), 'nva.yaml');
  writeFileSync(file, CONFIG);
  const { compiled } = compileFile(file, makeFacts(), 1, []);
  return { ...compiled!, observability };
}

function open(observability?: ObservabilityConfig): { flowLog: FlowLog; directory: string; config: FlowLogConfig; lines(file: string): Record<string, unknown>[] } {
  const directory = temporaryDirectory();
  const flowLog = new FlowLog(directory, NO_SESSIONS, silentLog);
  onTestFinished(() => flowLog.stop());
  const config = configOf(observability);
  flowLog.configure(config);
  return { flowLog, directory, config, lines: (file) => readFileSync(join(directory, file), 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line) as Record<string, unknown>) };
}

function batch(flows: readonly Uint8Array[], drops: readonly Uint8Array[] = []): [number, number, Uint8Array] {
  return [flows.length, drops.length, Buffer.concat([...flows, ...drops])];
}

describe('streams', () => {
  test('each takes its type, its criteria, and leaves its fields out', async () => {
    const { flowLog, lines } = open({ logs: [
      { name: 'all', type: 'flow', to: 'file', path: 'all' },
      { name: 'decisions', type: 'firewall', to: 'file', path: 'decisions', redact: 'source', drop: ['sessionId'] },
      { name: 'denied', type: 'flow', to: 'file', path: 'denied', include: { event: 'denied' }, exclude: { port: [23] } },
      { name: 'audit', type: 'audit', to: 'file', path: 'audit', exclude: { method: 'GET' }, redact: ['address'] },
      { name: 'system', type: 'system', to: 'file', path: 'system', include: { level: ['warn', 'error'] } },
    ] });
    flowLog.take(...batch([makeFlow(), makeFlow({ event: FlowEvent.END, endReason: 2 })], [makeDrop(), makeDrop({ dstPort: 24 }), makeDrop({ reason: DropReason.NO_ROUTE })]));
    flowLog.audit({ sequence: 1, time: '2026-11-21T17:00:00Z', event: 'request', method: 'PUT', by: { name: 'alice', address: '10.9.9.9' } });
    flowLog.audit({ sequence: 2, time: '2026-11-21T17:00:01Z', event: 'request', method: 'GET', by: { name: 'alice' } });
    flowLog.system('{"level":"warn","time":"2026-11-21T17:00:00.000Z","process":"control","msg":"careful"}\n');
    flowLog.system('{"level":"info","time":"2026-11-21T17:00:00.000Z","process":"control","msg":"chatter"}\n');
    flowLog.system('no JSON');
    await expect.poll(() => flowLog.streamStats.map(({ sent }) => sent)).toEqual([5, 4, 1, 1, 1]);
    expect(lines('all').map(({ event }) => event)).toEqual(['start', 'end', 'denied', 'denied', 'dropped']);
    expect(lines('all')[0]).toMatchObject({ rule: 'outbound', natSource: 'egress', from: { interface: 'trust', zone: 'trust' }, to: { interface: 'untrust', zone: 'untrust' } });
    expect(lines('all')[2]).toMatchObject({ from: { interface: 'untrust', zone: 'untrust' } });
    expect(lines('decisions').map(({ event, source }) => [event, source])).toEqual([['start', null], ['denied', null], ['denied', null], ['dropped', null]]);
    expect(lines('decisions').some((line) => 'sessionId' in line)).toBe(false);
    expect(lines('denied').map(({ destinationPort }) => destinationPort)).toEqual([24]);
    expect(lines('audit')).toEqual([{ kind: 'audit', sequence: 1, time: '2026-11-21T17:00:00Z', event: 'request', method: 'PUT', by: { name: 'alice', address: null } }]);
    expect(lines('system')).toMatchObject([{ kind: 'system', msg: 'careful' }]);
  });

  test('a configuration takes effect with the next record; what it leaves alone goes on', async () => {
    const { flowLog, config, lines } = open({ logs: [{ name: 'kept', type: 'flow', to: 'file', path: 'kept' }, { name: 'gone', type: 'flow', to: 'file', path: 'gone' }] });
    flowLog.take(...batch([makeFlow()]));
    await expect.poll(() => flowLog.streamStats.map(({ sent }) => sent)).toEqual([1, 1]);
    flowLog.configure({ ...config, observability: { logs: [{ name: 'kept', type: 'flow', to: 'file', path: 'kept' }, { name: 'new', type: 'flow', to: 'file', path: 'new', redact: ['rule'] }] } });
    flowLog.take(...batch([makeFlow()]));
    await expect.poll(() => flowLog.streamStats.map(({ name, sent }) => [name, sent])).toEqual([['kept', 2], ['new', 1]]);
    expect([lines('kept').length, lines('gone').length, lines('new')[0]!['rule']]).toEqual([2, 1, null]);
    flowLog.configure({ ...config, observability: undefined });
    expect(flowLog.streamStats).toEqual([]);
  });

  test('names of logs without one, and a name that somebody else has', () => {
    const { flowLog } = open({ logs: [{ type: 'flow', to: 'file', path: 'a' }, { type: 'flow', to: 'file', path: 'b' }, { name: 'flow-to-file-2', type: 'flow', to: 'file', path: 'c' }] });
    expect(flowLog.streamStats.map(({ name }) => name)).toEqual(['flow-to-file', 'flow-to-file-3', 'flow-to-file-2']);
  });

  test('a receiver that stalls loses its own records, and no other stream\'s', async () => {
    const stalled = await receiveStream(() => new OctetCounter(), parseSyslog, { stalled: true });
    const { flowLog, lines } = open({ logs: [
      { name: 'stalled', type: 'flow', to: 'syslog', address: `127.0.0.1:${stalled.port}`, transport: 'tcp', bufferMegabytes: 1 }, { name: 'file', type: 'flow', to: 'file', path: 'all' },
    ] });
    const flows = randomFlows(2000, 3);
    let taken = 0;
    while (flowLog.streamStats[0]!.lost === 0 && taken < 200_000) {
      flowLog.take(2000, 0, flows.slice());
      taken += 2000;
      await expect.poll(() => flowLog.streamStats[1]!.sent + flowLog.streamStats[1]!.lost, { interval: 1 }).toBe(taken);
    }
    expect(flowLog.streamStats[0]!.lost).toBeGreaterThan(0);
    expect(flowLog.streamStats[1]).toMatchObject({ sent: taken, lost: 0 });
    expect(lines('all')).toHaveLength(taken);
    expect(flowLog.lost).toBe(0);
  });

  test('more batches than there is room for: the oldest go, and are counted', async () => {
    const { flowLog } = open({ logs: [{ name: 'file', type: 'flow', to: 'file', path: 'all', bufferMegabytes: 64 }] });
    const flows = randomFlows(20_000, 3);
    for (let n = 0; n < 15; n += 1) flowLog.take(20_000, 0, flows); // 50 MB in one turn of the event loop
    expect(flowLog.lost).toBeGreaterThan(0);
    expect(flowLog.lost).toBeLessThan(200_000);
    await expect.poll(() => flowLog.streamStats[0]!.sent).toBe(300_000 - flowLog.lost);
  });

  test('what comes before the first configuration waits for its streams', async () => {
    const directory = temporaryDirectory();
    const flowLog = new FlowLog(directory, NO_SESSIONS, silentLog);
    onTestFinished(() => flowLog.stop());
    flowLog.take(...batch([makeFlow()], [makeDrop()]));
    flowLog.audit({ sequence: 1, time: '2026-11-21T17:00:00Z', event: 'start' });
    flowLog.system('{"level":"warn","process":"engine","msg":"early"}\n');
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    expect(flowLog.waiting).toBe(2);
    flowLog.configure(configOf({ logs: (['flow', 'audit', 'system'] as const).map((type) => ({ name: type, type, to: 'file' as const, path: type })) }));
    await expect.poll(() => flowLog.streamStats.map(({ sent }) => sent)).toEqual([2, 1, 1]);
    expect(flowLog.waiting).toBe(0);
  });

  test('a log does not write to what else the appliance keeps', async () => {
    const state = temporaryDirectory();
    const said: string[] = [];
    const flowLog = new FlowLog(join(state, 'logs'), NO_SESSIONS, createLog('test', (line) => void said.push(line)));
    onTestFinished(() => flowLog.stop());
    flowLog.configure(configOf({ logs: [{ name: 'bad', type: 'flow', to: 'file', path: join(state, 'audit/audit.jsonl') }, { name: 'good', type: 'flow', to: 'file', path: 'deeper/flows' }] }));
    flowLog.take(...batch([makeFlow()]));
    await expect.poll(() => flowLog.streamStats.map(({ name, sent }) => [name, sent])).toEqual([['good', 1]]);
    expect(said.join()).toMatch(/own files/);
    expect(readdirSync(state)).toEqual(['logs']);
  });

  test('zones are those of the interfaces, whatever a commit did to the order of zones meanwhile', async () => {
    const { flowLog, lines } = open({ logs: [{ name: 'all', type: 'flow', to: 'file', path: 'all' }, { name: 'trust', type: 'flow', to: 'file', path: 'trust', include: { zone: ['dmz'] } }] });
    const file = join(temporaryDirectory(), 'nva.yaml');
    writeFileSync(file, CONFIG.replace('interfaces:\n', 'interfaces:\n  dmz: { device: eth1, vlan: 7, zone: dmz, addresses: [10.0.7.4/24] }\n'));
    const { compiled, problems } = compileFile(file, makeFacts(), 2, []);
    expect(problems.filter(({ severity }) => severity === 'error')).toEqual([]);
    flowLog.take(...batch([makeFlow()])); // the engine made it before the commit, it is looked at after it
    flowLog.configure({ ...compiled!, observability: { logs: [{ name: 'all', type: 'flow', to: 'file', path: 'all' }, { name: 'trust', type: 'flow', to: 'file', path: 'trust', include: { zone: ['dmz'] } }] } });
    await expect.poll(() => flowLog.streamStats[0]!.sent).toBe(1);
    expect(lines('all')[0]).toMatchObject({ from: { interface: 'trust', zone: 'trust' }, to: { interface: 'untrust', zone: 'untrust' } });
    expect(flowLog.streamStats[1]!.sent).toBe(0);
  });

  test('stopping hands over what was taken', async () => {
    const { flowLog, lines } = open({ logs: [{ name: 'file', type: 'flow', to: 'file', path: 'all' }] });
    flowLog.take(5000, 0, randomFlows(5000, 1));
    await flowLog.stop();
    expect(lines('all')).toHaveLength(5000);
  });
});

describe('updates', () => {
  const MINUTE_NS = 60_000_000_000n;
  const NOW_MS = Date.parse('2026-11-21T17:00:00Z');
  const now = BigInt(NOW_MS) * 1_000_000n;
  const session = (n: number, startNs: bigint, lastNs: bigint, ruleId = id('rule', 'outbound')): Uint8Array => makeFlow({ sessionId: BigInt(n), startNs, lastNs, event: FlowEvent.UPDATE, ruleId });

  test('of sessions that are old, had packets, and whose rule records their end', async () => {
    const table = [
      session(1, now - 10n * MINUTE_NS, now - 1n), session(2, now - 2n * MINUTE_NS, now - 1n), // young
      session(3, now - 10n * MINUTE_NS, now - 6n * MINUTE_NS), // silent
      session(4, now - 10n * MINUTE_NS, now - 1n, id('rule', 'telnet')), // not recorded
      ...Array.from({ length: 2500 }, (_, n) => session(100 + n, now - 10n * MINUTE_NS, now - 1n)),
    ];
    const asked: number[] = [];
    const pages = { sessions: (cursor: number, limit: number) => {
      asked.push(cursor);
      const page = table.slice(cursor, cursor + limit);
      return Promise.resolve({ count: page.length, cursor: cursor + limit >= table.length ? 0 : cursor + limit, bytes: Buffer.concat(page) });
    } };
    const logged = loggedRules(configOf().snapshot);
    const seen: bigint[] = [];
    const updates = new Updates(pages, (rule) => logged.has(rule), (flows, bytes) => {
      for (let n = 0; n < flows; n += 1) seen.push(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(n * FLOW_RECORD_BYTES, true));
    }, () => NOW_MS);
    onTestFinished(() => updates.stop());
    updates.setInterval(300);
    await updates.pass();
    expect(asked).toEqual([0, 1024, 2048]);
    expect(seen).toEqual([1n, ...Array.from({ length: 2500 }, (_, n) => BigInt(100 + n))]);
  });

  test('an engine that is away ends a pass, not the updates', async () => {
    const updates = new Updates({ sessions: () => Promise.reject(new Error('away')) }, () => true, () => undefined);
    updates.setInterval(60);
    await expect(updates.pass()).resolves.toBeUndefined();
    updates.stop();
  });

  test('which rules record ends', () => {
    expect([...loggedRules(configOf().snapshot)]).toEqual([id('rule', 'outbound')]);
  });
});

test('drops are recorded, too, when a batch has no flows', async () => {
  const { flowLog, lines } = open({ logs: [{ name: 'file', type: 'flow', to: 'file', path: 'all' }] });
  expect(makeDrop()).toHaveLength(DROP_RECORD_BYTES);
  flowLog.take(...batch([], [makeDrop(), makeDrop()]));
  await expect.poll(() => flowLog.streamStats[0]!.sent).toBe(2);
  expect(lines('all')).toHaveLength(2);
});
