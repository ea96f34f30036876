// The units and the installer: what systemd itself says of them, and the appliance under a real systemd with the real sandbox. Booted in
// namespaces over a copy-on-write view of this machine (boot-systemd.sh), so that the installer may install for real.
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';

const UNITS = ['sluice.service', 'run-sluice-bpf.mount'];
const EXPOSURE_MAX = 3.7; // of systemd-analyze's 10: 3.6 when this was written, 9.6 without a sandbox
const hasSystemd = existsSync('/lib/systemd/systemd') && spawnSync('systemd-analyze', ['--version']).status === 0;
const isRoot = process.getuid?.() === 0;
const cgroupMount = readFileSync('/proc/mounts', 'utf8').split('\n').map((line) => line.split(' ')).find((fields) => fields[2] === 'cgroup2')?.[1];
const canBoot = hasSystemd && isRoot && cgroupMount !== undefined && existsSync('build/native/sluice.node');
if (!hasSystemd) console.warn('SKIPPED: systemd is not installed here, so nothing of packaging/systemd is tested (apt-get install systemd)');
else if (!canBoot) console.warn('SKIPPED: booting a systemd needs root, cgroup 2 and a built engine; the units are only verified, not run');

const installer = (...args: string[]) => spawnSync('bash', ['packaging/install.sh', ...args], { encoding: 'utf8' });

function temporary(prefix: string): string {
  const directory = mkdtempSync(join(tmpdir(), prefix));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

describe('the installer', () => {
  test('--help, and wrong usage', () => {
    expect(installer('--help')).toMatchObject({ status: 0, stdout: expect.stringContaining('Usage:') as string });
    expect(installer('--colour')).toMatchObject({ status: 2, stderr: expect.stringContaining('--colour') as string });
    const root = temporary('sluice-install-');
    mkdirSync(join(root, 'opt/other/things'), { recursive: true });
    for (const prefix of ['/', '//', '/usr', '/opt/', '/usr/local', '/opt/../root/sluice', '/root/sluice', 'relative', '/opt/other']) {
      for (const action of ['install', 'uninstall']) expect(installer(action, '--prefix', prefix, '--root', root), `${action} ${prefix}`).toMatchObject({ status: 1, stdout: '' });
    }
    expect(readdirSync(root)).toEqual(['opt']);
  });

  test.skipIf(!existsSync('build/native/sluice.node'))('below a root: whole, the same a second time, gone afterwards', () => {
    const root = temporary('sluice-install-');
    expect(installer('--root', root, '--prefix', '/opt/nva')).toMatchObject({ status: 0, stderr: '' });
    const unit = readFileSync(join(root, 'etc/systemd/system/sluice.service'), 'utf8');
    expect(unit).not.toMatch(/@(NODE|PREFIX)@/);
    expect(unit).toMatch(/^ExecStart=\/\S*node \/opt\/nva\/bin\/sluice up --config \/etc\/sluice\/sluice\.yaml/m);
    for (const file of ['usr/share/bash-completion/completions/sluice', 'usr/share/zsh/vendor-completions/_sluice', 'etc/sysusers.d/sluice.conf', 'etc/tmpfiles.d/sluice.conf', 'etc/sluice/sluice.yaml.example']) {
      expect(statSync(join(root, file)).size, file).toBeGreaterThan(0);
    }
    expect(spawnSync('bash', ['-n', join(root, 'usr/share/bash-completion/completions/sluice')]).status).toBe(0);
    // It runs from there, with nothing of the checkout: packages of the run time are whole, those of development are left out.
    expect(execFileSync(process.execPath, [join(root, 'opt/nva/bin/sluice'), 'check', resolve('lab/config.yaml')], { cwd: root, encoding: 'utf8' })).toContain('good');
    expect(existsSync(join(root, 'opt/nva/node_modules/vitest'))).toBe(false);
    writeFileSync(join(root, 'etc/sluice/sluice.yaml'), 'version: 1\n');
    const again = installer('--root', root, '--prefix', '/opt/nva', '--json');
    expect(JSON.parse(again.stdout)).toEqual({ action: 'install', done: ['put in place: /opt/nva', 'then: systemctl enable --now sluice'] });
    expect(installer('uninstall', '--root', root, '--prefix', '/opt/nva').status).toBe(0);
    expect(execFileSync('find', [root, '-type', 'f'], { encoding: 'utf8' }).trim()).toBe(join(root, 'etc/sluice/sluice.yaml'));
    expect(installer('uninstall', '--root', root, '--prefix', '/opt/nva', '--purge').status).toBe(0);
    expect(execFileSync('find', [root, '-type', 'f'], { encoding: 'utf8' }).trim()).toBe('');
  });
});

describe.skipIf(!hasSystemd)('what systemd says', () => {
  /** The units as the installer renders them. */
  function units(): string {
    const directory = temporary('sluice-units-');
    for (const name of UNITS) writeFileSync(join(directory, name), readFileSync(join('packaging/systemd', name), 'utf8').replaceAll('@NODE@', process.execPath).replaceAll('@PREFIX@', resolve('.')));
    return directory;
  }

  test('of their form', () => {
    const directory = units();
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...UNITS.map((name) => join(directory, name))], { encoding: 'utf8' });
    expect({ status, stdout, stderr: stderr.split('\n').filter((line) => line.includes('sluice')) }).toEqual({ status: 0, stdout: '', stderr: [] });
  });

  test('of the sandbox', () => {
    const { status, stdout } = spawnSync('systemd-analyze', ['security', '--offline=yes', '--no-pager', `--threshold=${EXPOSURE_MAX * 10}`, join(units(), 'sluice.service')], { encoding: 'utf8' });
    expect(status, stdout.slice(-200)).toBe(0);
    expect(Number(/exposure level for sluice\.service: ([\d.]+)/.exec(stdout)?.[1])).toBeLessThanOrEqual(EXPOSURE_MAX);
  });

  test('of users and directories', () => {
    const root = temporary('sluice-root-');
    mkdirSync(join(root, 'etc'));
    execFileSync('systemd-sysusers', [`--root=${root}`, resolve('packaging/systemd/sluice.sysusers.conf')], { stdio: 'pipe' });
    expect(readFileSync(join(root, 'etc/passwd'), 'utf8')).toMatch(/^sluice:.*\/usr\/sbin\/nologin$/m);
    if (!isRoot) return;
    execFileSync('systemd-tmpfiles', [`--root=${root}`, '--create', resolve('packaging/systemd/sluice.tmpfiles.conf')], { stdio: 'pipe' });
    expect((statSync(join(root, 'run/sluice/bpf')).mode & 0o777).toString(8)).toBe('700');
  });
});

