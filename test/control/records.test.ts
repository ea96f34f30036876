// The real control process between a real engine socket and files: what is to stand in a log stands there, once. What was made while
// control was away is handed over to the streams of the next one; lines of the other processes come on standard input.
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ApiClient } from '../../src/api/client.js';
import type { StatusView } from '../../src/control/status.js';
import type { CommitResult } from '../../src/control/transaction-types.js';
import { FlowEvent } from '../../src/engine/abi.generated.js';
import { EngineHost } from '../../src/engine/host.js';
import type { RunDirectory } from '../../src/supervisor/run-directory.js';
import { until } from '../../lab/until.js';
import { makeFacts, makeFakeAddon, makeRunDirectory, silentLog, type FakeAddon } from '../engine/fake-addon.js';
import { CONFIG, makeDrop, makeFlow } from './bench.js';

const SCRIPT = 'dist/src/control/main.js';
const LOGGED = `${CONFIG}observability:
  logs:
    - { name: audit, type: audit, to: file, path: audit.jsonl, exclude: { method: [GET] } }
    - { name: flows, type: flow, to: file, path: flows.jsonl }
    - { name: system, type: system, to: file, path: system.jsonl, exclude: { process: [control] } }
`;

type Line = Record<string, unknown>;

describe('logs of the control process', () => {
  let paths: RunDirectory;
  let addon: FakeAddon;
  let host: EngineHost;
  let child: ChildProcess | undefined;
  let remove = (): void => undefined;

  beforeEach(async () => {
    paths = makeRunDirectory((removal) => { remove = removal; });
    addon = makeFakeAddon();
    host = new EngineHost({ paths, open: { pinDirectory: '', bpfObject: '', workers: 2, sessionsMax: 1024, framesPerWorker: 512, txBudget: 32, busyPoll: false, offline: false, hostDevice: '' } }, {
      addon, log: silentLog, stopKernelForwarding: () => false, readFacts: () => Promise.resolve(makeFacts()), readDevices: () => Promise.resolve(makeFacts().devices), prepare: () => Promise.resolve([]),
    });
    await host.start();
    if (!existsSync(SCRIPT)) throw new Error(`${SCRIPT} is not built: run npm run setup`);
    writeFileSync(paths.runningConfig, LOGGED);
  });
  afterEach(async () => {
    await end('SIGTERM');
    host.stop();
    remove();
  });

  async function start(): Promise<ApiClient> {
    child = spawn(process.execPath, [SCRIPT, JSON.stringify({ dir: paths.dir, isTold: true })], { stdio: ['pipe', 'ignore', 'ignore'] });
    const client = new ApiClient(paths.apiSocket);
    await until('the configuration is in force', async () => (await client.get<StatusView>('/api/v1/status')).ready || undefined, { intervalMs: 25, deadlineMs: 45_000 });
    return client;
  }

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child!.once('exit', resolve));
    child.kill(signal);
    await gone;
  }

  const lines = (file: string): Line[] => (existsSync(join(paths.logState, file)) ? readFileSync(join(paths.logState, file), 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line) as Line) : []);

  test('a change is one line in the audit stream, as it is in the audit log', async () => {
    const client = await start();
    await client.post<CommitResult>('/api/v1/config/commit', { text: LOGGED.replace('name: telnet', 'name: no-telnet') });
    await end('SIGTERM'); // what was taken is written by then
    const ofCommit = lines('audit.jsonl').filter(({ path, detail }) => path === '/api/v1/config/commit' || (detail as { action?: string } | undefined)?.action === 'commit');
    expect(ofCommit.map(({ event }) => event)).toEqual(['request', 'system', 'outcome']);
    const sequences = lines('audit.jsonl').map(({ sequence }) => sequence);
    expect(sequences[0]).toBe(1); // of before the first configuration was in force
    expect(new Set(sequences).size).toBe(sequences.length);
  }, 60_000);

  test('sessions that end while control is away, killed, are in the log of the next one; lines of the other processes are, too', async () => {
    await start();
    addon.pendingRecords = { flows: [makeFlow({ sessionId: 1n })], drops: [] };
    await expect.poll(() => lines('flows.jsonl').length).toBe(1);
    await end('SIGKILL');
    addon.pendingRecords = { flows: [makeFlow({ sessionId: 1n, event: FlowEvent.END, endReason: 2 })], drops: [makeDrop()] };
    await expect.poll(() => addon.pendingRecords.flows.length).toBe(0);
    const started = start();
    child!.stdin!.write('{"level":"warn","time":"2026-11-21T17:00:00.000Z","process":"engine","msg":"said before control was ready"}\nnot JSON\n');
    await started;
    await expect.poll(() => lines('flows.jsonl').map(({ event }) => event)).toEqual(['start', 'end', 'denied']);
    child!.stdin!.write('{"level":"info","time":"2026-11-21T17:00:01.000Z","process":"supervisor","msg":"said later"}\n');
    await expect.poll(() => lines('system.jsonl').map(({ process: of, msg }) => [of, msg])).toEqual([['engine', 'said before control was ready'], ['supervisor', 'said later']]);
    expect(host.status().recordsShed).toBe(0);
  }, 60_000);
});
