// Transactions over a real control and a real engine socket: what a commit does, refuses, takes back, and what is there after a restart.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { findMissing } from '../../src/control/status.js';
import { Transactions, type Author } from '../../src/control/transactions.js';
import { silentLog } from '../engine/fake-addon.js';
import { CONFIG, startBench, type ControlBench } from './bench.js';

const ann: Author = { name: 'ann', via: 'socket' };
const bob: Author = { name: 'bob', via: 'token' };
const RENAMED = CONFIG.replace('name: telnet', 'name: old-telnet');
const ready = (bench: ControlBench): Promise<void> => expect.poll(() => findMissing(bench.control)).toEqual([]);
const ruleNames = (bench: ControlBench): string[] => bench.control.applied!.compiled.rules.map((rule) => rule.name);
/** What a control that was just started would find. */
const restarted = async (bench: ControlBench): Promise<Transactions> => {
  const again = new Transactions(bench.paths.configState, silentLog);
  onTestFinished(() => again.stop());
  await again.start(bench.control, CONFIG);
  return again;
};

async function readyBench(config?: string): Promise<ControlBench> {
  const bench = await startBench(config);
  await ready(bench);
  return bench;
}

describe('commit', () => {
  test('is in force when it is answered, and says what changed', async () => {
    const bench = await readyBench();
    const result = await bench.transactions.commit({ text: RENAMED, by: ann, comment: 'older than it looks' });
    expect(result).toMatchObject({
      revision: 2, changeCount: 2, warnings: [],
      changes: [{ path: 'firewall.rules[telnet]', kind: 'removed', before: { action: 'reject' } }, { path: 'firewall.rules[old-telnet]', kind: 'added' }],
    });
    expect(result.milliseconds.total).toBeGreaterThan(0);
    expect(bench.addon.calls.at(-1)).toBe('apply 2');
    expect(ruleNames(bench)).toContain('old-telnet');
    expect(bench.transactions.running).toMatchObject({ revision: 2, text: RENAMED, etag: result.etag });
    expect(bench.transactions.history()).toMatchObject([
      { revision: 2, by: ann, comment: 'older than it looks', action: 'commit', running: true, changes: 2 }, { revision: 1, by: { via: 'file' }, action: 'file', running: false },
    ]);
    expect((await restarted(bench)).running).toMatchObject({ revision: 2, text: RENAMED });
  });

  test('of a value: its text is made, and reads back as the same', async () => {
    const bench = await readyBench();
    const { config } = bench.transactions.running;
    const rules = config.firewall!.rules!.map((rule) => (rule.name === 'telnet' ? { ...rule, description: 'yes: "no" # é\u2028', service: ['tcp/23'] } : rule));
    const { revision } = await bench.transactions.commit({ config: { ...config, firewall: { ...config.firewall, rules } }, by: ann });
    expect((await restarted(bench)).running).toMatchObject({ revision, config: { firewall: { rules } } });
    expect((await restarted(bench)).running.config).toEqual(bench.transactions.running.config);
  });

  test('that changes nothing is no revision; another comment in the text is one', async () => {
    const bench = await readyBench();
    expect(await bench.transactions.commit({ text: CONFIG, by: ann })).toMatchObject({ revision: 1, changes: [] });
    expect(await bench.transactions.commit({ text: `# mine\n${CONFIG}`, by: ann })).toMatchObject({ revision: 2, changes: [] });
  });

  test('that is not valid names places, and changes nothing', async () => {
    const bench = await readyBench();
    const { calls } = bench.addon;
    const before = [...calls];
    await expect(bench.transactions.commit({ text: CONFIG.replace('action: reject', 'action: rejekt'), by: ann })).rejects.toMatchObject({
      status: 422, code: 'SLUICE_CONFIG_INVALID', extras: { problems: [{ path: 'firewall.rules[1].action', line: 12 }] },
    });
    await expect(bench.transactions.commit({ text: CONFIG.replace('eth2', 'eth9'), by: ann })).rejects.toMatchObject({ code: 'SLUICE_CONFIG_INVALID' }); // no such device here
    expect(calls).toEqual(before);
    expect(bench.transactions.running.revision).toBe(1);
    expect(bench.transactions.history()).toHaveLength(1);
  });

  test('a dry run compiles, and touches nothing', async () => {
    const bench = await readyBench();
    expect(await bench.transactions.commit({ text: RENAMED, by: ann, dryRun: true })).toMatchObject({ revision: 1, changeCount: 2 });
    expect(bench.addon.calls.at(-1)).toBe('apply 1');
    expect(bench.transactions.history()).toHaveLength(1);
  });

  test('of two editors the second gets the difference, and can insist', async () => {
    const bench = await readyBench();
    const base = bench.transactions.running.etag;
    await bench.transactions.commit({ text: RENAMED, by: ann, base });
    const mine = CONFIG.replace('action: reject', 'action: deny');
    await expect(bench.transactions.commit({ text: mine, by: bob, base })).rejects.toMatchObject({
      status: 412, code: 'SLUICE_CONFIG_CONFLICT', extras: { members: { running: { revision: 2 }, changeCount: 2, difference: expect.stringContaining('+ firewall.rules[old-telnet]') as string } },
    });
    expect(bench.transactions.running.text).toBe(RENAMED);
    expect(await bench.transactions.commit({ text: mine, by: bob, base, force: true })).toMatchObject({ revision: 3 });
  });

  test('commits at once take their turn; each is whole', async () => {
    const bench = await readyBench();
    const results = await Promise.all(Array.from({ length: 8 }, (_, n) => bench.transactions.commit({ text: CONFIG.replace('telnet', `telnet-${n}`), by: ann })));
    expect(results.map(({ revision }) => revision)).toEqual([2, 3, 4, 5, 6, 7, 8, 9]);
    expect(ruleNames(bench)).toContain('telnet-7');
  });

  test('without an engine it is refused, and nothing changed', async () => {
    const bench = await readyBench();
    bench.host.stop();
    await expect.poll(() => bench.control.engine.isConnected).toBe(false);
    await expect(bench.transactions.commit({ text: RENAMED, by: ann })).rejects.toMatchObject({ code: expect.stringMatching(/SLUICE_ENGINE_AWAY|SLUICE_IPC_CLOSED/) as string });
    expect(bench.transactions.running.revision).toBe(1);
    expect(readdirSync(bench.paths.configState).filter((name) => name.includes('revision'))).toEqual(['00000001.revision']);
  });
});

