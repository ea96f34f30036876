// The command line as users call it: a process of its own against a real control. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
import { spawn } from 'node:child_process';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { Counter, DropReason, SL_COUNTER_COUNT } from '../../src/engine/abi.generated.js';
import { mergeFlows } from '../../src/cli/commands/records.js';
import { ExitCode, CliError, failureJson, failureOf, failureText, formatBytes, formatDuration, formatTable } from '../../src/cli/output.js';
import { COMMAND_NAMES } from '../../src/cli/program.js';
import { identify, writePidFile } from '../../src/supervisor/pid-file.js';
import { findMissing } from '../../src/control/status.js';
import type { FlowRecordView } from '../../src/engine/records.js';
import { makeRunDirectory } from '../engine/fake-addon.js';
import { CONFIG, makeDrop, makeFlow, startBench, type ControlBench } from '../control/bench.js';

interface Outcome { code: number | null; stdout: string; stderr: string }
interface Running { outcome: Promise<Outcome>; stdout(): string; kill(): void }

function start(args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
  const child = spawn(process.execPath, ['bin/sluice', ...args], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data: Buffer) => { stdout += data.toString(); });
  child.stderr.on('data', (data: Buffer) => { stderr += data.toString(); });
  const outcome = new Promise<Outcome>((resolve) => child.once('close', (code) => resolve({ code, stdout, stderr })));
  onTestFinished(() => void child.kill('SIGKILL'));
  return { outcome, stdout: () => stdout, kill: () => void child.kill('SIGINT') };
}

const sluice = (...args: string[]): Promise<Outcome> => start(args).outcome;

async function startListening(config?: string): Promise<ControlBench> {
  const bench = await startBench(config);
  await bench.api.listen({ path: bench.paths.apiSocket });
  writePidFile(bench.paths.supervisorPid, identify(process.ppid, 'supervisor', 'node')!); // our parent plays it
  await expect.poll(() => findMissing(bench.control)).toEqual([]);
  return bench;
}

describe('without an appliance', () => {
  let dir = '';
  beforeAll(() => { dir = '/tmp/sluice-nobody-is-here'; });

  test.each(['status', 'flows', 'drops', 'observe', 'rules'])('%s says so, and what to do', async (command) => {
    expect(await sluice(command, '--dir', dir)).toEqual({ code: 1, stdout: '', stderr: `error: no appliance runs in ${dir}\n    start one with \`sluice up --config FILE --dir ${dir}\`, or name its directory with --dir\n` });
  });

  test('status --wait gives up when its time is over', async () => {
    expect(await sluice('status', '--wait', '0.3', '--dir', dir)).toMatchObject({ code: 1, stderr: expect.stringContaining('no appliance runs') as string });
  });

  test('SLUICE_DIR names the directory', async () => {
    expect(await start(['status'], { SLUICE_DIR: dir }).outcome).toMatchObject({ code: 1, stderr: expect.stringContaining(dir) as string });
  });

  test('a socket that nobody answers on is no appliance', async () => {
    const paths = makeRunDirectory();
    writeFileSync(paths.apiSocket, '');
    chmodSync(paths.apiSocket, 0o600);
    expect(await sluice('status', '--dir', paths.dir)).toMatchObject({ code: 1, stderr: expect.stringContaining('no appliance runs') as string });
  });
});

describe('usage', () => {
  test.each([
    [['--help']], [['--version']], [['up', '--help']], [['check', '--help']], [['status', '--help']], [['flows', '--help']], [['drops', '--help']], [['observe', '--help']], [['simulate', '--help']], [['rules', '--help']],
  ])('%j is answered', async (args) => {
    const { code, stdout } = await sluice(...args);
    expect(code).toBe(0);
    expect(stdout).not.toBe('');
  });

  test.each([
    [[]], [['fly']], [['status', '--colour']], [['status', '--wait', 'soon']], [['check']], [['up']], [['flows', '--limit', '0']], [['flows', '--port', '70000']], [['drops', '--reason', 'mood']], [['observe', '--verdict', 'maybe']],
    [['simulate', '--from', 'trust']], [['status', 'extra']],
  ])('%j is wrong usage', async (args) => {
    const { code, stdout, stderr } = await sluice(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).not.toBe('');
  });
});

