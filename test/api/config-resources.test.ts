// The configuration by resource: each edit is a transaction with its own precondition.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { COLLECTIONS, SINGLETONS } from '../../src/api/resources.js';
import type { Config } from '../../src/config/schema.js';
import { startApi, type ApiBench } from './bench.js';

const rulesOf = (bench: ApiBench): string[] => (bench.config().firewall?.rules ?? []).map(({ name }) => name);
const RULE = { from: ['untrust'], to: ['trust'], service: ['tcp/22'], action: 'deny' };

describe('a rule', () => {
  test('is created, read, replaced, moved and removed; each change is in force when it is answered', async () => {
    const bench = await startApi();
    const created = await bench.ask('PUT', 'config/firewall/rules/ssh?comment=no%20ssh', { body: RULE, headers: { 'if-none-match': '*' } });
    expect(created).toMatchObject({ status: 201, body: { value: { name: 'ssh', action: 'deny' }, commit: { revision: 2, changes: [{ path: 'firewall.rules[ssh]', kind: 'added' }], milliseconds: { total: expect.any(Number) as number } } } });
    expect(rulesOf(bench)).toEqual(['outbound', 'telnet', 'ssh']);
    expect(bench.control.applied?.compiled.rules.map(({ name }) => name)).toContain('ssh');
    const read = await bench.ask('GET', 'config/firewall/rules/ssh', { role: 'viewer' });
    expect(read).toMatchObject({ status: 200, body: { name: 'ssh', service: ['tcp/22'] } });
    expect(read.headers['etag']).toBe(created.headers['etag']);
    const replaced = await bench.ask('PUT', 'config/firewall/rules/ssh', { body: { ...RULE, action: 'reject' }, headers: { 'if-match': read.headers['etag'] as string } });
    expect(replaced).toMatchObject({ status: 200, body: { value: { action: 'reject' }, commit: { revision: 3 } } });
    expect(rulesOf(bench)).toEqual(['outbound', 'telnet', 'ssh']);
    expect(await bench.ask('POST', 'config/firewall/rules/ssh/move', { body: { before: 'telnet' } })).toMatchObject({ status: 200, body: { commit: { changes: [{ kind: 'moved' }] } } });
    expect(rulesOf(bench)).toEqual(['outbound', 'ssh', 'telnet']);
    expect(await bench.ask('POST', 'config/firewall/rules/ssh/move', { body: { before: 'telnet' } })).toMatchObject({ status: 200, body: { commit: null } });
    expect(await bench.ask('DELETE', 'config/firewall/rules/ssh', { headers: { 'if-match': replaced.headers['etag'] as string } })).toMatchObject({ status: 200, body: { value: null, commit: { changes: [{ kind: 'removed' }] } } });
    expect(rulesOf(bench)).toEqual(['outbound', 'telnet']);
    expect(bench.transactions.history().map(({ by, comment }) => [by.name, comment])).toContainEqual(['administrator', 'no ssh']);
  });

  test.each([
    ['position=first', ['ssh', 'outbound', 'telnet']], ['before=telnet', ['outbound', 'ssh', 'telnet']], ['after=outbound', ['outbound', 'ssh', 'telnet']], ['position=last', ['outbound', 'telnet', 'ssh']],
  ])('stands where %s says, also when it is put again', async (query, order) => {
    const bench = await startApi();
    expect((await bench.ask('PUT', `config/firewall/rules/ssh?${query}`, { body: RULE })).status).toBe(201);
    expect(rulesOf(bench)).toEqual(order);
    expect(await bench.ask('PUT', `config/firewall/rules/ssh?${query}`, { body: RULE })).toMatchObject({ status: 200, body: { commit: null } });
  });

  test('a name may be anything printable', async () => {
    const bench = await startApi();
    for (const name of ['a/b c', '100 % "ü"', '..%2f', '☃'.repeat(60)]) {
      const path = `config/firewall/rules/${encodeURIComponent(name)}`;
      expect(await bench.ask('PUT', path, { body: { action: 'deny', source: '10.9.9.9' } })).toMatchObject({ status: 201, body: { value: { name } } });
      expect(await bench.ask('GET', path)).toMatchObject({ status: 200, body: { name } });
      expect((await bench.ask('DELETE', path, { headers: { 'if-match': '*' } })).status).toBe(200);
    }
    expect(rulesOf(bench)).toEqual(['outbound', 'telnet']);
  });

  test('a dry run says what would change and changes nothing', async () => {
    const bench = await startApi();
    expect(await bench.ask('PUT', 'config/firewall/rules/ssh?dryRun=true', { body: RULE })).toMatchObject({ status: 201, body: { commit: { changes: [{ kind: 'added' }] } } });
    expect(rulesOf(bench)).toEqual(['outbound', 'telnet']);
    expect(bench.transactions.history()).toHaveLength(1);
  });

  test('confirmWithin makes it wait for its confirmation', async () => {
    const bench = await startApi();
    expect(await bench.ask('PUT', 'config/firewall/rules/ssh?confirmWithin=600', { body: RULE })).toMatchObject({ status: 201, body: { commit: { confirmBy: expect.any(String) as string } } });
    expect(await bench.ask('PUT', 'config/firewall/rules/ssh2', { body: RULE })).toMatchObject({ status: 409, body: { code: 'SLUICE_CONFIRM_PENDING' } });
  });
});