describe('a change that fails in the engine', () => {
  test('snapshot refused: the former one is in force, in the engine and after a restart', async () => {
    const bench = await readyBench();
    const { apply } = bench.addon;
    let refusals = 1;
    bench.addon.apply = (snapshot) => {
      if (refusals-- > 0) throw Object.assign(new Error('no memory for it'), { code: 'SLUICE_SNAPSHOT' });
      return apply(snapshot);
    };
    await expect(bench.transactions.commit({ text: RENAMED, by: ann })).rejects.toMatchObject({ code: 'SLUICE_SNAPSHOT' });
    await ready(bench);
    expect(ruleNames(bench)).toContain('telnet');
    expect(bench.transactions.running.revision).toBe(1);
    expect((await restarted(bench)).running).toMatchObject({ revision: 1, text: CONFIG });
  });

  test('netdevs that cannot be made so: addresses and ports are as before', async () => {
    const bench = await readyBench();
    const { addPort } = bench.addon;
    bench.facts.devices.push({ ...bench.facts.devices[1]!, name: 'eth3', ifindex: 4, addresses: [] });
    bench.addon.addPort = (port) => {
      if (port.name === 'eth3') throw Object.assign(new Error('eth3: another program is attached'), { code: 'SLUICE_PORT' });
      return addPort(port);
    };
    bench.addon.emit({ type: 'links-changed' });
    await expect.poll(() => bench.control.facts?.devices.length).toBe(3);
    const wider = CONFIG.replace('routes:', '  third: { device: eth3, zone: third, addresses: [192.168.3.1/24] }\nroutes:');
    await expect(bench.transactions.commit({ text: wider, by: ann })).rejects.toMatchObject({ code: 'SLUICE_PORT' });
    await ready(bench);
    expect([...bench.addon.ports.values()].map(({ name }) => name)).toEqual(['eth1', 'eth2']);
    expect(bench.control.applied!.compiled.plan.addresses.map(({ address }) => address)).toEqual(['203.0.113.4', '10.0.1.4']);
    expect(bench.transactions.running.revision).toBe(1);
  });
});

