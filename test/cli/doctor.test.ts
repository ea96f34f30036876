// `sluice doctor`: facts that are given and what it says of them, case by case; then the program on this machine, with and without rights.
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { formatReport } from '../../src/cli/commands/doctor.js';
import type { Config } from '../../src/config/schema.js';
import { findMissing, type StatusView } from '../../src/control/status.js';
import { examine, type Report } from '../../src/doctor/checks.js';
import { parseFeatures, parseMaxQueues, parseSockets, type DoctorFacts, type PathFacts } from '../../src/doctor/facts.js';
import { Unknown, type Level } from '../../src/doctor/finding.js';
import { CONFIG, startBench } from '../control/bench.js';
import { makeFacts, makeRunDirectory } from '../engine/fake-addon.js';

const GIB = 1024 ** 3;
const config: Config = {
  version: 1,
  interfaces: { untrust: { device: 'eth1', zone: 'untrust', addresses: ['203.0.113.4/24'] }, trust: { device: 'eth2', zone: 'trust', addresses: ['10.0.1.4/24'] } },
};
const directory = (path: string): PathFacts => ({ path, exists: true, writable: true, openToOthers: false, freeBytes: 10 * GIB, freeFiles: 1e6 });
const FEATURES = { 'large-receive-offload': { on: false, fixed: true }, 'rx-gro-hw': { on: false, fixed: true }, 'rx-vlan-offload': { on: false, fixed: false } };

/** A machine on which nothing is wrong. */
function goodFacts(): DoctorFacts {
  const host = makeFacts();
  for (const device of host.devices) Object.assign(device, { driver: 'mlx5_core', kind: '', queues: 4 });
  return {
    isRoot: true, node: '20.19.0', kernel: '6.1.0-18-amd64', processors: 4, tools: { ip: true, nft: true }, build: { addon: true, bpfObject: true },
    btf: true, bpfFilesystem: true, xdpSockets: true, tun: true, jit: '1', lockdown: 'none', capabilities: (1n << 41n) - 1n, memlockBytes: 8 * 1024 ** 2,
    memory: { totalBytes: 8 * GIB, availableBytes: 6 * GIB, transparentHugePages: 'madvise' },
    config: { file: 'nva.yaml', problems: [], config }, host, firewallSeen: true, features: { eth1: FEATURES, eth2: FEATURES }, maxQueues: { eth1: 8, eth2: 8 },
    clock: { isSynchronised: true, source: 'chrony' }, dns: [{ server: '192.0.2.53', answer: 'answers' }], listeners: [{ protocol: 'tcp', address: '127.0.0.1', port: 25 }],
    run: directory('/run/sluice'), state: directory('/var/lib/sluice'), control: { user: 'sluice', isAccount: true }, appliance: 'not running',
  };
}

const running = (over: Partial<StatusView> = {}): StatusView => ({
  version: '1', hostname: null, directory: '/run/sluice', ready: true, missing: [], generation: 3, appliedAt: null, applyMicroseconds: null, uptimeSeconds: 1,
  processes: [{ role: 'engine', pid: 2, state: 'running', uptimeSeconds: 1 }],
  interfaces: [{ name: 'untrust', kind: 'port', device: 'eth1', zone: 'untrust', vlanId: null, addresses: [], mtuBytes: 1500, link: 'up', driver: 'mlx5_core', queues: 4, xdpMode: 'native', steering: null }],
  tunnels: [], rules: 0, sessions: { total: 1, max: 1000, byState: {} }, natMappings: 0, fragments: 0, buffers: { free: 900, total: 1000 }, workers: 4, packets: null, bytes: null, drops: {},
  failure: null, problems: [], obstacles: [], warnings: [], ...over,
});

function reportOf(change: (facts: DoctorFacts) => void): Report {
  const facts = goodFacts();
  change(facts);
  return examine(facts);
}
const bad = ({ findings }: Report): [string, Level][] => findings.filter((one) => one.level === 'warn' || one.level === 'fail').map((one) => [one.check, one.level]);
const devices = (facts: DoctorFacts) => (facts.host as ReturnType<typeof makeFacts>).devices;