test('a change of a part keeps the comments of the text', async () => {
  const bench = await startApi();
  const text = `# by hand\n${bench.transactions.running.text}# the end\n`;
  expect((await bench.ask('PUT', 'config', { raw: text, headers: { 'content-type': 'application/yaml', 'if-match': '*' } })).status).toBe(200);
  expect((await bench.ask('PUT', 'config/firewall/rules/ssh?position=first', { body: RULE })).status).toBe(201);
  const after = bench.transactions.running.text;
  expect(after).toMatch(/^# by hand\n[^]*\n# the end\n$/);
  expect(after.split('\n').filter((line) => !line.includes('ssh'))).toEqual(text.split('\n'));
  expect((await bench.ask('DELETE', 'config/firewall/rules/ssh', { headers: { 'if-match': '*' } })).status).toBe(200);
  expect(bench.transactions.running.text).toBe(text);
});

describe('preconditions', () => {
  const path = 'config/firewall/rules/telnet';
  const body = { service: ['tcp/23'], action: 'deny' };

  test('overwriting and removing need If-Match; creating and repeating do not', async () => {
    const bench = await startApi();
    const etag = (await bench.ask('GET', path)).headers['etag'] as string;
    const without = await bench.ask('PUT', path, { body });
    expect(without).toMatchObject({ status: 428, body: { code: 'SLUICE_API_PRECONDITION_REQUIRED' }, headers: { etag } });
    expect(await bench.ask('DELETE', path)).toMatchObject({ status: 428 });
    expect(await bench.ask('PUT', path, { body: { service: ['tcp/23'], action: 'reject' } })).toMatchObject({ status: 200, body: { commit: null } });
    expect(await bench.ask('PUT', path, { body, headers: { 'if-match': '"other"' } })).toMatchObject({ status: 412, body: { code: 'SLUICE_API_PRECONDITION', current: { action: 'reject' } } });
    expect(await bench.ask('PUT', path, { body, headers: { 'if-match': `W/${etag}` } })).toMatchObject({ status: 412 });
    expect(await bench.ask('PUT', path, { body, headers: { 'if-none-match': '*' } })).toMatchObject({ status: 412 });
    expect(await bench.ask('PUT', 'config/firewall/rules/none', { body, headers: { 'if-match': '*' } })).toMatchObject({ status: 412 });
    expect(rulesOf(bench)).toEqual(['outbound', 'telnet']);
    expect(bench.transactions.history()).toHaveLength(1);
    expect(await bench.ask('PUT', path, { body, headers: { 'if-match': `"x", ${etag}` } })).toMatchObject({ status: 200, body: { commit: { revision: 2 } } });
    expect(await bench.ask('PUT', path, { body: { ...body, action: 'allow' }, headers: { 'if-match': '*' } })).toMatchObject({ status: 200 });
  });

  test('two editors of two rules do not disturb each other; of one rule, the second is told', async () => {
    const bench = await startApi();
    const etagOf = async (name: string): Promise<string> => (await bench.ask('GET', `config/firewall/rules/${name}`)).headers['etag'] as string;
    const [outbound, telnet] = [await etagOf('outbound'), await etagOf('telnet')];
    const answers = await Promise.all([
      bench.ask('PUT', 'config/firewall/rules/outbound', { body: { from: ['trust'], to: ['untrust'], action: 'allow' }, headers: { 'if-match': outbound } }),
      bench.ask('PUT', path, { body, headers: { 'if-match': telnet } }),
      bench.ask('PUT', path, { body: { ...body, action: 'allow' }, headers: { 'if-match': telnet } }),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 412]);
  });

  test('twenty at once, each a rule of its own: all stand', async () => {
    const bench = await startApi();
    const answers = await Promise.all(Array.from({ length: 20 }, (_, index) => bench.ask('PUT', `config/firewall/rules/r${index}`, { body: { action: 'deny', source: `10.1.0.${index}` } })));
    expect(answers.map(({ status }) => status)).toEqual(Array<number>(20).fill(201));
    expect(rulesOf(bench)).toHaveLength(22);
  });

  test('what is known already is not sent again', async () => {
    const bench = await startApi();
    for (const one of [path, 'config/firewall/rules', 'config/limits']) {
      const { headers } = await bench.ask('GET', one);
      expect(await bench.ask('GET', one, { headers: { 'if-none-match': headers['etag'] as string } })).toMatchObject({ status: 304, text: '' });
    }
  });
});

describe('what cannot be is refused, says where, and changes nothing', () => {
  const ends: (() => void | Promise<void>)[] = [];
  let bench: ApiBench;
  beforeAll(async () => { bench = await startApi({ keep: (end) => void ends.unshift(end) }); });
  afterAll(async () => { for (const end of ends) await end(); });

  test.each<[string, string, object, number, string, string | undefined]>([
    ['PUT', 'config/firewall/rules/x', { body: { action: 'permit' } }, 400, 'SLUICE_API_ARGUMENT', '/action'],
    ['PUT', 'config/firewall/rules/x', { body: {} }, 400, 'SLUICE_API_ARGUMENT', '/action'],
    ['PUT', 'config/firewall/rules/x', { body: { action: 'deny', colour: 1 } }, 400, 'SLUICE_API_ARGUMENT', '/colour'],
    ['PUT', 'config/firewall/rules/x', { body: { action: 'deny', maxSessions: '5' } }, 400, 'SLUICE_API_ARGUMENT', '/maxSessions'],
    ['PUT', 'config/firewall/rules/x', { body: { action: 'deny', name: 'y' } }, 400, 'SLUICE_API_ARGUMENT', '/name'],
    ['PUT', 'config/firewall/rules/x', { body: [] }, 400, 'SLUICE_API_ARGUMENT', ''],
    ['PUT', 'config/firewall/rules/x', { body: { action: 'deny', source: ['10.0.0.1', '10.0.0.256'] } }, 422, 'SLUICE_CONFIG_INVALID', '/source/1'],
    ['PUT', 'config/firewall/rules/x', { body: { action: 'deny', from: ['mars'] } }, 422, 'SLUICE_CONFIG_INVALID', '/from/0'],
    ['PUT', 'config/firewall/rules/x?before=none', { body: { action: 'deny' } }, 404, 'SLUICE_API_NOT_FOUND', '/before'],
    ['PUT', 'config/firewall/rules/x?before=telnet&position=first', { body: { action: 'deny' } }, 400, 'SLUICE_API_ARGUMENT', '/position'],
    ['PUT', 'config/firewall/rules/x?before=x', { body: { action: 'deny' } }, 400, 'SLUICE_API_ARGUMENT', '/before'],
    ['PUT', 'config/firewall/rules/x?confirmWithin=0', { body: { action: 'deny' } }, 400, 'SLUICE_API_ARGUMENT', '/confirmWithin'],
    ['PUT', 'config/objects/addresses/web', { body: { addresses: ['10.0.0.1', 'nonsense'] } }, 422, 'SLUICE_CONFIG_INVALID', '/addresses/1'],
    ['PUT', 'config/objects/addresses/-x', { body: { addresses: ['10.0.0.1'] } }, 400, 'SLUICE_API_ARGUMENT', '/name'],
    ['PUT', 'config/interfaces/new', { body: { device: 'eth9' } }, 400, 'SLUICE_API_ARGUMENT', '/zone'],
    ['PUT', 'config/routes/10.0.0.0%2F33', { body: { via: '10.0.1.1' } }, 422, 'SLUICE_CONFIG_INVALID', '/to'],
    ['PUT', 'config/routes/198.51.100.0%2F24', { body: { via: '172.16.0.1' } }, 422, 'SLUICE_CONFIG_INVALID', '/via'],
    ['PUT', 'config/limits', { body: { sessions: 1 } }, 400, 'SLUICE_API_ARGUMENT', '/sessions'],
    ['GET', 'config/firewall/rules/none', {}, 404, 'SLUICE_API_NOT_FOUND', '/name'],
    ['DELETE', 'config/firewall/rules/none', {}, 404, 'SLUICE_API_NOT_FOUND', '/name'],
    ['POST', 'config/firewall/rules/none/move', { body: { position: 'first' } }, 404, 'SLUICE_API_NOT_FOUND', '/name'],
    ['POST', 'config/firewall/rules/telnet/move', { body: {} }, 400, 'SLUICE_API_ARGUMENT', ''],
    ['POST', 'config/firewall/rules/telnet/move', { body: { before: 'outbound', after: 'outbound' } }, 400, 'SLUICE_API_ARGUMENT', ''],
    ['POST', 'config/firewall/rules/telnet/move', { body: { before: 'none' } }, 404, 'SLUICE_API_NOT_FOUND', '/before'],
    ['POST', 'config/interfaces/trust/move', { body: { position: 'first' } }, 404, 'SLUICE_API_NOT_FOUND', undefined],
    ['DELETE', 'config/interfaces/untrust', { headers: { 'if-match': '*' } }, 422, 'SLUICE_CONFIG_INVALID', undefined],
    ['GET', 'config/firewall/rules?cursor=AAAA', {}, 400, 'SLUICE_API_ARGUMENT', '/cursor'],
    ['PATCH', 'config/firewall/rules/telnet', { body: {} }, 405, 'SLUICE_API_METHOD', undefined],
    ['GET', 'config/zones/none', {}, 404, 'SLUICE_API_NOT_FOUND', '/name'],
  ])('%s %s %j', async (method, path, asked, status, code, pointer) => {
    const answer = await bench.ask(method, path, asked);
    expect(answer).toMatchObject({ status, headers: { 'content-type': expect.stringContaining('application/problem+json') as string }, body: { status, code, detail: expect.any(String) as string } });
    expect((answer.body as { pointer?: string }).pointer).toBe(pointer);
    expect(bench.transactions.history()).toHaveLength(1);
  });
});

describe('every resource', () => {
  test.each(COLLECTIONS.map((collection) => [collection.path, collection] as const))('%s: create, read, list, replace, remove', async (written, collection) => {
    const bench = await startApi();
    const path = written.replace(':interface', 'wg9');
    if (path !== written) expect((await bench.ask('PUT', 'config/wireguard/wg9', { body: { zone: 'mesh', addresses: ['10.99.0.1/24'] } })).status).toBe(201);
    // An interface needs a device of its own.
    const example = path === 'interfaces' ? { name: 'spare', device: 'eth2', vlan: 7, zone: 'trust', addresses: ['10.77.0.1/24'] } : path === 'nat/static' ? { name: 'mail', outside: '203.0.113.9', inside: '10.0.1.25' } : collection.example;
    const key = path === 'interfaces' || path === 'nat/static' ? String(example[collection.key]) : path === 'routes' ? '172.20.0.0/16' : 'example';
    const body: Record<string, unknown> = { ...example, ...(path === 'routes' ? { via: '10.0.1.1' } : {}) };
    delete body[collection.key];
    const before = (await bench.ask('GET', `config/${path}`)).body as { total: number };
    const url = `config/${path}/${encodeURIComponent(key)}`;
    const valid = JSON.parse(JSON.stringify(body).replaceAll('10.0.0.0/16', '10.0.1.0/24').replaceAll('10.0.2.0/24', '10.0.1.11')) as object;
    expect(await bench.ask('PUT', url, { body: valid })).toMatchObject({ status: 201, body: { value: { [collection.key]: key } } });
    const read = await bench.ask('GET', url, { role: 'viewer' });
    expect(read).toMatchObject({ status: 200, body: { [collection.key]: key, ...valid } });
    const list = (await bench.ask('GET', `config/${path}`, { role: 'viewer' })).body as { total: number; items: object[]; cursor: null };
    expect(list).toMatchObject({ total: before.total + 1, cursor: null });
    expect(list.items).toContainEqual(read.body);
    expect(await bench.ask('PUT', url, { body: read.body as object })).toMatchObject({ status: 200, body: { commit: null } });
    expect(await bench.ask('DELETE', url, { headers: { 'if-match': read.headers['etag'] as string } })).toMatchObject({ status: 200 });
    expect((await bench.ask('GET', url)).status).toBe(404);
    expect((await bench.ask('GET', `config/${path}`)).body).toMatchObject({ total: before.total });
  });

  test.each(SINGLETONS.map((one) => [one.path, one] as const))('%s: read and replace', async (path, { example }) => {
    const bench = await startApi();
    const { headers } = await bench.ask('GET', `config/${path}`);
    const put = await bench.ask('PUT', `config/${path}`, { body: example, headers: { 'if-match': headers['etag'] as string } });
    expect(put).toMatchObject({ status: 200, body: { value: example } });
    expect((await bench.ask('GET', `config/${path}`)).body).toEqual(example);
    expect(bench.config().firewall?.rules).toHaveLength(2); // what stands beside it stays
  });

  test('routes are named by what they mean, not by how they were written', async () => {
    const bench = await startApi({ config: `version: 1\ninterfaces: { lan: { device: eth2, zone: lan, addresses: ["10.0.1.4/24", "2001:db8::4/64"] } }\nroutes: [{ to: "2001:DB8:0:1::/64", via: "2001:db8::1" }, { to: 10.9.9.9, via: 10.0.1.1 }]\n` });
    expect(await bench.ask('GET', 'config/routes/2001:db8:0:1::%2F64')).toMatchObject({ status: 200, body: { to: '2001:DB8:0:1::/64' } });
    expect(await bench.ask('GET', 'config/routes/10.9.9.9%2F32')).toMatchObject({ status: 200, body: { via: '10.0.1.1' } });
  });

  test('lists come in pages', async () => {
    const bench = await startApi();
    const first = (await bench.ask('GET', 'config/firewall/rules?limit=1')).body as { items: { name: string }[]; cursor: string; total: number };
    expect(first).toMatchObject({ items: [{ name: 'outbound' }], total: 2, cursor: expect.any(String) as string });
    expect((await bench.ask('GET', `config/firewall/rules?limit=1&cursor=${first.cursor}`)).body).toMatchObject({ items: [{ name: 'telnet' }], cursor: null });
    expect(await bench.ask('GET', `sessions?cursor=${first.cursor}`)).toMatchObject({ status: 400, body: { pointer: '/cursor' } });
  });

  test('peers stand in a tunnel: it must be there, goes with them, and keeps what stands beside them', async () => {
    const bench = await startApi();
    const peer = { publicKey: Buffer.alloc(32, 1).toString('base64'), allowedIPs: ['10.99.0.2/32'] };
    expect(await bench.ask('PUT', 'config/wireguard/wg0/peers/nva-2', { body: peer })).toMatchObject({ status: 404, body: { code: 'SLUICE_API_NOT_FOUND', pointer: '/interface' } });
    for (const name of ['wireguard', 'peers']) { // what the path itself is made of is a name like others
      expect((await bench.ask('PUT', `config/wireguard/${name}`, { body: { zone: 'mesh', listen: name.length } })).status).toBe(201);
      const body = { ...peer, allowedIPs: [`10.99.${name.length}.2/32`] };
      expect((await bench.ask('PUT', `config/wireguard/${name}/peers/nva-2`, { body })).status).toBe(201);
      expect(bench.config().wireguard?.[name]).toEqual({ zone: 'mesh', listen: name.length, peers: [{ name: 'nva-2', ...body }] });
    }
    const { headers } = await bench.ask('GET', 'config/wireguard/peers');
    expect((await bench.ask('PUT', 'config/wireguard/peers/peers/nva-3', { body: { ...peer, publicKey: Buffer.alloc(32, 2).toString('base64'), allowedIPs: ['10.99.0.3/32'] } })).status).toBe(201);
    expect((await bench.ask('DELETE', 'config/wireguard/peers', { headers: { 'if-match': headers['etag'] as string } })).status).toBe(412); // it has another peer by now
    expect(await bench.ask('PUT', 'config/wireguard/peers/peers/nva-3', { body: { ...peer, allowedIPs: ['10.99.0.3/32'] }, headers: { 'if-match': '*' } })).toMatchObject({ status: 422, body: { code: 'SLUICE_CONFIG_INVALID', pointer: '/publicKey' } });
    expect((await bench.ask('DELETE', 'config/wireguard/peers/peers/nva-2', { headers: { 'if-match': '*' } })).status).toBe(200);
    expect((bench.config() as Config).wireguard?.['peers']?.peers?.map(({ name }) => name)).toEqual(['nva-3']);
    for (const name of ['__proto__', 'constructor']) expect((await bench.ask('GET', `config/wireguard/${name}/peers`)).status).toBe(404);
  });

  test('no secret gets in, and none comes back in what is said about it', async () => {
    const bench = await startApi();
    const secret = Buffer.alloc(32, 77).toString('base64');
    const yaml = `version: 1\nwireguard: { wg0: { zone: mesh, privateKey: "${secret}" } }\n`;
    const answers = [
      await bench.ask('PUT', 'config/wireguard/wg0', { body: { zone: 'mesh', privateKey: secret } }),
      await bench.ask('POST', 'config/commit', { body: { text: yaml } }),
      await bench.ask('PUT', 'config/candidate', { body: { text: yaml } }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([400, 422, 422]);
    expect(JSON.stringify(answers.map(({ body }) => body))).not.toContain(secret);
    expect(bench.transactions.candidate).toBeUndefined();
  });

  test('zones are what interfaces say', async () => {
    const bench = await startApi();
    expect((await bench.ask('GET', 'config/zones')).body).toEqual({ items: [{ name: 'untrust', interfaces: ['untrust'] }, { name: 'trust', interfaces: ['trust'] }] });
    expect((await bench.ask('GET', 'config/zones/trust')).body).toEqual({ name: 'trust', interfaces: ['trust'] });
  });

  test('taking the last entry away leaves no empty section behind', async () => {
    const bench = await startApi();
    await bench.ask('DELETE', 'config/nat/source/egress', { headers: { 'if-match': '*' } });
    expect((bench.config() as Config).nat).toBeUndefined();
  });
});
