// Control killed with SIGKILL at each fault point of a commit, as a real process over a real engine socket: what the engine has at that
// moment is the old configuration or the new one, whole; what the next control puts in force is what the store says runs, whole too.
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ApiClient } from '../../src/api/client.js';
import { fnv1a32 } from '../../src/config/names.js';
import { FAULT_POINTS, type FaultPoint } from '../../src/control/fault-points.js';
import type { StatusView } from '../../src/control/status.js';
import type { CommitResult } from '../../src/control/transaction-types.js';
import { readRule, readSnapshotHeader, RULE_BYTES } from '../../src/engine/abi.generated.js';
import { EngineHost } from '../../src/engine/host.js';
import { viewOf } from '../../src/engine/records.js';
import type { RunDirectory } from '../../src/supervisor/run-directory.js';
import { until } from '../../lab/until.js';
import { makeFacts, makeFakeAddon, makeRunDirectory, silentLog, type FakeAddon } from '../engine/fake-addon.js';
import { CONFIG } from './bench.js';

const SCRIPT = 'dist/src/control/main.js';

/** Versions differ in a rule and in an address, so that a commit changes netdevs as well. */
const version = (n: number): string => CONFIG.replace('name: telnet', `name: version-${n}`).replace('10.0.1.4/24', `10.0.1.${4 + n}/24`);

describe('control killed within a commit', () => {
  let paths: RunDirectory;
  let addon: FakeAddon;
  let host: EngineHost;
  let child: ChildProcess | undefined;
  let addresses: string[] = [];
  let remove = (): void => undefined;
  let current = 1;

  beforeAll(async () => {
    paths = makeRunDirectory((removal) => { remove = removal; });
    addon = makeFakeAddon();
    host = new EngineHost({ paths, open: { pinDirectory: '', bpfObject: '', workers: 2, sessionsMax: 1024, framesPerWorker: 512, txBudget: 32, busyPoll: false, offline: false, hostDevice: '' } }, {
      addon, log: silentLog, stopKernelForwarding: () => false, readFacts: () => Promise.resolve(makeFacts()), readDevices: () => Promise.resolve(makeFacts().devices),
      prepare: (plan) => {
        addresses = plan.addresses.map(({ address }) => address);
        return Promise.resolve([]);
      },
    });
    await host.start();
    if (!existsSync(SCRIPT)) throw new Error(`${SCRIPT} is not built: run npm run setup`);
    writeFileSync(paths.runningConfig, version(1)); // as the supervisor offers it
    await start(); // taking it over is a commit, too
    await end();
    await start(FAULT_POINTS[0]);
  });
  afterAll(async () => {
    await end();
    host.stop();
    remove();
  });

  async function end(): Promise<void> {
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child!.once('exit', resolve));
    child.kill('SIGTERM');
    await gone;
  }

  /** Its API answers and the engine has what it wants. What is made up for at a start passes fault points, too: then it starts once more. */
  async function start(point?: FaultPoint, again = true): Promise<ApiClient> {
    const control = spawn(process.execPath, [SCRIPT, JSON.stringify({ dir: paths.dir })], { stdio: 'ignore', env: { ...process.env, SLUICE_FAULT_POINT: point ?? '' } });
    child = control;
    const client = new ApiClient(paths.apiSocket);
    const isReady = await until('the API answers and the configuration is in force', async () => {
      if (control.signalCode === 'SIGKILL') return 'killed';
      const status = await client.get<StatusView>('/api/v1/status');
      return status.generation !== null && status.failure === null ? 'ready' : undefined;
    }, { intervalMs: 25, deadlineMs: 45_000 });
    if (isReady === 'ready') return client;
    if (!again) throw new Error(`control was killed at ${point} while starting, twice`);
    return start(point, false);
  }

  const rulesInForce = (): number[] => {
    const view = viewOf(addon.snapshot!);
    const { rules } = readSnapshotHeader(view, 0);
    return Array.from({ length: rules.count }, (_, index) => readRule(view, rules.offset + index * RULE_BYTES).id);
  };
  const rulesOf = (n: number): number[] => ['outbound', `version-${n}`].map((name) => fnv1a32(`rule:${name}`));

  // Each starts control for the next one: what it finds is what the kill left.
  test.each(FAULT_POINTS.map((point, index) => ({ point, following: FAULT_POINTS[index + 1] })))('$point', async ({ point, following }) => {
    const next = current + 1;
    expect(rulesInForce()).toEqual(rulesOf(current));
    const exited = new Promise<NodeJS.Signals | null>((resolve) => child!.once('exit', (_code, signal) => resolve(signal)));
    await expect(new ApiClient(paths.apiSocket).post<CommitResult>('/api/v1/config/commit', { text: version(next) })).rejects.toThrow();
    expect(await exited).toBe('SIGKILL');
    expect([rulesOf(current), rulesOf(next)]).toContainEqual(rulesInForce());

    const client = await start(following);
    const { text } = await client.get<{ text: string }>('/api/v1/config/history/running');
    // Before the pointer stands under its name the old one runs, from then on the new one.
    const found = FAULT_POINTS.indexOf(point) >= FAULT_POINTS.indexOf('pointer-linked') ? next : current;
    expect(text).toBe(version(found));
    expect(rulesInForce()).toEqual(rulesOf(found));
    expect(addresses).toContain(`10.0.1.${4 + found}`);
    expect(readdirSync(paths.configState).filter((name) => /tmp|new/.test(name))).toEqual([]);
    current = found;
  });
});