const CONFIG = `version: 1
interfaces:
  outside: { device: eth1, zone: outside, addresses: [203.0.113.4/24] }
  inside: { device: eth2, zone: inside, addresses: [10.0.1.4/24] }
firewall:
  rules:
    - { name: ping, from: [inside], to: [outside], service: [icmp/echo-request], action: allow }
nat:
  source:
    - { name: egress, from: [inside], to: [outside], translate: { interface: true } }
engine: { workers: 1, framesPerWorker: 4096 }
limits: { sessions: 1024 }
`;

describe.skipIf(!canBoot)('under a real systemd', () => {
  const base = mkdtempSync(join(tmpdir(), 'sluice-boot-'));
  const cgroup = join(cgroupMount ?? '/', `sluice-test-${process.pid}`);
  let boot: ChildProcess;
  let init = 0;
  /** Runs a script in the booted machine, which has a /tmp of its own. */
  const inside = (script: string): string => execFileSync('nsenter', ['--target', String(init), '--mount', '--pid', '--net', '--ipc', '--uts', '--', 'bash', '-euc', script], { encoding: 'utf8', stdio: 'pipe', timeout: 110_000, env: { ...process.env, TMPDIR: '/tmp' } });
  const mainPid = (): string => inside('systemctl show sluice --property=MainPID --value').trim();
  const roles = (): Record<string, string> => Object.fromEntries(['supervisor', 'engine', 'control'].map((role) => [role, String((JSON.parse(inside(`cat /run/sluice/${role}.pid`)) as { pid: number }).pid)]));
  const xdp = (): string => (JSON.parse(inside('ip -j link show')) as { ifname: string; xdp?: unknown }[]).filter((one) => one.xdp).map((one) => one.ifname).sort().join();
  const journal = (): string => inside('journalctl --unit=sluice --no-pager --output=cat');

  beforeAll(async () => {
    boot = spawn('bash', ['test/packaging/boot-systemd.sh', resolve('.'), base, cgroup], { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [boot.stdout!, boot.stderr!]) stream.on('data', (data: Buffer) => { said += data.toString(); });
    await vi.waitFor(() => {
      if (boot.exitCode !== null) throw new Error(`no systemd could be booted: ${said}`);
      const child = readFileSync(`/proc/${boot.pid}/task/${boot.pid}/children`, 'utf8').trim();
      if (child !== '') init = Number(child);
      expect(readFileSync(`/proc/${child}/comm`, 'utf8').trim()).toBe('systemd');
      expect(spawnSync('nsenter', ['--target', child, '--mount', '--pid', '--', 'systemctl', 'is-system-running'], { encoding: 'utf8' }).stdout.trim()).toMatch(/running|degraded/);
    }, { timeout: 150_000, interval: 100 });
    inside(`cd '${resolve('.')}' && packaging/install.sh
for n in 1 2; do ip netns add far$n; ip link set far$n netns far$n; ip -n far$n link set far$n up; done
ip -n far1 address add 203.0.113.1/24 dev far1
ip -n far2 address add 10.0.1.10/24 dev far2; ip -n far2 route add default via 10.0.1.4
cat >/etc/sluice/sluice.yaml <<'X'
${CONFIG}X
systemctl start sluice`);
  });

  afterAll(async () => {
    if (init > 0) process.kill(init, 'SIGKILL'); // and with it all that runs there
    else boot.kill('SIGKILL');
    await new Promise((done) => (boot.exitCode !== null || boot.signalCode !== null ? done(undefined) : boot.once('exit', done)));
    rmSync(base, { recursive: true, force: true });
    const groups = (directory: string): string[] => [...readdirSync(directory, { withFileTypes: true }).filter((one) => one.isDirectory()).flatMap((one) => groups(join(directory, one.name))), directory];
    // Its processes may still be ending.
    await vi.waitFor(() => groups(cgroup).forEach((group) => rmdirSync(group)), { timeout: 60_000, interval: 50 });
  });

  test('it starts, forwards and translates with these rights and no others', () => {
    expect(inside('ip netns exec far2 ping -c 3 -i 0.2 -W 5 203.0.113.1')).toContain(' 0% packet loss');
    const pids = roles();
    expect(pids['supervisor']).toBe(mainPid());
    const status = (role: string): string => inside(`cat /proc/${pids[role]}/status`);
    const member = (role: string, name: string): string => new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(status(role))![1]!;
    const capabilities = (...bits: number[]): string => bits.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n).toString(16).padStart(16, '0');
    const engine = [12, 13, 14, 38, 39]; // NET_ADMIN NET_RAW IPC_LOCK PERFMON BPF
    const all = capabilities(...engine, 0, 1, 3, 5, 6, 7, 8); // CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETUID SETPCAP
    expect(['CapBnd', 'CapEff'].map((name) => member('supervisor', name))).toEqual([all, all]);
    expect(['CapBnd', 'CapEff'].map((name) => member('engine', name))).toEqual([capabilities(...engine), capabilities(...engine)]);
    const niceness = (role: string): string | undefined => /^Max nice priority\s+(\d+)/m.exec(inside(`cat /proc/${pids[role]}/limits`))?.[1];
    // 20 + 5: its workers go first. A systemd that may not raise limits itself (a container's) leaves them, and the engine goes on without.
    const CAP_SYS_RESOURCE = 24n;
    const raisesLimits = (BigInt(`0x${/^CapEff:\s*(\S+)/m.exec(inside('cat /proc/1/status'))![1]!}`) >> CAP_SYS_RESOURCE) & 1n;
    expect(inside('systemctl show sluice --property=LimitNICE --value').trim()).toBe('25');
    expect([niceness('engine'), niceness('control')]).toEqual([raisesLimits ? '25' : '0', '0']);
    expect(journal().includes('engine runs at the priority of the others')).toBe(!raisesLimits);
    expect([member('control', 'CapEff'), member('control', 'Uid')]).toEqual([capabilities(), inside('id -u sluice').trim()]);
    for (const role of ['supervisor', 'engine', 'control']) expect([member(role, 'NoNewPrivs'), member(role, 'Seccomp')], role).toEqual(['1', '2']);
    const mounts = inside(`cat /proc/${mainPid()}/mountinfo`).split('\n').map((line) => line.split(' '));
    const isWritable = (path: string): boolean => mounts.filter((fields) => fields[4] === path).at(-1)![5]!.split(',').includes('rw');
    expect([isWritable('/'), isWritable('/proc/sys'), isWritable('/proc/sys/net'), isWritable('/run/sluice'), isWritable('/var/lib/sluice')]).toEqual([false, false, true, true, true]);
    expect(inside('id -nG sluice').trim()).toBe('sluice');
    expect(journal().replaceAll(/^.*engine runs at the priority of the others.*$/gm, '')).not.toMatch(/permission denied|not permitted|EPERM|EACCES/i);
  });

  test('reload; a killed engine; a killed supervisor: the programs stay attached, and it forwards again', async () => {
    const before = roles();
    inside('systemctl reload sluice');
    expect(mainPid()).toBe(before['supervisor']);
    inside(`kill -KILL ${before['engine']}`);
    expect(xdp()).toBe('eth1,eth2');
    inside('sluice status --wait 40');
    inside(`kill -KILL ${before['supervisor']}`);
    expect(xdp()).toBe('eth1,eth2');
    await expect.poll(() => mainPid()).not.toMatch(new RegExp(`^(0|${before['supervisor']})$`));
    inside('sluice status --wait 40');
    expect(xdp()).toBe('eth1,eth2');
    expect(inside('ip netns exec far2 ping -c 3 -i 0.2 -W 5 203.0.113.1')).toContain(' 0% packet loss');
    expect(journal()).toContain('taking over');
  });

  test('stop leaves nothing but state; uninstall not even the program', () => {
    inside('systemctl stop sluice');
    expect(inside('systemctl show sluice --property=Result --value').trim()).toBe('success');
    expect(xdp()).toBe('');
    expect(inside('ip -br address show dev eth1; ip -br address show dev eth2')).not.toMatch(/203\.0\.113\.4|10\.0\.1\.4/);
    expect(inside('ls /run/sluice/bpf | grep -v debug || true').trim()).toBe('');
    inside(`cd '${resolve('.')}' && packaging/install.sh uninstall`);
    expect(inside('ls /opt/sluice /run/sluice /etc/systemd/system/sluice.service 2>/dev/null || true').trim()).toBe('');
    expect(inside('ls /etc/sluice; ls -d /var/lib/sluice').trim().split('\n')).toEqual(['sluice.yaml', '/var/lib/sluice']);
  });
});
