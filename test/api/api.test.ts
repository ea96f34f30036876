// The REST API by injection: shapes, filters, and errors as problem details that point at what is wrong.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  Counter, DropReason, INTERFACE_RECORD_BYTES, NAT_POOL_RECORD_BYTES, SessionProtocol, SessionState, SL_COUNTER_COUNT, SL_DROP_REASON_COUNT, SL_PORTS_MAX, SL_SESSION_PROTOCOL_COUNT, SL_STEER_BASE, SL_STEER_KEYS,
  type SimulateResult, writeInterfaceRecord, writeNatPoolRecord, writeSimulateResult, writeRuleHits,
} from '../../src/engine/abi.generated.js';
import { GAUGES, STEER_AT } from '../../src/engine/binding.js';
import { bytesOf, parseAddress } from '../../src/lib/address.js';
import type { StatusView } from '../../src/control/status.js';
import { id, makeDrop, makeFlow } from '../control/bench.js';
import { startApi, type ApiBench } from './bench.js';

const ends: (() => void | Promise<void>)[] = [];
/** For what changes nothing. */
let shared: ApiBench;
beforeAll(async () => { shared = await startApi({ keep: (end) => void ends.unshift(end) }); });
afterAll(async () => { for (const end of ends) await end(); });

const get = async <T>(bench: ApiBench, url: string, status = 200): Promise<T> => {
  const answer = await bench.ask('GET', url, { role: 'viewer' });
  expect({ status: answer.status, body: answer.text }).toMatchObject({ status });
  return answer.body as T;
};

describe('status', () => {
  test('of a ready appliance', async () => {
    const bench = await startApi();
    bench.addon.words[SL_COUNTER_COUNT + SL_DROP_REASON_COUNT + GAUGES.indexOf('sessions')] = 12n;
    bench.addon.words[SL_COUNTER_COUNT + DropReason.POLICY_DENY] = 4n;
    bench.addon.words[STEER_AT + DropReason.POLICY_DENY] = 3n; // the steering program's, port 0
    bench.addon.words[STEER_AT + SL_STEER_BASE] = 99n;
    const status = await get<StatusView>(bench, '/api/v1/status');
    expect(status).toMatchObject({
      ready: true, missing: [], hostname: 'nva-test', generation: 1, rules: 3, sessions: { total: 12 }, drops: { 'policy-deny': 7 }, failure: null,
      processes: [{ role: 'supervisor', state: 'away' }, { role: 'engine', state: 'running', pid: process.pid }, { role: 'control', state: 'running' }],
      interfaces: [
        { name: 'untrust', device: 'eth1', zone: 'untrust', addresses: ['203.0.113.4/24'], mtuBytes: 1500, link: 'up', xdpMode: 'native', steering: { toEngine: 99, toHost: 0, dropped: 3 } },
        { name: 'trust', device: 'eth2', zone: 'trust', link: 'up' },
      ],
    });
  });

  test('of one whose engine is away', async () => {
    const bench = await startApi();
    bench.host.stop();
    await expect.poll(() => bench.control.engine.isConnected).toBe(false);
    expect(await get<StatusView>(bench, '/api/v1/status')).toMatchObject({ ready: false, missing: [expect.stringContaining('engine')], sessions: null });
    expect(await get(bench, '/healthz', 503)).toMatchObject({ status: 'unavailable' });
    expect(await get(bench, '/api/v1/counters', 503)).toMatchObject({ code: 'SLUICE_ENGINE_AWAY', status: 503 });
  });

  test('health', async () => expect(await get(shared, '/healthz')).toEqual({ status: 'ok', missing: [] }));
});

