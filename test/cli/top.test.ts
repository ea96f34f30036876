// `sluice top`: the arithmetic on samples that are given, the picture as text, and the program on a real terminal against a real control.
import { execFileSync, spawn } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import { parseLinkCounters, ratesBetween, type Sample, type TopView } from '../../src/cli/top/rates.js';
import { drawTop, shortRate } from '../../src/cli/top/screen.js';
import { TalkerSampler, WINDOW_SESSIONS_MAX } from '../../src/cli/top/talkers.js';
import { findMissing, type CountersView, type InterfaceView, type StatusView } from '../../src/control/status.js';
import { Counter, DropReason, SL_COUNTER_COUNT } from '../../src/engine/abi.generated.js';
import type { FlowRecordView } from '../../src/engine/records.js';
import { makeFlow, startBench, type ControlBench } from '../control/bench.js';
import { openTerminal } from './terminal.js';

const port = (name: string, device: string): InterfaceView => ({
  name, kind: 'port', device, zone: name, vlanId: null, addresses: [], mtuBytes: 1500, link: 'up', driver: 'veth', queues: 1, xdpMode: 'native', steering: null,
});
const STATUS: StatusView = {
  version: '1.2.3', hostname: 'nva-1', directory: '/run/sluice', ready: true, missing: [], generation: 7, appliedAt: null, applyMicroseconds: null, uptimeSeconds: 60, processes: [],
  interfaces: [port('untrust', 'eth1'), port('trust', 'eth2'), port('guests', 'eth2')], tunnels: [], rules: 2,
  sessions: { total: 30, max: 1000, byState: { established: 25, new: 5 } }, natMappings: 0, fragments: 0, buffers: { free: 900, total: 1000 }, workers: 2,
  packets: null, bytes: null, drops: {}, failure: null, problems: [], obstacles: [], warnings: [],
};
const steering = (toEngine: number, offloaded: number, dropped: number): CountersView['steering'][string] => ({ counters: { 'to-engine': toEngine, offloaded, 'to-host': 1 }, drops: { 'no-engine': dropped } });

function sample(atMs: number, factor: number): Sample {
  return {
    atMs, status: STATUS,
    counters: {
      counters: { 'rx-packets': 10 * factor, 'rx-bytes': 1000 * factor, 'sessions-created': 3 * factor, 'sessions-ended': factor },
      drops: { 'policy-deny': 50 * factor, 'ttl-expired': 0, 'no-route': 7 }, gauges: {}, sessions: {}, sessionsByProtocol: {}, natPools: [], interfaces: {},
      steering: { eth1: steering(10 * factor, 90 * factor, factor), eth2: steering(0, 100 * factor, 0) },
    },
    links: new Map([['eth1', { rxBytes: 1e6 * factor, rxPackets: 1e4 * factor, txBytes: 0, txPackets: 0 }], ['eth2', { rxBytes: 0, rxPackets: 0, txBytes: 1e6 * factor, txPackets: 1e4 * factor }]]),
  };
}

const NOBODY = { talkers: [], sampled: 0 };
const view = (over: Partial<TopView> = {}): TopView => ({ ...ratesBetween(sample(0, 1), sample(2000, 3), NOBODY, new Date('2026-01-02T03:04:05Z')), ...over });

