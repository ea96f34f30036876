// What `up` refuses, it refuses before it has touched anything, and says what stands in the way. `check` as users see it.

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Appliance, check } from '../../lab/appliance.js';
import { CONFIG, ROOT } from '../../lab/topology.js';
import { describeNetns, useLab } from './fixture.js';

const FOREIGN_SOURCE = `
  __attribute__((section("xdp"), used)) int someone_elses(void *context) { return 2; /* XDP_PASS */ }
  char _license[] __attribute__((section("license"), used)) = "GPL";
`;

describeNetns('up refuses', () => {
  const bench = useLab({ idle: true });

  const state = (): string[] =>
    [
      ['ip', '-d', 'link', 'show'],
      ['ip', 'address', 'show'],
      ['ip', 'route', 'show'],
      ['ip', '-6', 'route', 'show'],
      ['nft', 'list', 'ruleset'],
    ]
      // duplicate address detection of link-local addresses goes on meanwhile
      .map((argv) => bench.lab.runSync('nva', argv).replaceAll(' tentative', ''));

  async function expectRefusal(appliance: Appliance, pattern: RegExp, code = 1): Promise<void> {
    const before = state();
    const program = appliance.up();
    const exit = await program.finish(60_000);
    expect({ code: exit.code, said: program.stderr + program.stdout }).toEqual({ code, said: expect.stringMatching(pattern) as string });
    expect(state()).toEqual(before);
    expect(existsSync(join(appliance.directory, 'api.sock'))).toBe(false);
  }

  test('a foreign XDP program on a data interface', async () => {
    const [source, object] = [join(bench.lab.directory, 'foreign.c'), join(bench.lab.directory, 'foreign.o')];
    writeFileSync(source, FOREIGN_SOURCE);
    execFileSync('clang', ['-O2', '-target', 'bpf', '-c', source, '-o', object], { stdio: 'pipe' });
    bench.lab.ip('nva', `link set dev eth0 xdp obj ${object} sec xdp`);
    try {
      await expectRefusal(bench.appliance, /eth0.*someone_elses/s);
    } finally {
      bench.lab.ip('nva', 'link set dev eth0 xdp off');
    }
  });

  test('a foreign nftables chain at the forward hook', async () => {
    const ruleset = 'table inet someones { chain guard { type filter hook forward priority 0; policy drop; } ; }\n';
    await bench.lab.must('nva', ['nft', '-f', '-'], { input: ruleset });
    try {
      await expectRefusal(bench.appliance, /inet someones guard/);
    } finally {
      bench.lab.runSync('nva', ['nft', 'delete', 'table', 'inet', 'someones']);
    }
  });

  test('a configuration with an error', async () => {
    const configText = readFileSync(CONFIG, 'utf8').replace('action: reject', 'action: rejekt');
    await expectRefusal(new Appliance(bench.lab, { configText }), /nva\.yaml:\d+.*action/s);
  });

  test('a device that does not exist', async () => {
    const configText = readFileSync(CONFIG, 'utf8').replace('device: eth2', 'device: eth7');
    await expectRefusal(new Appliance(bench.lab, { configText }), /eth7/);
  });

  test('a configuration file that does not exist', async () => {
    await expectRefusal(new Appliance(bench.lab, { config: '/nonexistent/sluice.yaml' }), /nonexistent\/sluice\.yaml/);
  });

  test('a command line without a configuration: wrong usage', async () => {
    const result = await bench.lab.run('nva', [process.execPath, join(ROOT, 'bin', 'sluice'), 'up']);
    expect(result.code).toBe(2);
    expect(result.stderr).toMatch(/--config/);
  });
});

describe('check', () => {
  test("accepts the lab's configuration and the example's form", async () => {
    expect(await check(CONFIG)).toMatchObject({ code: 0 });
  });

  test.each([
    { fault: 'unknown key', from: 'hostname: nva-lab', to: 'hostnam: nva-lab', says: /:3:.*hostnam.*hostname/s },
    { fault: 'zone nobody has', from: 'from: [trust], service: [smtp]', to: 'from: [trusd], service: [smtp]', says: /trusd/ },
    { fault: 'bad prefix', from: '10.0.1.4/24', to: '10.0.1.4/33', says: /\/33/ },
    { fault: 'port range upside down', from: 'udp/33434-33534', to: 'udp/33534-33434', says: /33534-33434.*33434-33534/s },
    { fault: 'unknown object', from: 'service: [telnet]', to: 'service: [telnett]', says: /telnett/ },
    { fault: 'two interfaces on one device', from: 'device: eth2', to: 'device: eth1', says: /eth1/ },
  ])('names file, line and remedy: $fault', async ({ from, to, says }) => {
    const original = readFileSync(CONFIG, 'utf8');
    const text = original.replace(from, to);
    expect(text).not.toBe(original);
    const directory = execFileSync('mktemp', ['-d'], { encoding: 'utf8' }).trim();
    const file = join(directory, 'bad.yaml');
    writeFileSync(file, text);
    const answer = await check(file);
    execFileSync('rm', ['-r', directory]);
    expect(answer.code).toBe(1);
    expect(answer.stdout + answer.stderr).toMatch(/bad\.yaml:\d+/);
    expect(answer.stdout + answer.stderr).toMatch(says);
  });
});