describe('findings', () => {
  test('a good machine: nothing to do', () => {
    const report = reportOf(() => undefined);
    expect(bad(report)).toEqual([]);
    expect(report.counts).toMatchObject({ warn: 0, fail: 0 });
    expect(formatReport(report, false)).toContain('0 warnings, 0 failures');
  });

  const cases: [string, (facts: DoctorFacts) => void, [string, Level][]][] = [
    ['an old kernel', (facts) => { facts.kernel = '5.15.0'; }, [['kernel.version', 'fail']]],
    ['a kernel that nobody tests', (facts) => { facts.kernel = '5.19.7-generic'; }, [['kernel.version', 'warn']]],
    ['no AF_XDP', (facts) => { facts.xdpSockets = false; }, [['kernel.af-xdp', 'fail']]],
    ['no BPF', (facts) => { facts.bpfFilesystem = false; }, [['kernel.bpf', 'fail']]],
    ['no BTF', (facts) => { facts.btf = false; }, [['kernel.btf', 'warn']]],
    ['no compiler of BPF', (facts) => { facts.jit = '0'; }, [['kernel.bpf-jit', 'warn']]],
    ['no TUN', (facts) => { facts.tun = false; }, [['kernel.tun', 'fail']]],
    ['a kernel under lock', (facts) => { facts.lockdown = 'confidentiality'; }, [['kernel.lockdown', 'warn']]],
    ['root in a container', (facts) => { facts.capabilities = 0n; }, [['rights.capabilities', 'fail'], ['rights.memlock', 'warn']]],
    ['no account', (facts) => { facts.control = { user: '62753', isAccount: false }; }, [['rights.control', 'warn']]],
    ['a directory that control cannot enter', (facts) => { facts.control = { user: 'sluice', isAccount: true, barrier: '/root' }; }, [['rights.control', 'warn']]],
    ['little memory', (facts) => { facts.memory.availableBytes = 300 * 1024 ** 2; }, [['memory.available', 'warn']]],
    ['more sessions than memory', (facts) => { facts.config = { file: 'f', problems: [], config: { ...config, limits: { sessions: 67_108_864 } } }; }, [['memory.available', 'fail']]],
    ['no huge pages', (facts) => { facts.memory.transparentHugePages = 'never'; }, [['memory.huge-pages', 'warn']]],
    ['too many workers', (facts) => { facts.config = { file: 'f', problems: [], config: { ...config, engine: { workers: 9 } } }; }, [['cpu.workers', 'warn']]],
    ['a clock of its own', (facts) => { facts.clock = { isSynchronised: false, source: 'chrony' }; }, [['clock.synchronised', 'warn']]],
    ['a silent name server', (facts) => { facts.dns = [{ server: '192.0.2.53', answer: 'silent' }, { server: '192.0.2.54', answer: 'answers' }]; }, [['dns.servers', 'warn']]],
    ['no name server', (facts) => { facts.dns = []; }, [['dns.servers', 'warn']]],
    ['a full disk', (facts) => { facts.state.freeBytes = 1e6; }, [['directory.space', 'fail']]],
    ['an almost full disk', (facts) => { facts.state.freeBytes = 1e8; }, [['directory.space', 'warn']]],
    ['no room for files', (facts) => { facts.state.freeFiles = 10; }, [['directory.files', 'warn']]],
    ['a disk for reading only', (facts) => { facts.state.writable = false; }, [['directory.state', 'fail']]],
    ['a directory for everybody', (facts) => { facts.run.openToOthers = true; }, [['directory.run', 'fail']]],
    ['nothing built', (facts) => { facts.build.addon = false; }, [['installation.build', 'fail']]],
    ['a tool that is missing', (facts) => { facts.tools['nft'] = false; }, [['installation.tools', 'fail']]],
    ['a bad configuration', (facts) => { facts.config = { file: 'f', problems: [{ file: 'f', line: 3, column: 1, path: 'x', code: 'SLUICE_CONFIG_SYNTAX', severity: 'error', message: 'm', remedy: 'r' }], config }; }, [['configuration', 'fail']]],
    ['a device without XDP', (facts) => { devices(facts)[0]!.driver = 'r8169'; }, [['device.driver', 'warn']]],
    ['unused queues', (facts) => { devices(facts)[1]!.queues = 1; }, [['device.queues', 'warn']]],
    ['LRO for good', (facts) => { facts.features['eth1'] = { ...FEATURES, 'large-receive-offload': { on: true, fixed: true } }; }, [['device.lro', 'fail']]],
    ['LRO', (facts) => { facts.features['eth1'] = { ...FEATURES, 'large-receive-offload': { on: true, fixed: false } }; }, []],
    ['GRO in hardware', (facts) => { facts.features['eth1'] = { ...FEATURES, 'rx-gro-hw': { on: true, fixed: false } }; }, [['device.gro-hw', 'warn']]],
    ['tags taken off, and nobody uses tags', (facts) => { facts.features['eth1'] = { ...FEATURES, 'rx-vlan-offload': { on: true, fixed: false } }; }, [['device.vlan-offload', 'warn']]],
    ['tags taken off that are needed', (facts) => {
      facts.features['eth1'] = { ...FEATURES, 'rx-vlan-offload': { on: true, fixed: false } };
      facts.config = { file: 'f', problems: [], config: { version: 1, interfaces: { ...config.interfaces, guests: { device: 'eth1', zone: 'guests', vlan: 20, addresses: ['10.9.0.1/24'] } } } };
    }, [['device.vlan-offload', 'fail']]],
    ['no carrier', (facts) => { (facts.host as ReturnType<typeof makeFacts>).carriers = ['eth1']; }, [['device.link', 'warn']]],
    ['a foreign program', (facts) => { (facts.host as ReturnType<typeof makeFacts>).xdp = [{ device: 'eth1', programs: ['alien'], mode: 'native' }]; }, [['foreign.xdp', 'fail']]],
    ['our own program', (facts) => {
      (facts.host as ReturnType<typeof makeFacts>).xdp = [{ device: 'eth1', programs: ['steer'], mode: 'native' }];
      facts.appliance = running();
    }, []],
    ['a firewall of others', (facts) => { (facts.host as ReturnType<typeof makeFacts>).conflicts = [{ kind: 'nftables-forward', name: 'inet filter forward' }]; }, [['foreign.firewall', 'fail']]],
    ['a kernel that forwards', (facts) => { (facts.host as ReturnType<typeof makeFacts>).ipv6ForwardingAll = true; }, [['foreign.forwarding', 'fail']]],
    ['a port that is taken', (facts) => {
      facts.config = { file: 'f', problems: [], config: { ...config, api: { listen: '127.0.0.1:8443' } } as Config };
      facts.listeners = [{ protocol: 'tcp', address: '127.0.0.1', port: 8443 }];
    }, [['ports.api', 'fail']]],
    ['a tunnel\'s port that is taken', (facts) => {
      facts.config = { file: 'f', problems: [], config: { ...config, wireguard: { wg0: { zone: 'mesh', listen: 51821 } } } as Config };
      facts.listeners = [{ protocol: 'udp', address: '0.0.0.0', port: 51821 }];
    }, [['ports.wireguard', 'fail']]],
    ['a tunnel\'s port that is the engine\'s own', (facts) => {
      facts.config = { file: 'f', problems: [], config: { ...config, wireguard: { wg0: { zone: 'mesh', listen: 51821 } } } as Config };
      facts.listeners = [{ protocol: 'udp', address: '0.0.0.0', port: 51821 }];
      facts.appliance = running();
    }, []],
    ['a service for everybody', (facts) => { facts.listeners = [{ protocol: 'tcp', address: '0.0.0.0', port: 22 }, { protocol: 'tcp', address: '::', port: 22 }]; }, [['ports.exposed', 'warn']]],
    ['an appliance that is not ready', (facts) => { facts.appliance = running({ ready: false, missing: ['no XDP program on eth1'] }); }, [['appliance.ready', 'fail']]],
    ['an engine that is away', (facts) => { facts.appliance = running({ processes: [{ role: 'engine', pid: null, state: 'away', uptimeSeconds: null }] }); }, [['appliance.processes', 'fail']]],
    ['XDP in the slow way', (facts) => { facts.appliance = running({ interfaces: [{ ...running().interfaces[0]!, xdpMode: 'generic' }] }); }, [['appliance.xdp-mode', 'warn']]],
    ['tables that fill', (facts) => { facts.appliance = running({ sessions: { total: 950, max: 1000, byState: {} }, buffers: { free: 5, total: 1000 }, warnings: ['careful'] }); },
      [['appliance.warning', 'warn'], ['appliance.sessions', 'warn'], ['appliance.buffers', 'warn']]],
  ];
  test.each(cases)('%s', (_, change, expected) => {
    const report = reportOf(change);
    expect(bad(report)).toEqual(expected);
    for (const finding of report.findings.filter((one) => one.level === 'warn' || one.level === 'fail')) {
      expect(finding.meaning, finding.check).toBeTruthy();
      expect(finding.remedy, finding.check).toBeTruthy();
    }
    const text = formatReport(report, true);
    for (const [check] of expected) expect(text).toContain(check);
  });

  test('what cannot be looked at is said, and is no failure', () => {
    const unknown = new Unknown('no rights');
    const report = reportOf((facts) => {
      Object.assign(facts, { isRoot: false, firewallSeen: false, host: unknown, clock: unknown, dns: unknown, listeners: unknown, control: unknown, config: unknown, appliance: unknown, capabilities: unknown, jit: unknown });
      facts.state.writable = false;
    });
    expect(bad(report)).toEqual([]);
    expect(report.findings.filter((one) => one.level === 'skipped').map((one) => one.check)).toEqual([
      'kernel.bpf-jit', 'rights.capabilities', 'rights.memlock', 'rights.control', 'directory.state', 'clock.synchronised', 'dns.servers', 'configuration', 'device', 'ports', 'appliance',
    ]);
    expect(formatReport(report, false)).toContain('no rights');
  });
});