describe('rates', () => {
  test('are differences by the time between, a device once', () => {
    const { ports, packets, bits, offloadShare, drops, dropsPerSecond, sessions } = view();
    expect(ports).toEqual([
      { device: 'eth1', interfaces: ['untrust'], link: 'up', xdpMode: 'native', inPackets: 10_000, inBits: 8e6, outPackets: 0, outBits: 0, toEngine: 10, offloaded: 90, toHost: 0, dropped: 1 },
      { device: 'eth2', interfaces: ['trust', 'guests'], link: 'up', xdpMode: 'native', inPackets: 0, inBits: 0, outPackets: 10_000, outBits: 8e6, toEngine: 0, offloaded: 100, toHost: 0, dropped: 0 },
    ]);
    expect({ packets, bits, offloadShare }).toEqual({ packets: { in: 10_000, out: 10_000, toEngine: 10, offloaded: 190 }, bits: { in: 8e6, out: 8e6 }, offloadShare: 0.95 });
    expect(drops).toEqual([{ reason: 'policy-deny', total: 150, perSecond: 50 }, { reason: 'no-route', total: 7, perSecond: 0 }]);
    expect(dropsPerSecond).toBe(50);
    expect(sessions).toMatchObject({ total: 30, createdPerSecond: 3, endedPerSecond: 1 });
  });

  test('of an engine that started anew are unknown, never negative', () => {
    const { packets, drops, offloadShare } = ratesBetween(sample(0, 3), sample(1000, 1), NOBODY, new Date());
    expect({ packets, share: offloadShare, drop: drops.find((one) => one.reason === 'policy-deny')!.perSecond }).toEqual({ packets: { in: null, out: null, toEngine: null, offloaded: null }, share: null, drop: null });
  });

  test('without the devices\' counters: the engine\'s', () => {
    const blind = (one: Sample): Sample => ({ ...one, links: new Map() });
    expect(ratesBetween(blind(sample(0, 1)), blind(sample(1000, 2)), NOBODY, new Date())).toMatchObject({ packets: { in: 10 }, bits: { in: 8000 }, ports: [{ inPackets: null }, { inPackets: null }] });
  });

  test('the kernel\'s table of devices', () => {
    const text = execFileSync('cat', ['/proc/self/net/dev'], { encoding: 'utf8' });
    expect(parseLinkCounters(text).has('lo')).toBe(true);
    expect(parseLinkCounters('Inter-| Receive\n face |bytes\n  eth0.5: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n')).toEqual(new Map([['eth0.5', { rxBytes: 100, rxPackets: 2, txBytes: 300, txPackets: 4 }]]));
  });
});

describe('talkers', () => {
  const session = (id: number, bytes: number, over: Partial<FlowRecordView> = {}): FlowRecordView => ({
    sessionId: String(id), protocol: 'tcp', source: '10.0.1.10', sourcePort: 40000 + id, destination: '198.51.100.7', destinationPort: 443, rule: 'outbound', bytes: [bytes, 0], packets: [bytes / 100, 0], ...over,
  } as FlowRecordView);

  /** A table of sessions behind the API's cursor, and a clock. */
  function table(sessions: FlowRecordView[]) {
    const asked: unknown[] = [];
    const state = { sessions, nowMs: 0, asked };
    const get = (_path: string, query: { cursor?: string; limit: number }): Promise<unknown> => {
      asked.push(query.cursor);
      const at = Number(query.cursor ?? 0);
      const page = state.sessions.slice(at, at + query.limit);
      const next = at + page.length;
      return Promise.resolve({ sessions: page, cursor: next >= state.sessions.length ? null : String(next) });
    };
    return { state, sampler: new TalkerSampler({ get } as never, () => state.nowMs) };
  }

  test('sessions between the same hosts are one talker; what began in between counts; what rests does not', async () => {
    const { state, sampler } = table([session(1, 1000), session(2, 1000), session(3, 500, { source: '10.0.1.99' })]);
    expect(await sampler.round()).toEqual({ talkers: [], sampled: 3 });
    state.nowMs = 2000;
    state.sessions = [session(1, 2000), session(2, 4000), session(3, 500, { source: '10.0.1.99' }), session(4, 200, { destinationPort: 80 })];
    expect(await sampler.round()).toEqual({ sampled: 4, talkers: [
      { protocol: 'tcp', source: '10.0.1.10', destination: '198.51.100.7', destinationPort: 443, rule: 'outbound', sessions: 2, bitsPerSecond: 16_000, packetsPerSecond: 20 },
      { protocol: 'tcp', source: '10.0.1.10', destination: '198.51.100.7', destinationPort: 80, rule: 'outbound', sessions: 1, bitsPerSecond: 800, packetsPerSecond: 1 },
    ] });
    state.nowMs = 3000;
    expect((await sampler.round()).talkers).toEqual([]);
  });

  test('of a large table: two looks a round, every window in turn, the found ones kept for a while', async () => {
    const all = (bytes: number): FlowRecordView[] => Array.from({ length: 2 * WINDOW_SESSIONS_MAX + 10 }, (_, index) => session(index, index === 5 || index === 2005 ? bytes : 100, { source: `10.1.0.${index % 250}` }));
    const { state, sampler } = table(all(100));
    await sampler.round();
    const found: string[][] = [];
    for (let round = 1; round <= 4; round += 1) {
      state.nowMs = round * 1000;
      state.sessions = all(100 + round * 1000);
      found.push((await sampler.round()).talkers.map((one) => one.source));
    }
    expect(found).toEqual([['10.1.0.5'], ['10.1.0.5'], ['10.1.0.5'], ['10.1.0.5']]);
    expect(state.asked).toEqual([undefined, undefined, '1000', '1000', '2000', '2000', undefined, undefined, '1000']);
    state.nowMs = 60_000;
    state.sessions = all(5100);
    expect((await sampler.round()).talkers).toEqual([]); // seen too long ago
  });
});