describe('records and sessions', () => {
  test('flows, drops and sessions with names, filtered', async () => {
    const bench = await startApi();
    bench.addon.pendingRecords = { flows: [makeFlow(), makeFlow({ protocol: 17, sessionId: 2n })], drops: [makeDrop()] };
    await expect.poll(() => bench.control.drops.last).toBe(1);
    expect(await get(bench, '/api/v1/flows?protocol=tcp')).toMatchObject({
      last: 2, missed: 0,
      records: [{
        kind: 'flow', event: 'start', protocol: 'tcp', source: '10.0.1.10', sourcePort: 40000, destination: '198.51.100.7', destinationPort: 443, rule: 'outbound', natSource: 'egress', natDestination: null,
        translated: { source: '203.0.113.4', sourcePort: 50123 }, from: { interface: 'trust', zone: 'trust' }, to: { interface: 'untrust', zone: 'untrust' }, state: 'established', packets: [3, 2], bytes: [300, 2000],
        start: '2023-11-14T22:13:20.000Z', time: '2023-11-14T22:13:21.000Z',
      }],
    });
    expect(await get(bench, '/api/v1/flows?after=1')).toMatchObject({ records: [{ protocol: 'udp' }], last: 2 });
    expect(await get(bench, '/api/v1/drops?last=5&port=23')).toMatchObject({ records: [{ kind: 'drop', reason: 'policy-deny', help: 'a rule denies it, or no rule allows it', from: { interface: 'untrust' }, bytes: 60 }] });
    bench.addon.sessionRecords = [makeFlow(), makeFlow({ sessionId: 9n })];
    expect(await get(bench, '/api/v1/sessions?limit=1')).toMatchObject({ sessions: [{ sessionId: '1' }], cursor: expect.stringMatching(/^[A-Za-z0-9_-]+$/) as string });
    const { cursor } = await get<{ cursor: string }>(bench, '/api/v1/sessions?limit=1');
    expect(await get(bench, `/api/v1/sessions?limit=1&cursor=${cursor}`)).toMatchObject({ sessions: [{ sessionId: '9' }], cursor: null });
  });

  test.each([
    ['/api/v1/flows?last=0', '/last'], ['/api/v1/flows?colour=red', '/colour'], ['/api/v1/drops?reason=mood', '/reason'], ['/api/v1/sessions?source=10.0.0.1/8', '/source'],
    ['/api/v1/sessions?protocol=tpc', '/protocol'], ['/api/v1/sessions?limit=1000000', '/limit'],
  ])('%s is refused, and says where', async (url, pointer) => {
    const answer = await shared.ask('GET', url);
    expect(answer.status).toBe(400);
    expect(answer.headers['content-type']).toMatch('application/problem+json');
    expect(answer.body).toMatchObject({ type: 'about:blank#SLUICE_API_ARGUMENT', title: expect.any(String) as string, status: 400, code: 'SLUICE_API_ARGUMENT', detail: expect.any(String) as string, pointer });
  });

  test('an address that there is not', async () => {
    expect(await get(shared, '/api/v2/flows', 404)).toMatchObject({ code: 'SLUICE_API_NOT_FOUND', status: 404 });
  });
});

describe('rules, routes, counters', () => {
  test('rules in their order with hits', async () => {
    const bench = await startApi();
    bench.addon.hits = new Uint8Array(16);
    writeRuleHits(new DataView(bench.addon.hits.buffer), 0, { ruleId: id('rule', 'outbound'), sessions: 5n });
    expect(await get(bench, '/api/v1/rules')).toEqual({
      rules: [
        { kind: 'firewall', name: 'outbound', action: 'allow', sessions: 5 }, { kind: 'firewall', name: 'telnet', action: 'reject', sessions: 0 }, { kind: 'nat-source', name: 'egress', action: 'translate', sessions: null },
      ],
    });
  });

  test('routes as the engine has them', async () => {
    expect(await get(shared, '/api/v1/routes')).toEqual({
      routes: expect.arrayContaining([
        { to: '10.0.1.0/24', nexthops: [{ via: null, interface: 'trust', kind: 'forward' }] },
        { to: '0.0.0.0/0', nexthops: [{ via: '203.0.113.1', interface: 'untrust', kind: 'forward' }] },
        { to: '192.0.2.0/24', nexthops: [{ via: null, interface: null, kind: 'blackhole' }] },
      ]) as unknown,
    });
  });

  test('counters, neighbours', async () => {
    const bench = await startApi();
    bench.addon.words[Counter.FAST_PATH_HITS] = 8n;
    bench.addon.words[STEER_AT + SL_PORTS_MAX * SL_STEER_KEYS + SessionState.NEW * SL_SESSION_PROTOCOL_COUNT + SessionProtocol.UDP] = 6n;
    bench.addon.pools = new Uint8Array(NAT_POOL_RECORD_BYTES);
    writeNatPoolRecord(new DataView(bench.addon.pools.buffer), 0, { address: bytesOf(parseAddress('203.0.113.4')), used: [1, 2, 3], resting: [0, 1, 0], free: [9, 7, 7], total: [10, 10, 10] });
    bench.addon.interfaceRecords = new Uint8Array(INTERFACE_RECORD_BYTES);
    writeInterfaceRecord(new DataView(bench.addon.interfaceRecords.buffer), 0, { interface: id('interface', 'untrust'), rxPackets: 1n, rxBytes: 60n, txPackets: 2n, txBytes: 120n });
    expect(await get(bench, '/api/v1/counters')).toMatchObject({
      counters: { 'fast-path-hits': 8 }, drops: { 'policy-deny': 0 }, gauges: { sessions: 0 }, steering: { eth1: { counters: { 'to-engine': 0 } } }, sessionsByProtocol: { tcp: 0, udp: 6 },
      natPools: [{ address: '203.0.113.4', protocols: { tcp: { used: 1, resting: 0, free: 9, total: 10 }, udp: { used: 2, resting: 1, free: 7, total: 10 }, icmp: { used: 3, resting: 0, free: 7, total: 10 } } }],
      interfaces: { untrust: { rxPackets: 1, rxBytes: 60, txPackets: 2, txBytes: 120 } },
    });
    expect(await get(bench, '/api/v1/neighbours')).toEqual({ neighbours: [] });
  });

  test('metrics in Prometheus\' form', async () => {
    const bench = await startApi();
    bench.addon.words[Counter.RX_PACKETS] = 77n;
    bench.addon.words[SL_COUNTER_COUNT + DropReason.NO_ROUTE] = 2n;
    const response = await bench.ask('GET', '/metrics');
    expect(response.headers['content-type']).toMatch('text/plain');
    for (const line of ['sluice_rx_packets_total 77', 'sluice_drops_total{reason="no-route"} 2', 'sluice_engine_up 1', 'sluice_ready 1', 'sluice_steered_packets_total{device="eth1",way="to-host"} 0', 'sluice_rule_sessions_total{rule="outbound",kind="firewall"} 0']) {
      expect(response.text.split('\n')).toContain(line);
    }
    expect((await bench.ask('GET', '/metrics')).text).toContain('sluice_rx_packets_total 77\n');
  });
});

