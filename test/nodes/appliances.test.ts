// Two appliances, each with its real control, API and engine process over an addon of plain JavaScript: they learn one another's keys over TLS,
// without a revision, keep them, and rotate their own.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Nodes } from '../../src/nodes/nodes.js';
import { loadIdentity, type NodeIdentity } from '../../src/nodes/identity.js';
import type { NodesView } from '../../src/nodes/view.js';
import type { WireguardPlan } from '../../src/engine/last-applied.js';
import { findMissing } from '../../src/control/status.js';
import { freePort } from '../api/access-bench.js';
import { CONFIG, startBench, type ControlBench } from '../control/bench.js';
import { freePort as freeUdpPort } from '../engine/memory-wireguard.js';
import { silentLog } from '../engine/fake-addon.js';
import { parseExposition, valueOf } from '../metrics/exposition.js';
import { makeIdentity } from './support.js';

interface Appliance { bench: ControlBench; identity: NodeIdentity; nodes: Nodes; name: string; listen: string; udpPort: number }

const BY = { name: 'test', via: 'socket' } as const;

async function startAppliance(name: string): Promise<Appliance> {
  const bench = await startBench(CONFIG.replace('nva-test', name));
  await expect.poll(() => findMissing(bench.control)).toEqual([]);
  const identity = await loadIdentity(bench.paths.nodeState);
  const appliance = { bench, identity, name, listen: `127.0.0.1:${await freePort()}`, udpPort: await freeUdpPort() } as Appliance;
  await startNodes(appliance);
  return appliance;
}

async function startNodes(appliance: Appliance): Promise<void> {
  const { bench: { control, transactions, paths } } = appliance;
  const nodes = new Nodes(paths.nodeState, silentLog, {
    show: () => control.wireguards(), rotate: (name, phase) => control.engine.wireguardRotate(name, phase), refill: () => control.reload(), audit: () => undefined,
  });
  onTestFinished(() => nodes.stop());
  appliance.nodes = nodes;
  control.nodes = nodes;
  transactions.fill = (config) => nodes.fill(config);
  await nodes.start();
  control.reload();
}

/** `peerId`: whom this one takes the other for. Only the second one has to be reached. */
function configOf(own: Appliance, other: Appliance, { url = true, peerId = other.identity.id, nodes = '' } = {}): string {
  return `${CONFIG.replace('nva-test', own.name)}
wireguard:
  wg0: { zone: mesh, listen: ${own.udpPort}, addresses: [10.99.0.${own.name.at(-1)}/24], peers: [{ name: other, node: ${other.name}, allowedIPs: [10.99.0.${other.name.at(-1)}/32] }] }
nodes:
  listen: "${own.listen}"
  peers: [{ name: ${other.name}, id: "${peerId}"${url ? `, url: "https://${other.listen}"` : ''} }]
  announce: { wg0: { endpoint: "203.0.113.${own.name.at(-1)}:${own.udpPort}", allowedIPs: [0.0.0.0/0] } }
${nodes}`;
}

const commit = ({ bench }: Appliance, text: string) => bench.transactions.commit({ text, by: BY, force: true });
const planOf = ({ bench }: Appliance): WireguardPlan | undefined => bench.control.applied?.compiled.plan.wireguards[0];
const keyOf = async ({ bench }: Appliance): Promise<string | null | undefined> => (await bench.control.engine.wireguardShow())[0]?.publicKey;
const viewOf = async ({ bench }: Appliance): Promise<NodesView> => (await bench.api.inject('/api/v1/nodes')).json<NodesView>();

async function startPair(): Promise<[Appliance, Appliance]> {
  const pair: [Appliance, Appliance] = [await startAppliance('nva-1'), await startAppliance('nva-2')];
  await commit(pair[0], configOf(...pair, { url: false }));
  await commit(pair[1], configOf(pair[1], pair[0]));
  return pair;
}

/** Each has the other's key in force, and knows that the other has its own. */
async function acquainted([one, other]: [Appliance, Appliance]): Promise<void> {
  for (const [own, theirs] of [[one, other], [other, one]] as const) {
    await expect.poll(() => planOf(own)?.peers[0]?.publicKey).toBe(await keyOf(theirs));
    await expect.poll(async () => (await viewOf(own)).peers[0]).toMatchObject({ inForce: true, hasOurs: true, refused: null, theyRefused: null });
  }
}

test('two appliances learn one another\'s keys and endpoints, without a revision, and nothing more than what they permit', async () => {
  const pair = await startPair();
  await acquainted(pair);
  const [one, other] = pair;
  expect(one.bench.transactions.running.revision).toBe(2);
  expect(one.bench.transactions.running.text).not.toContain(await keyOf(other));
  expect(planOf(one)!.peers).toMatchObject([{ name: 'other', endpoint: { address: '203.0.113.2', port: other.udpPort } }]);
  const { peers: [peer] } = await viewOf(one);
  expect(peer).toMatchObject({ name: 'nva-2', url: null, tunnels: ['wg0'], notes: ['0.0.0.0/0 is not among what it may announce'] });
  const { interfaces: [tunnel] } = (await one.bench.api.inject('/api/v1/wireguard')).json<{ interfaces: { peers: { node: string; publicKey: string; allowedIPs: string[] }[] }[] }>();
  expect(tunnel!.peers).toMatchObject([{ node: 'nva-2', publicKey: await keyOf(other), allowedIPs: ['10.99.0.2/32'] }]);
  const metrics = parseExposition((await one.bench.api.inject('/metrics')).body);
  expect(valueOf(metrics, 'sluice_node_record_in_force', { node: 'nva-2', record: 'its' })).toBe(1);
  expect(valueOf(metrics, 'sluice_node_last_exchange_seconds', { node: 'nva-2' })).toBeGreaterThan(Date.now() / 1000 - 60);
});