describe('failures under --json', () => {
  const nowhere = ['--dir', '/tmp/sluice-nobody-is-here', '--json'];
  const problemOf = (stderr: string): Record<string, unknown> => JSON.parse(stderr.trimEnd().split('\n').at(-1)!) as Record<string, unknown>;

  /** Commands so that they fail: with what they are asked, and the code that they end with. Of a group, one of its commands. Others are asked nonsense. */
  const FAILING: Record<string, [args: string[], code: string]> = {
    up: [['--config', '/nothing/here.yaml'], 'log'], check: [[], 'SLUICE_CLI_USAGE'], doctor: [['--colour'], 'SLUICE_CLI_USAGE'], status: [[], 'SLUICE_CLI_NOT_RUNNING'], top: [['--once'], 'SLUICE_CLI_NOT_RUNNING'],
    flows: [[], 'SLUICE_CLI_NOT_RUNNING'], drops: [[], 'SLUICE_CLI_NOT_RUNNING'], observe: [[], 'SLUICE_CLI_NOT_RUNNING'], capture: [[], 'SLUICE_CLI_NOT_RUNNING'],
    simulate: [['--from', 'trust', '--source', '10.0.1.10', '--destination', '198.51.100.7', '--protocol', 'tcp'], 'SLUICE_CLI_NOT_RUNNING'], rules: [[], 'SLUICE_CLI_NOT_RUNNING'], restart: [['engine'], 'SLUICE_CLI_NOT_RUNNING'],
    config: [['history'], 'SLUICE_CLI_NOT_RUNNING'], wireguard: [['show'], 'SLUICE_CLI_NOT_RUNNING'], node: [['show'], 'SLUICE_CLI_NOT_RUNNING'], token: [['list'], 'SLUICE_CLI_NOT_RUNNING'], audit: [['show'], 'SLUICE_CLI_NOT_RUNNING'],
    backup: [['/tmp/sluice-nobody-is-here.backup', '--passphrase-file', '/nothing/here'], 'SLUICE_CLI_FAILED'], restore: [['/nothing/here'], 'SLUICE_CLI_FAILED'], completion: [['fish'], 'SLUICE_CLI_USAGE'], 'completion-names': [['planets'], 'SLUICE_CLI_USAGE'],
  };

  test.each(COMMAND_NAMES)('%s: a problem on the last line of stderr, nothing on stdout', async (command) => {
    const [args, code] = FAILING[command] ?? [['--no-such-option'], 'SLUICE_CLI_USAGE'];
    const outcome = await sluice(command, ...args, ...nowhere);
    expect(outcome.stdout).toBe('');
    const problem = problemOf(outcome.stderr);
    if (code === 'log') return expect(problem).toMatchObject({ level: 'error' }); // the appliance's own log
    expect(problem).toMatchObject({ type: `about:blank#${code}`, code, title: expect.any(String) as string, detail: expect.any(String) as string, exitCode: outcome.code });
    expect(outcome.code).toBe(code === 'SLUICE_CLI_USAGE' ? 2 : 1);
  });

  test('help about what is no command says so', async () => {
    expect(await sluice('help', 'stauts')).toMatchObject({ code: 2, stdout: '', stderr: expect.stringMatching(/unknown command 'stauts'\n\(Did you mean status\?\)/) as string });
    expect(await sluice('help', 'status')).toMatchObject({ code: 0, stdout: expect.stringContaining('Usage: sluice status') as string });
    expect(await sluice('help')).toMatchObject({ code: 0, stdout: expect.stringContaining('Commands:') as string });
  });

  test.each([[['--json']], [['fly', '--json']], [['status', '--wait', 'soon', '--json']]])('%j is wrong usage', async (args) => {
    const { code, stderr } = await sluice(...args);
    expect(code).toBe(2);
    expect(JSON.parse(stderr)).toMatchObject({ code: 'SLUICE_CLI_USAGE', exitCode: 2 });
  });

  test('what the API refuses is the API\'s own problem, places in the configuration included', async () => {
    const bench = await startListening();
    const bad = join(bench.paths.dir, 'bad.yaml');
    writeFileSync(bad, CONFIG.replace('hostname', 'hostnam'));
    const refused = await sluice('config', 'commit', bad, '--json', '--dir', bench.paths.dir);
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(JSON.parse(refused.stderr)).toMatchObject({ status: 422, code: 'SLUICE_CONFIG_INVALID', exitCode: 1, problems: [{ code: 'SLUICE_CONFIG_UNKNOWN_KEY', pointer: '/hostnam', line: 2 }] });
    const question = ['simulate', '--from', 'mars', '--source', '10.0.1.10', '--destination', '198.51.100.7', '--protocol', 'tcp', '--port', '443', '--json', '--dir', bench.paths.dir];
    const wrong = await sluice(...question);
    expect(wrong).toMatchObject({ code: 2, stdout: '' });
    expect(JSON.parse(wrong.stderr)).toMatchObject({ status: 400, code: 'SLUICE_API_ARGUMENT', pointer: '/from', exitCode: 2 });
  });
});