describe('reading', () => {
  test('features of a device', () => {
    expect(parseFeatures('Features for eth0:\nrx-checksumming: on\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\nlarge-receive-offload: off [fixed]\n')).toEqual({
      'rx-checksumming': { on: true, fixed: false }, 'tx-checksumming': { on: true, fixed: false }, 'tx-checksum-ipv4': { on: false, fixed: true }, 'large-receive-offload': { on: false, fixed: true },
    });
  });
  test('queues of a device', () => {
    expect(parseMaxQueues('Channel parameters for eth0:\nPre-set maximums:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t8\nCurrent hardware settings:\nRX:\t\tn/a\nCombined:\t2\n')).toBe(8);
  });
  test('sockets that listen', () => {
    const text = `  sl  local_address rem_address   st tx_queue
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:0016 0100007F:C350 01 00000000:00000000
`;
    expect(parseSockets(text, 'tcp')).toEqual([{ protocol: 'tcp', address: '127.0.0.1', port: 8080 }]);
    expect(parseSockets('h\n 0: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07\n', 'udp')).toEqual([{ protocol: 'udp', address: '::', port: 53 }]);
    expect(parseSockets('h\n 0: B80D0120000000000000000001000000:0035 0:0 07\n', 'udp')).toEqual([{ protocol: 'udp', address: '2001:db8:0:0:0:0:0:1', port: 53 }]);
  });
});