describe('confirmation', () => {
  test('comes: it stays; nobody commits beside it', async () => {
    const bench = await readyBench();
    const { confirmBy } = await bench.transactions.commit({ text: RENAMED, by: ann, confirmWithinS: 60 });
    expect(Date.parse(confirmBy!)).toBeGreaterThan(Date.now());
    await expect(bench.transactions.commit({ text: CONFIG, by: bob })).rejects.toMatchObject({ status: 409, code: 'SLUICE_CONFIRM_PENDING' });
    expect(await bench.transactions.confirm(ann)).toMatchObject({ revision: 2, running: true });
    await expect(bench.transactions.confirm(ann)).rejects.toMatchObject({ code: 'SLUICE_CONFIRM_NONE' });
    expect((await restarted(bench)).pending).toBeUndefined();
  });

  test('does not come: it is rolled back by itself', async () => {
    const bench = await readyBench();
    await bench.transactions.commit({ text: RENAMED, by: ann, confirmWithinS: 1 });
    await expect.poll(() => bench.transactions.running.text).toBe(CONFIG);
    await expect.poll(() => ruleNames(bench)).toContain('telnet');
    expect(bench.transactions.history()).toMatchObject([{ revision: 3, action: 'not-confirmed', by: { via: 'system' } }, { revision: 2 }, { revision: 1 }]);
  });

  test('the deadline holds over a restart: passed, and still to come', async () => {
    const bench = await readyBench();
    await bench.transactions.commit({ text: RENAMED, by: ann, confirmWithinS: 3600 });
    bench.transactions.stop();
    const waiting = await restarted(bench);
    expect(waiting.running.text).toBe(RENAMED);
    expect(waiting.pending).toMatchObject({ revision: 2, revertTo: 1 });
    waiting.stop();
    // The machine was off for more than an hour.
    const now = Date.now;
    onTestFinished(() => { Date.now = now; });
    Date.now = () => now() + 3_700_000;
    expect((await restarted(bench)).running).toMatchObject({ text: CONFIG, revision: 3 });
  });

  test('a rollback ends the wait', async () => {
    const bench = await readyBench();
    await bench.transactions.commit({ text: RENAMED, by: ann, confirmWithinS: 3600 });
    expect(await bench.transactions.rollback(1, bob)).toMatchObject({ revision: 3 });
    expect(bench.transactions.pending).toBeUndefined();
    expect(ruleNames(bench)).toContain('telnet');
  });
});