describe('check', () => {
  const file = (text: string): string => {
    const path = join(makeRunDirectory().dir, 'nva.yaml');
    writeFileSync(path, text);
    return path;
  };

  test('a good file', async () => {
    const path = file(CONFIG);
    expect(await sluice('check', path)).toMatchObject({ code: 0, stdout: expect.stringContaining(`${path}: good`) as string });
    expect(JSON.parse((await sluice('check', path, '--json')).stdout)).toEqual({ file: path, valid: true, errors: 0, warnings: 0, problems: [], obstacles: [] });
  });

  test('a bad one: each problem with its place, exit 1', async () => {
    const path = file(CONFIG.replace('hostname', 'hostnam'));
    expect(await sluice('check', path)).toMatchObject({ code: 1, stdout: expect.stringMatching(/nva\.yaml:2:1: error: .*hostnam/) as string, stderr: expect.stringContaining('1 error, 0 warnings') as string });
    const answer = await sluice('check', path, '--json');
    expect(answer.code).toBe(1);
    expect(JSON.parse(answer.stdout)).toMatchObject({ valid: false, errors: 1, problems: [{ code: 'SLUICE_CONFIG_UNKNOWN_KEY', line: 2, severity: 'error' }] });
  });

  test('against this machine, which lacks the devices', async () => {
    expect(await sluice('check', file(CONFIG.replaceAll('eth1', 'nothere1').replaceAll('eth2', 'nothere2')), '--machine')).toMatchObject({ code: 1, stdout: expect.stringContaining('nothere1') as string });
  });
});