describe('simulate', () => {
  const question = { from: 'trust', source: '10.0.1.10', destination: '198.51.100.7', protocol: 'tcp', port: 443 };
  const post = async (bench: ApiBench, payload: object): Promise<{ status: number; body: Record<string, unknown> }> => {
    const { status, body } = await bench.ask('POST', 'simulate', { role: 'viewer', body: payload });
    return { status, body: body as Record<string, unknown> };
  };

  test('asks the engine and names what it answers', async () => {
    const bench = await startApi();
    bench.addon.simulate = (request) => {
      const view = new DataView(request.buffer, request.byteOffset);
      expect([view.getUint16(32, true), view.getUint16(34, true), view.getUint16(36, true), view.getUint8(38)]).toEqual([50000, 443, 1, 6]);
      const answer = new Uint8Array(80);
      const result: SimulateResult = {
        verdict: 1, reason: 0, toInterface: 0, ruleId: id('rule', 'outbound'), natSourceId: id('nat-source', 'egress'), natDestinationId: 0,
        natSrc: bytesOf(parseAddress('203.0.113.4')), natDst: bytesOf(parseAddress('198.51.100.7')), nextHop: bytesOf(parseAddress('203.0.113.1')),
        natSrcPortLo: 1024, natSrcPortHi: 32767, natDstPort: 443, fromZone: 1, toZone: 0, host: 0,
      };
      writeSimulateResult(new DataView(answer.buffer), 0, result);
      return answer;
    };
    expect(await post(bench, question)).toMatchObject({
      status: 200,
      body: { answer: { verdict: 'allow', reason: null, rule: 'outbound', natSource: 'egress', natDestination: null, from: { zone: 'trust' }, to: { interface: 'untrust', zone: 'untrust' }, nextHop: '203.0.113.1', translated: { source: '203.0.113.4', sourcePorts: [1024, 32767] } } },
    });
  });

  test.each([
    [{ ...question, from: 'mars' }, '/from'], [{ ...question, source: '10.0.1' }, '/source'], [{ ...question, destination: '2001:db8::1' }, '/destination'], [{ ...question, protocol: 'tpc' }, '/protocol'],
    [{ ...question, port: undefined }, '/port'], [{ ...question, port: 70000 }, '/port'], [{ ...question, colour: 'red' }, '/colour'], [{ ...question, from: undefined }, '/from'], [{ ...question, icmpType: 8 }, '/icmpType'],
  ])('%j is refused, and says where', async (payload, pointer) => {
    expect(await post(shared, payload)).toMatchObject({ status: 400, body: { code: 'SLUICE_API_ARGUMENT', pointer } });
  });

  test('a body that is no JSON, and one that is too large', async () => {
    const send = async (raw: string): Promise<number> => (await shared.ask('POST', 'simulate', { raw, headers: { 'content-type': 'application/json' } })).status;
    expect(await send('{')).toBe(400);
    expect(await send(`"${'x'.repeat(100_000)}"`)).toBe(413);
  });
});