describe('the picture', () => {
  test('all of it, without a size', () => {
    const text = drawTop(view({ talkers: [{ protocol: 'udp', source: '10.0.1.10', destination: '2001:db8::7', destinationPort: 53, rule: 'dns', sessions: 1, bitsPerSecond: 12_345, packetsPerSecond: 9 }] })).join('\n');
    expect(text).toContain('Sluice 1.2.3  nva-1  ready  generation 7  up 1 min 0 s  03:04:05 UTC');
    expect(text).toContain('packets   10.0 k/s in, 10.0 k/s out; 8.0 Mbit/s in, 8.0 Mbit/s out');
    expect(text).toContain('offload   95.0 % of the packets in XDP; 190/s offloaded, 10/s to the engine');
    expect(text).toMatch(/trust,guests +eth2 +up +0 +0 +10\.0 k +8\.0 M +0 +100 +0 +0/);
    expect(text).toMatch(/50 +150 +policy-deny/);
    expect(text).toMatch(/12\.3 k +9 +1 +udp +10\.0\.1\.10 +\[2001:db8::7\]:53 +dns/);
  });

  test.each([[24, 80], [10, 40], [5, 20], [60, 200], [1, 1]])('fits %i rows and %i columns', (rows, columns) => {
    const talkers = Array.from({ length: 100 }, (_, index) => ({ protocol: 'tcp', source: `10.0.0.${index}`, destination: '192.0.2.1', destinationPort: 443, rule: 'x'.repeat(64), sessions: 1, bitsPerSecond: 1e9, packetsPerSecond: 1 }));
    const lines = drawTop(view({ talkers }), { rows, columns });
    expect(lines.length).toBeLessThanOrEqual(rows);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(columns);
  });

  test.each([[null, '-'], [0, '0'], [7.25, '7.25'], [0.5, '0.5'], [950.4, '950'], [1234, '1.2 k'], [12_345_678, '12.3 M'], [7.9e9, '7.9 G']] as const)('%s is written %s', (value, text) => {
    expect(shortRate(value)).toBe(text);
  });

  test('names of devices and rules cannot play with the terminal', () => {
    const text = drawTop(view({ talkers: [{ protocol: 'tcp', source: 'a', destination: 'b', destinationPort: 1, rule: '\u001b[2Jgone', sessions: 1, bitsPerSecond: 1, packetsPerSecond: 1 }] })).join('\n');
    expect(text).not.toContain('\u001b');
  });
});