describe('with an appliance', () => {
  test('status, as table and as JSON', async () => {
    const bench = await startListening();
    const { code, stdout } = await sluice('status', '--wait', '5', '--dir', bench.paths.dir);
    expect(code).toBe(0);
    expect(stdout).toMatch(/state +ready/);
    expect(stdout).toMatch(/untrust +eth1 +untrust +up +1500 +native +0 +0 +0 +203\.0\.113\.4\/24/);
    expect(JSON.parse((await sluice('status', '--json', '--dir', bench.paths.dir)).stdout)).toMatchObject({ ready: true, generation: 1, interfaces: [{ name: 'untrust' }, { name: 'trust' }] });
  });

  test('status --wait with something missing: says what, exit 1', async () => {
    const bench = await startListening();
    bench.host.stop();
    await expect.poll(() => bench.control.engine.isConnected).toBe(false);
    expect(await sluice('status', '--wait', '0.3', '--dir', bench.paths.dir)).toMatchObject({ code: 1, stderr: expect.stringMatching(/not ready after 0\.3 s: .*engine/) as string });
    expect(await sluice('status', '--dir', bench.paths.dir)).toMatchObject({ code: 0, stdout: expect.stringMatching(/state +not ready/) as string });
  });

  test('status --wait does not take what a killed supervisor left for a start', async () => {
    const bench = await startListening();
    rmSync(bench.paths.supervisorPid);
    expect(await sluice('status', '--wait', '0.3', '--dir', bench.paths.dir)).toMatchObject({ code: 1, stderr: expect.stringContaining('without a supervisor') as string });
    writePidFile(bench.paths.supervisorPid, identify(process.pid, 'supervisor', 'node')!); // alive, but not the parent of control
    expect(await sluice('status', '--wait', '0.3', '--dir', bench.paths.dir)).toMatchObject({ code: 1, stderr: expect.stringContaining('taking over') as string });
  });

  test('flows: sessions and ended ones, one entry each, newest last', async () => {
    const bench = await startListening();
    bench.addon.sessionRecords = [makeFlow({ event: 1, sessionId: 1n, lastNs: 1_700_000_009_000_000_000n })];
    bench.addon.pendingRecords = { flows: [makeFlow({ sessionId: 1n }), makeFlow({ sessionId: 2n }), makeFlow({ sessionId: 2n, event: 2, endReason: 2 })], drops: [] };
    await expect.poll(() => bench.control.flows.last).toBe(3);
    const answer = JSON.parse((await sluice('flows', '--json', '--dir', bench.paths.dir)).stdout) as { records: FlowRecordView[]; more: boolean };
    expect(answer.records.map(({ sessionId, event }) => [sessionId, event])).toEqual([['2', 'end'], ['1', 'update']]);
    expect((await sluice('flows', '--dir', bench.paths.dir)).stdout).toMatch(/ended: tcp-fin +tcp +10\.0\.1\.10:40000 +198\.51\.100\.7:443 +from 203\.0\.113\.4:50123 +trust → untrust +outbound/);
    expect((await sluice('flows', '--live', '--protocol', 'udp', '--dir', bench.paths.dir)).stdout).toBe('No flows.\n');
  });

  test('drops: counts by reason and the last ones', async () => {
    const bench = await startListening();
    bench.addon.words[SL_COUNTER_COUNT + DropReason.POLICY_DENY] = 1234n;
    bench.addon.pendingRecords = { flows: [], drops: [makeDrop()] };
    await expect.poll(() => bench.control.drops.last).toBe(1);
    const { stdout } = await sluice('drops', '--dir', bench.paths.dir);
    expect(stdout).toMatch(/1,234 {2}policy-deny +a rule denies it/);
    expect(stdout).toMatch(/policy-deny +tcp +198\.51\.100\.9:55555 +203\.0\.113\.4:23 +S +untrust/);
    expect(JSON.parse((await sluice('drops', '--json', '--dir', bench.paths.dir)).stdout)).toMatchObject({ drops: { 'policy-deny': 1234 }, records: [{ reason: 'policy-deny' }] });
  });

  test('observe --follow shows what comes, until Ctrl-C', async () => {
    const bench = await startListening();
    const following = start(['observe', '--follow', '--json', '--dir', bench.paths.dir]);
    const feed = setInterval(() => { bench.addon.pendingRecords = { flows: [makeFlow()], drops: [makeDrop()] }; }, 100);
    onTestFinished(() => clearInterval(feed));
    await expect.poll(() => following.stdout().split('\n').length).toBeGreaterThan(6);
    following.kill();
    expect((await following.outcome).code).toBe(0);
    const kinds = following.stdout().trim().split('\n').map((line) => (JSON.parse(line) as { kind: string }).kind);
    expect(new Set(kinds)).toEqual(new Set(['flow', 'drop']));
  });

  test('names cannot play with the terminal: not in lines, not in JSON, not in errors', async () => {
    const name = 'x\u009b2J\u202egpj';
    const bench = await startListening(CONFIG.replaceAll('outbound', JSON.stringify(name)));
    const ruleId = bench.control.applied!.compiled.rules.find((rule) => rule.name === name)!.id;
    bench.addon.sessionRecords = [makeFlow({ ruleId })];
    bench.addon.pendingRecords = { flows: [makeFlow({ ruleId })], drops: [] };
    await expect.poll(() => bench.control.flows.last).toBe(1);
    const dir = ['--dir', bench.paths.dir];
    for (const args of [['rules'], ['flows'], ['observe'], ['rules', '--json'], ['observe', '--json'], ['flows', '--json'], ['config', 'diff', '1', 'running'], ['observe', '--from', name], ['top', '--once', '--interval', '0.2']]) {
      const { stdout, stderr } = await sluice(...args, ...dir);
      expect([args, /[\u0080-\u009f\u202a-\u202e]/.test(stdout + stderr)]).toEqual([args, false]);
      if (args[1] === '--json') expect(stdout).toContain('\\u009b');
      if (args.length === 1) expect(stdout).toContain('x?2J?gpj');
    }
    expect((await sluice('config', 'show', ...dir)).stdout).toBe(bench.transactions.running.text); // a file, not a screen
  });

  test('rules and simulate', async () => {
    const bench = await startListening();
    expect((await sluice('rules', '--dir', bench.paths.dir)).stdout).toMatch(/0 {2}firewall +outbound +allow/);
    const question = ['simulate', '--from', 'trust', '--source', '10.0.1.10', '--destination', '198.51.100.7', '--protocol', 'tcp', '--dir', bench.paths.dir];
    expect(JSON.parse((await sluice(...question, '--port', '443', '--json')).stdout)).toMatchObject({ question: { from: 'trust', port: 443 }, answer: { verdict: 'deny' } });
    expect(await sluice(...question)).toMatchObject({ code: 2, stderr: expect.stringContaining('needs a destination port') as string });
    expect(await sluice(...question, '--port', '443', '--from', 'mars')).toMatchObject({ code: 2, stderr: expect.stringContaining('interfaces are untrust, trust') as string });
  });

  test('a reader that goes away is no error', async () => {
    const bench = await startListening();
    bench.addon.words[Counter.RX_PACKETS] = 1n;
    const child = spawn('sh', ['-c', `"${process.execPath}" bin/sluice status --json --dir "${bench.paths.dir}" | head -c 1; exit 0`], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stderr = '';
    child.stderr.on('data', (data: Buffer) => { stderr += data.toString(); });
    await new Promise((resolve) => child.once('close', resolve));
    expect(stderr).toBe('');
  });
});

describe('words', () => {
  test('tables align, leave empty columns out and keep terminals safe', () => {
    expect(formatTable([{ title: 'A', of: (row: string[]) => row[0] }, { title: 'EMPTY', of: () => '' }, { title: 'N', of: (row) => Number(row[1]), right: true }], [['x\u001b[2J', '1'], ['longer', '12345']])).toBe('A            N\nx?[2J        1\nlonger  12,345\n');
  });
  test.each([[999, '999 B'], [1000, '1.0 KB'], [12_345_678, '12.3 MB']])('%i bytes', (value, text) => expect(formatBytes(value)).toBe(text));
  test.each([[5, '5 s'], [65, '1 min 5 s'], [3700, '1 h 1 min'], [90_000, '1 d 1 h'], [null, '']])('%j seconds', (value, text) => expect(formatDuration(value)).toBe(text));
  test('an error of any kind has a text', () => expect(failureText(failureOf('odd', '/run/sluice'))).toBe('error: odd\n'));
  test('and a problem, on one line', () => {
    const failure = failureOf(new CliError('not so', 'but so', ExitCode.REFUSED, { problems: [1] }), '/run/sluice');
    expect(failureText(failure)).toBe('error: not so\n    but so\n');
    const json = failureJson(failure);
    expect(json.indexOf('\n')).toBe(json.length - 1);
    expect(JSON.parse(json)).toEqual({ type: 'about:blank#SLUICE_CLI_FAILED', title: 'The command failed', code: 'SLUICE_CLI_FAILED', detail: 'not so', remedy: 'but so', problems: [1], exitCode: 1 });
  });
  test('an end stands for its session, else the live one, else its start', () => {
    const record = (sessionId: string, event: string, time: string): FlowRecordView => ({ sessionId, event, time }) as FlowRecordView;
    expect(mergeFlows([record('1', 'update', '3')], [record('1', 'start', '1'), record('2', 'start', '1'), record('2', 'end', '2'), record('3', 'start', '0')]).map(({ sessionId, event }) => [sessionId, event])).toEqual([['3', 'start'], ['2', 'end'], ['1', 'update']]);
  });
});