describe('the program', () => {
  /** Not spawnSync: where control runs in this process, it has to answer meanwhile. */
  function run(args: string[], prefix: string[] = []): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const [program = '', ...rest] = [...prefix, process.execPath, 'bin/sluice', 'doctor', ...args];
    const child = spawn(program, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => { stdout += data.toString(); });
    child.stderr.on('data', (data: Buffer) => { stderr += data.toString(); });
    return new Promise((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })));
  }

  function configFile(text = CONFIG.replaceAll('eth1', 'nothere1').replaceAll('eth2', 'nothere2')): string {
    const base = mkdtempSync(join(tmpdir(), 'sluice-doctor-'));
    onTestFinished(() => rmSync(base, { recursive: true, force: true }));
    chmodSync(base, 0o755);
    writeFileSync(join(base, 'nva.yaml'), text);
    return join(base, 'nva.yaml');
  }

  test('a configuration whose devices are missing here: fails, names them, and judges all else', async () => {
    const { code, stdout, stderr } = await run(['--json', '--dir', '/tmp/sluice-nobody-is-here', '--config', configFile()]);
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' });
    const report = JSON.parse(stdout) as Report & { healthy: boolean };
    expect(report.healthy).toBe(false);
    expect(report.findings.filter((one) => one.check === 'configuration' && one.level === 'fail').map((one) => one.detail).join()).toMatch(/nothere1.*nothere2/);
    expect(new Set(report.findings.map((one) => one.section)).size).toBe(10);
    expect(report.findings).toContainEqual(expect.objectContaining({ check: 'appliance', level: 'skipped' }));
    expect(report.findings).toContainEqual(expect.objectContaining({ check: 'kernel.version', level: 'ok' }));
  });

  test('without an appliance and without a configuration', async () => {
    const { stdout, stderr } = await run(['--dir', '/tmp/sluice-nobody-is-here']);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/\d+ good, \d+ warnings?, \d+ failures?/);
    expect(stdout).toContain('no appliance runs in /tmp/sluice-nobody-is-here');
  });

  test('with an appliance that runs', async () => {
    const bench = await startBench();
    await bench.api.listen({ path: bench.paths.apiSocket });
    await expect.poll(() => findMissing(bench.control)).toEqual([]);
    const report = JSON.parse((await run(['--json', '--dir', bench.paths.dir])).stdout) as Report;
    expect(report.findings).toContainEqual(expect.objectContaining({ check: 'appliance.ready', level: 'ok', detail: 'ready, generation 1' }));
  });

  test('an unreadable configuration', async () => {
    const { code, stdout } = await run(['--dir', makeRunDirectory().dir, '--config', '/nothing/here.yaml']);
    expect(code).toBe(1);
    expect(stdout).toContain('/nothing/here.yaml');
  });

  const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all', '--'];
  const mayRead = process.getuid?.() === 0 && spawnSync(nobody[0]!, [...nobody.slice(1), process.execPath, '--check', 'bin/sluice']).status === 0;
  test.skipIf(!mayRead)('without rights: what it could not look at', async () => {
    const { code, stdout, stderr } = await run(['--json', '--dir', '/tmp/sluice-nobody-is-here'], nobody);
    const report = JSON.parse(stdout) as Report & { healthy: boolean };
    expect({ code, stderr }).toEqual({ code: report.healthy ? 0 : 1, stderr: '' });
    const skipped = report.findings.filter((one) => one.level === 'skipped').map((one) => one.check);
    expect(skipped).toEqual(expect.arrayContaining(['rights.capabilities', 'rights.control', 'configuration', 'appliance']));
  });
});
