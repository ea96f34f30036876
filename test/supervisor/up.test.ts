// `sluice up` where each `ip netns exec` has a mount namespace of its own: the pins of the first one are in none that the second one
// sees, and still it takes over without a moment in which the netdev has no XDP program. With the real addon and BPF program.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { ApiClient } from '../../src/api/client.js';
import type { StatusView } from '../../src/control/status.js';
import { isAlive, readPidFile } from '../../src/supervisor/pid-file.js';
import { runDirectory } from '../../src/supervisor/run-directory.js';

const namespace = `sl-up-${process.pid}`;
const base = mkdtempSync(join(tmpdir(), 'sluice-up-'));
const paths = runDirectory(join(base, 'run'));
const config = join(base, 'nva.yaml');
const CONFIG = `version: 1
interfaces:
  outside: { device: eth1, zone: outside, addresses: [203.0.113.4/24] }
  inside: { device: eth2, zone: inside, addresses: [10.0.1.4/24] }
engine: { workers: 1, framesPerWorker: 4096 }
limits: { sessions: 1024 }
`;

interface Up { child: ChildProcess; output(): string; exited: Promise<number | null> }

function start(net = namespace): Up {
  const child = spawn('ip', ['netns', 'exec', net, process.execPath, 'bin/sluice', 'up', '--config', config, '--dir', paths.dir], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let output = '';
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (data: Buffer) => { output += data.toString(); });
  const exited = new Promise<number | null>((resolve) => child.once('exit', (code) => resolve(code)));
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    await exited;
  });
  return { child, output: () => output, exited };
}

const ip = (...args: string[]): string => execFileSync('ip', ['-n', namespace, ...args], { encoding: 'utf8', stdio: 'pipe' });
const xdpOf = (device: string): unknown => (JSON.parse(ip('-j', 'link', 'show', 'dev', device)) as { xdp?: unknown }[])[0]?.xdp;
const ready = (up: Up): Promise<void> => expect.poll(() => up.output()).toContain('Ready in');
const status = (): Promise<StatusView> => new ApiClient(paths.apiSocket).get<StatusView>('/api/v1/status');

describe.skipIf(process.getuid?.() !== 0)('up in private mount namespaces', () => {
  beforeAll(() => {
    execFileSync('ip', ['netns', 'add', namespace]);
    for (const device of ['eth1', 'eth2']) {
      ip('link', 'add', device, 'type', 'veth', 'peer', 'name', `far-${device}`);
      ip('link', 'set', `far-${device}`, 'up');
    }
    writeFileSync(config, CONFIG);
  });
  afterAll(() => {
    execFileSync('ip', ['netns', 'delete', namespace]);
    rmSync(base, { recursive: true, force: true });
  });

  test('a second one takes over what a killed one left, with XDP attached at each moment; the end leaves nothing', async () => {
    const first = start();
    await ready(first);
    const before = await status();
    expect(before).toMatchObject({ ready: true, interfaces: [{ name: 'outside', xdpMode: 'native', link: 'up' }, { name: 'inside' }] });
    const [engine, control] = [readPidFile(paths.enginePid)!, readPidFile(paths.controlPid)!];
    process.kill(first.child.pid!, 'SIGKILL');
    await first.exited;
    expect([isAlive(engine), isAlive(control)]).toEqual([true, true]);
    expect(await status()).toMatchObject({ ready: true, processes: [{ role: 'supervisor', state: 'away' }, { role: 'engine' }, { role: 'control' }] });

    let open = 0;
    const watch = setInterval(() => { if (xdpOf('eth1') === undefined) open += 1; }, 10);
    onTestFinished(() => clearInterval(watch));
    const second = start();
    await ready(second);
    clearInterval(watch);
    expect(open).toBe(0);
    expect(second.output()).toContain('taking over');
    expect(second.output()).toContain('forwarding state restored');
    expect([isAlive(engine), isAlive(control)]).toEqual([false, false]);
    expect((await status()).generation).toBeGreaterThan(before.generation!);

    second.child.kill('SIGINT');
    expect(await second.exited).toBe(0);
    expect([xdpOf('eth1'), xdpOf('eth2')]).toEqual([undefined, undefined]);
    expect(ip('-br', 'address', 'show')).not.toMatch(/203\.0\.113\.4|10\.0\.1\.4|sluice0/);
    expect(readdirSync(paths.dir)).toEqual(['state']); // configuration and history are meant to be found again
    expect(readFileSync('/proc/mounts', 'utf8')).not.toContain(base);
  });

  test('Ctrl-C in a terminal reaches the whole group; everything still ends in order', async () => {
    const up = start();
    await ready(up);
    process.kill(-up.child.pid!, 'SIGINT');
    expect(await up.exited).toBe(0);
    expect(up.output()).toContain('nothing is left');
    expect(up.output()).not.toMatch(/starting it again|killing/);
    expect(xdpOf('eth1')).toBeUndefined();
  });

  test('the directory of an appliance in another network namespace is refused', async () => {
    const up = start();
    await ready(up);
    process.kill(up.child.pid!, 'SIGKILL');
    await up.exited;
    const other = `${namespace}-b`;
    execFileSync('ip', ['netns', 'add', other]);
    onTestFinished(() => void execFileSync('ip', ['netns', 'delete', other]));
    for (const device of ['eth1', 'eth2']) execFileSync('ip', ['-n', other, 'link', 'add', device, 'type', 'veth', 'peer', 'name', `far-${device}`]);
    const stranger = start(other);
    expect(await stranger.exited).toBe(1);
    expect(stranger.output()).toContain('another network namespace');
    const heir = start();
    await ready(heir);
    heir.child.kill('SIGTERM');
    expect(await heir.exited).toBe(0);
  });

  test('an engine that cannot start ends `up` soon, with its reason and nothing left', async () => {
    ip('link', 'add', 'sluice0', 'type', 'veth', 'peer', 'name', 'far-host'); // the name of the engine's own device is taken
    onTestFinished(() => void ip('link', 'delete', 'sluice0'));
    const up = start();
    expect(await up.exited).toBe(1);
    expect(up.output()).toMatch(/engine cannot start.*sluice0/);
    expect(xdpOf('eth1')).toBeUndefined();
    expect(ip('-br', 'address', 'show')).not.toContain('203.0.113.4');
  });
});