test('what was learnt is there after a restart, also while the other one is away', async () => {
  const pair = await startPair();
  await acquainted(pair);
  const [one, other] = pair;
  await other.nodes.stop();
  await one.nodes.stop();
  await startNodes(one);
  await commit(one, configOf(one, other, { url: false, nodes: '  rotate: { overlap: 5m }' }));
  expect(planOf(one)?.peers[0]?.publicKey).toBe(await keyOf(other));
  await one.nodes.stop();
});

test('a node that is taken out of the configuration is forgotten, and its key with it', async () => {
  const pair = await startPair();
  await acquainted(pair);
  const [one, other] = pair;
  await commit(one, configOf(one, other, { url: false, peerId: (await makeIdentity()).id }));
  expect(planOf(one)?.peers).toEqual([]);
  other.nodes.wake();
  await expect.poll(async () => (await viewOf(other)).peers[0]?.problem ?? '').toMatch(/does it know this node/);
  await expect.poll(async () => (await viewOf(one)).strangers).toBeGreaterThan(0);
});

test('another identity at the other end gets nothing and gives nothing', async () => {
  const pair: [Appliance, Appliance] = [await startAppliance('nva-1'), await startAppliance('nva-2')];
  const [one, other] = pair;
  await commit(one, configOf(one, other, { url: false }));
  await commit(other, configOf(other, one, { peerId: (await makeIdentity()).id }));
  await expect.poll(async () => (await viewOf(other)).peers[0]?.problem).toContain(`who answers there is ${one.identity.id}`);
  expect([planOf(one)?.peers, planOf(other)?.peers]).toEqual([[], []]);
  expect((await viewOf(one)).peers[0]).toMatchObject({ record: null, exchanges: 0 });
});

test('a key rotates on command: the other end follows, no revision is made, no secret is shown', async () => {
  const pair = await startPair();
  await acquainted(pair);
  const [one, other] = pair;
  const keyFile = join(one.bench.paths.wireguardState, 'wg0.key');
  const [before, secretBefore] = [await keyOf(one), readFileSync(keyFile, 'utf8').trim()];
  const seen: unknown[] = [];
  other.bench.control.engine.configure = new Proxy(other.bench.control.engine.configure, {
    apply: (target, self, args: [{ wireguards: WireguardPlan[] }]) => {
      seen.push(args[0].wireguards[0]?.peers.map(({ publicKey, nextPublicKey }) => [publicKey, nextPublicKey]));
      return Reflect.apply(target, self, args) as unknown;
    },
  });
  const answer = await one.bench.api.inject({ method: 'POST', url: '/api/v1/wireguard/wg0/rotate', payload: { overlapS: 60 }, headers: { prefer: 'respond-async' } });
  expect(answer.statusCode).toBe(202);
  const { id } = answer.json<{ id: string }>();
  const operation = async (): Promise<{ state: string; result?: unknown }> => (await one.bench.api.inject(`/api/v1/operations/${id}`)).json();
  // The other one calls: it is told at its next call, which a change of its own brings about here.
  await expect.poll(async () => {
    other.nodes.wake();
    return (await operation()).state;
  }, { interval: 200 }).toBe('done');
  const after = await keyOf(one);
  expect((await operation()).result).toMatchObject({ interface: 'wg0', publicKey: after, previousPublicKey: before, left: [] });
  expect(after).not.toBe(before);
  expect(seen).toContainEqual([[before, after]]);
  expect(planOf(other)!.peers[0]).toMatchObject({ publicKey: after });
  expect(planOf(other)!.peers[0]!.nextPublicKey).toBe(undefined);
  expect(other.bench.transactions.running.revision).toBe(2);
  const secretAfter = readFileSync(keyFile, 'utf8').trim();
  expect(secretAfter).not.toBe(secretBefore);
  for (const { bench, identity } of pair) {
    for (const url of ['/api/v1/nodes', '/api/v1/wireguard', `/api/v1/operations`, '/api/v1/config', '/metrics']) {
      const { body } = await bench.api.inject(url);
      for (const secret of [secretBefore, secretAfter, identity.key]) expect(body).not.toContain(secret);
    }
  }
});

test('rotate says what it cannot do', async () => {
  const [one] = await startPair();
  const rotate = async (name: string, payload: object = {}) => (await one.bench.api.inject({ method: 'POST', url: `/api/v1/wireguard/${name}/rotate`, payload })).json<{ status: number; code: string; detail: string }>();
  expect(await rotate('wg9')).toMatchObject({ status: 404 });
  expect(await rotate('wg0', { overlapS: 0 })).toMatchObject({ status: 400 });
  expect(await rotate('wg0', { overlap: '10m' })).toMatchObject({ status: 400 });
  const text = configOf(one, (await startPair())[1], { url: false });
  await commit(one, text.replace('peers: [{ name: other', `peers: [{ name: branch-7, publicKey: "${Buffer.alloc(32, 7).toString('base64')}" }, { name: other`));
  expect(await rotate('wg0')).toMatchObject({ status: 409, code: 'SLUICE_NODE_ROTATION', detail: expect.stringContaining('branch-7') as string });
});