describe('history and candidate', () => {
  test('rollback is a new revision with the old content; difference of any two', async () => {
    const bench = await readyBench();
    await bench.transactions.commit({ text: RENAMED, by: ann });
    await bench.transactions.commit({ text: RENAMED.replace('action: reject', 'action: deny'), by: ann });
    expect(bench.transactions.diff(2, 3)).toEqual([{ path: 'firewall.rules[old-telnet].action', kind: 'changed', before: 'reject', after: 'deny' }]);
    expect(await bench.transactions.rollback(1, bob, 'it was better')).toMatchObject({ revision: 4 });
    expect(bench.transactions.running.text).toBe(CONFIG);
    expect(bench.transactions.diff(1, 4)).toEqual([]);
    expect(() => bench.transactions.revisionText(9)).toThrow(/no revision 9/);
    await expect(bench.transactions.rollback(9, bob)).rejects.toMatchObject({ code: 'SLUICE_API_NOT_FOUND' });
  });

  test('a candidate is kept, compared, committed once, and conflicts when it is outdated', async () => {
    const bench = await readyBench();
    await expect(bench.transactions.commit({ by: ann })).rejects.toMatchObject({ code: 'SLUICE_CONFIG_CANDIDATE' });
    await bench.transactions.setCandidate(RENAMED, ann);
    expect((await restarted(bench)).candidate).toMatchObject({ text: RENAMED, by: ann, base: bench.transactions.running.etag });
    expect(bench.transactions.diff('running', 'candidate')).toHaveLength(2);
    expect(await bench.transactions.commit({ by: ann })).toMatchObject({ revision: 2 });
    expect(bench.transactions.candidate).toBeUndefined();
    await bench.transactions.setCandidate(CONFIG, ann);
    await bench.transactions.commit({ text: CONFIG.replace('telnet', 'other'), by: bob });
    await expect(bench.transactions.commit({ by: ann })).rejects.toMatchObject({ code: 'SLUICE_CONFIG_CONFLICT' });
  });
});

describe('the store', () => {
  const files = (bench: ControlBench): string[] => readdirSync(bench.paths.configState).sort();
  const damage = (bench: ControlBench, name: string, change: (bytes: Buffer) => Buffer): void => {
    const path = join(bench.paths.configState, name);
    writeFileSync(path, change(readFileSync(path)));
  };
  const flip = (bytes: Buffer): Buffer => {
    bytes[bytes.length - 10]! ^= 1;
    return bytes;
  };

  test.each([
    ['the running revision, one bit', '00000002.revision', flip],
    ['the running revision, cut short', '00000002.revision', (bytes: Buffer) => bytes.subarray(0, 100)],
    ['the running revision, empty', '00000002.revision', () => Buffer.alloc(0)],
    ['the newer pointer', 'pointer-b', flip],
  ])('damaged: %s: the last good one runs, loudly', async (_what, name, change) => {
    const bench = await readyBench();
    await bench.transactions.commit({ text: RENAMED, by: ann });
    expect(files(bench)).toEqual(['00000001.revision', '00000002.revision', 'pointer-a', 'pointer-b']);
    damage(bench, name, change);
    const again = await restarted(bench);
    expect(again.running).toMatchObject({ text: CONFIG });
    expect(again.damage.join()).toContain(name.replace('.revision', ''));
    expect(await again.commit({ text: RENAMED, by: ann })).toMatchObject({ changeCount: 2 });
    const later = await restarted(bench);
    expect(later.running.text).toBe(RENAMED);
  });

  test('both pointers damaged: the newest good revision; everything damaged: none, and no other rules', async () => {
    const bench = await readyBench();
    await bench.transactions.commit({ text: RENAMED, by: ann });
    for (const name of ['pointer-a', 'pointer-b']) damage(bench, name, flip);
    expect(new Transactions(bench.paths.configState, silentLog).damage).toHaveLength(2);
    const again = new Transactions(bench.paths.configState, silentLog);
    await again.start(bench.control);
    expect(again.running.text).toBe(RENAMED);
    for (const name of ['00000001.revision', '00000002.revision']) damage(bench, name, flip);
    const none = new Transactions(bench.paths.configState, silentLog);
    await none.start(bench.control);
    expect(() => none.running).toThrow(/no configuration/);
    expect(none.compileRunning(bench.facts, 9, []).compiled).toBeUndefined();
  });

  test('history is bounded', async () => {
    const bench = await readyBench();
    for (let n = 0; n < 104; n += 1) await bench.transactions.commit({ text: `# ${n}\n${CONFIG}`, by: ann });
    expect(bench.transactions.history()).toHaveLength(100);
    expect(files(bench).filter((name) => name.endsWith('.revision'))).toHaveLength(100);
    expect(() => bench.transactions.revisionText(1)).toThrow();
  });
});
