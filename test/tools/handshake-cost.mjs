// What WireGuard handshakes cost the engine's main thread, in milliseconds of CPU time: `node test/tools/handshake-cost.mjs [ROUNDS] [PEERS]`.
// A handshake on either side, a refused message, a tick over PEERS peers; and what 2,000 peers that rekey each 120 s take of a
// core (bar: 15 %, exit code 1 above it). Needs a build (npm run setup). CPU time, because the machine may be busy with other things.
import { createPublicKey, createPrivateKey, diffieHellman, randomFillSync } from 'node:crypto';

const [rounds = '200', peers = '10000'] = process.argv.slice(2);
if (rounds === '--help') {
  console.log('usage: node test/tools/handshake-cost.mjs [ROUNDS] [PEERS]');
  process.exit(0);
}
const source = new URL('../../dist/src/', import.meta.url);
const load = (path) => import(new URL(path, source).href);
const [{ WireguardDevice }, { publicKeyOf, sharedSecret }, { WIREGUARD_PEER_RECORD_BYTES, writeWireguardPeerRecord }] = await Promise.all(
  ['wireguard/device.js', 'wireguard/curve.js', 'engine/abi.generated.js'].map(load));
const SHARE_MAX = 0.15;
const REKEYING_PEERS = 2000;
const REKEY_S = 120;

let nowNs = 1_000_000_000_000n;
let index = 0;
const randomBytes = (count) => randomFillSync(new Uint8Array(new ArrayBuffer(count)));
const rim = { randomBytes, wallClockNs: () => 1_764_000_000_000_000_000n + nowNs, newIndex: () => (index += 1) };
const here = { address: new Uint8Array(16).fill(1), local: new Uint8Array(16), port: 51820 };

const costs = new Map();
function timed(step, work) {
  const before = process.cpuUsage();
  const result = work();
  const { user, system } = process.cpuUsage(before);
  costs.set(step, [...costs.get(step) ?? [], (user + system) / 1000]);
  return result;
}
const median = (step) => costs.get(step).sort((a, b) => a - b)[Math.floor(costs.get(step).length / 2)];
const messageOf = (actions) => actions.find(({ type }) => type === 'send')?.message;

const [keyA, keyB, stranger] = [randomBytes(32), randomBytes(32), randomBytes(32)];
function device(privateKey, ...others) {
  const one = new WireguardDevice(1, rim);
  one.setKeys({ current: privateKey });
  one.setPeers(others.map((key, id) => ({ id: id + 1, publicKey: publicKeyOf(key) })));
  return one;
}
const [a, b] = [device(keyA, keyB), device(keyB, keyA)];
const foreign = messageOf(device(stranger, keyB).want(1, nowNs));
for (let round = 0; round < Number(rounds) + 20; round += 1) {
  if (round === 20) costs.clear(); // warm by now
  nowNs += 6_000_000_000n;
  const initiation = messageOf(timed('initiator: initiation', () => a.want(1, nowNs)));
  timed('responder: a stranger refused', () => b.onMessage(foreign, here, 0, nowNs));
  const broken = initiation.slice();
  broken[20] ^= 1;
  timed('responder: wrong mac1 refused', () => b.onMessage(broken, here, 0, nowNs));
  const response = messageOf(timed('responder: initiation to response', () => b.onMessage(initiation, here, 0, nowNs)));
  const done = timed('initiator: response to session', () => a.onMessage(response, here, 0, nowNs));
  if (!done.some(({ type }) => type === 'install')) throw new Error('the handshake did not complete');
  // For comparison: OpenSSL by way of Node, keys imported each time.
  const der = (prefix, key) => Buffer.concat([Buffer.from(prefix, 'hex'), key]);
  const publicB = publicKeyOf(keyB);
  timed('one secret: this library', () => sharedSecret(keyA, publicB));
  timed('one secret: node:crypto', () => diffieHellman({
    privateKey: createPrivateKey({ key: der('302e020100300506032b656e04220420', keyA), format: 'der', type: 'pkcs8' }),
    publicKey: createPublicKey({ key: der('302a300506032b656e032100', publicB), format: 'der', type: 'spki' }),
  }));
}

const count = Number(peers);
const many = new WireguardDevice(1, rim);
many.setKeys({ current: keyA });
many.setPeers(Array.from({ length: count }, (_, id) => ({ id: id + 1, publicKey: randomBytes(32), keepaliveS: id % 2 === 0 ? 25 : 0 })));
const records = new Uint8Array(count * WIREGUARD_PEER_RECORD_BYTES);
for (let tick = 0; tick < 200; tick += 1) {
  nowNs += 200_000_000n;
  const view = new DataView(records.buffer);
  for (let id = 0; id < count; id += 1) {
    writeWireguardPeerRecord(view, id * WIREGUARD_PEER_RECORD_BYTES, {
      id: id + 1, interface: 1, endpoint: here, lastSentNs: nowNs, lastReceivedNs: nowNs - 1n, lastDataSentNs: nowNs, lastDataReceivedNs: nowNs - 1n,
      currentCreatedNs: nowNs - 60_000_000_000n, currentSent: 1000n, txPackets: 1n, txBytes: 1n, rxPackets: 1n, rxBytes: 1n, waiting: 0, currentInitiator: 1, hasNext: 0,
    });
  }
  timed(`tick, ${count} peers with traffic`, () => many.tick(nowNs, records));
}

for (const step of costs.keys()) console.log(`${step.padEnd(40)} ${median(step).toFixed(3)} ms`);
const initiator = median('initiator: initiation') + median('initiator: response to session');
const responder = median('responder: initiation to response');
const worst = Math.max(initiator, responder);
const share = (REKEYING_PEERS / REKEY_S) * worst / 1000;
console.log(`\na handshake: ${initiator.toFixed(2)} ms as initiator, ${responder.toFixed(2)} ms as responder`);
console.log(`${REKEYING_PEERS} peers rekeying each ${REKEY_S} s: ${(100 * share).toFixed(1)} % of a core (bar: ${100 * SHARE_MAX} %)`);
process.exit(share <= SHARE_MAX ? 0 : 1);