describe('the program', () => {
  async function startListening(): Promise<ControlBench> {
    const bench = await startBench();
    await bench.api.listen({ path: bench.paths.apiSocket });
    await expect.poll(() => findMissing(bench.control)).toEqual([]);
    return bench;
  }

  /** Packets, drops and one session that grows, until the test ends. */
  function keepBusy(bench: ControlBench): void {
    let round = 0;
    const timer = setInterval(() => {
      round += 1;
      bench.addon.words[Counter.RX_PACKETS] = BigInt(round * 1000);
      bench.addon.words[SL_COUNTER_COUNT + DropReason.POLICY_DENY] = BigInt(round * 10);
      bench.addon.sessionRecords = [makeFlow({ event: 1, sessionId: 1n, bytes: [BigInt(round) * 100_000n, 0n] })];
    }, 20);
    onTestFinished(() => clearInterval(timer));
  }

  async function run(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const child = spawn(process.execPath, ['bin/sluice', 'top', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => { stdout += data.toString(); });
    child.stderr.on('data', (data: Buffer) => { stderr += data.toString(); });
    return new Promise((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })));
  }

  test('--once, as text and as JSON', async () => {
    const bench = await startListening();
    keepBusy(bench);
    const text = await run('--once', '--interval', '0.5', '--dir', bench.paths.dir);
    expect(text).toMatchObject({ code: 0, stderr: '' });
    expect(text.stdout).toMatch(/tcp +10\.0\.1\.10 +198\.51\.100\.7:443 +outbound/);
    expect(text.stdout).not.toContain('\u001b');
    const json = JSON.parse((await run('--once', '--json', '--interval', '0.5', '--dir', bench.paths.dir)).stdout) as TopView;
    expect(json).toMatchObject({ ready: true, hostname: 'nva-test', talkers: [{ source: '10.0.1.10', sessions: 1 }], drops: [{ reason: 'policy-deny' }] });
    expect(json.talkers[0]!.bitsPerSecond).toBeGreaterThan(0);
    expect(json.dropsPerSecond).toBeGreaterThan(0);
    expect(json.packets.in).toBeGreaterThan(0);
  });

  test('without an appliance, and without a terminal', async () => {
    expect(await run('--once', '--dir', '/tmp/sluice-nobody-is-here')).toMatchObject({ code: 1, stderr: expect.stringContaining('no appliance runs') as string });
    expect(await run('--dir', '/tmp/sluice-nobody-is-here')).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('--once') as string });
    expect(await run('--interval', '0', '--once')).toMatchObject({ code: 2 });
  });

  const ENTER = '\u001b[?1049h';
  const LEAVE = '\u001b[?1049l';
  const openTop = (bench: ControlBench) => openTerminal(`echo "before $(stty -g)"; sh -c 'echo pid=$$; exec ${process.execPath} bin/sluice top --interval 0.2 --dir ${bench.paths.dir}'; echo "code $?"; echo "after $(stty -g)"`);
  const pidOf = (output: string): number => Number(/pid=(\d+)/.exec(output)![1]);

  async function expectRestored(terminal: ReturnType<typeof openTerminal>, code: number): Promise<void> {
    await terminal.ended;
    const output = terminal.output();
    expect(/code (\d+)/.exec(output)?.[1]).toBe(String(code));
    expect(/after (\S+)/.exec(output)?.[1]).toBe(/before (\S+)/.exec(output)?.[1]);
    expect(output.lastIndexOf(LEAVE)).toBeGreaterThan(output.lastIndexOf(ENTER));
    expect(output.slice(output.lastIndexOf(LEAVE))).not.toContain('\u001b[?25l');
  }

  test('draws, follows the terminal\'s size, q ends it and gives the terminal back', async () => {
    const bench = await startListening();
    keepBusy(bench);
    const terminal = openTop(bench);
    await terminal.sees(/tcp +10\.0\.1\.10 +198\.51\.100\.7:443 +outbound/);
    expect(terminal.output()).toContain(ENTER);
    execFileSync('stty', ['-F', readlinkSync(`/proc/${pidOf(terminal.output())}/fd/0`), 'rows', '6', 'cols', '30']);
    await terminal.sees(/\u001b\[H[^\n]{1,38}\n(?:[^\n]*\n){4}q: quit/);
    execFileSync('stty', ['-F', readlinkSync(`/proc/${pidOf(terminal.output())}/fd/0`), 'rows', '40', 'cols', '120']);
    terminal.type('x');
    terminal.type('q');
    await expectRestored(terminal, 0);
  });

  test.each([['Ctrl-C', '\u0003'], ['Ctrl-D', '\u0004']])('%s ends it as well', async (_, key) => {
    const bench = await startListening();
    const terminal = openTop(bench);
    await terminal.sees('INTERFACE');
    terminal.type(key);
    await expectRestored(terminal, 0);
  });

  test.each(['SIGTERM', 'SIGHUP', 'SIGINT'] as const)('%s ends it as well', async (signal) => {
    const bench = await startListening();
    const terminal = openTop(bench);
    await terminal.sees('INTERFACE');
    process.kill(pidOf(terminal.output()), signal);
    await expectRestored(terminal, 0);
  });

  test('control goes away: it says so, goes on, and is back when control is', async () => {
    const bench = await startListening();
    const terminal = openTop(bench);
    await terminal.sees('INTERFACE');
    bench.host.stop();
    await bench.api.close();
    await terminal.sees('control does not answer since');
    terminal.type('q');
    await expectRestored(terminal, 0);
  });
});
