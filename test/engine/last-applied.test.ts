// The state in force, on disk: it comes back whole or not at all.
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { loadLastApplied, parsePlan, saveLastApplied, type ConfigurePlan, type WireguardPeerPlan, type WireguardPlan } from '../../src/engine/last-applied.js';
import { makeRunDirectory } from './fake-addon.js';

const PLAN: ConfigurePlan = {
  ports: [{ name: 'eth1', ifindex: 2, slot: 0, queues: 1, mode: 'native', allowGeneric: true, partialChecksums: false }],
  vlans: [{ device: 'eth1.5', parent: 'eth1', vlanId: 5 }],
  addresses: [{ device: 'eth1', address: '2001:db8::1', prefixLength: 64 }],
};

const KEY = Buffer.alloc(32, 9).toString('base64');
const PEER: WireguardPeerPlan = { id: 5, name: 'east', publicKey: KEY, nextPublicKey: Buffer.alloc(32, 8).toString('base64'), presharedKeyFile: '/etc/psk', endpoint: { address: 'east.example', port: 51820 }, keepalive: 25 };
const TUNNEL: WireguardPlan = { interface: 'wg0', id: 9, listen: 51820, mtu: 1420, privateKeyFile: '/etc/key', peers: [PEER] };

describe('last applied', () => {
  test('comes back as it was', () => {
    const { lastApplied } = makeRunDirectory();
    const snapshot = Uint8Array.from({ length: 300 }, (_, index) => index % 256);
    for (const plan of [PLAN, { ...PLAN, wireguards: [TUNNEL, { ...TUNNEL, interface: 'wg1', id: 10, listen: 51821, peers: [{ ...PEER, id: 6 }] }] }]) {
      saveLastApplied(lastApplied, { plan, snapshot });
      expect(loadLastApplied(lastApplied)).toEqual({ plan, snapshot });
    }
  });

  test('is absent when there is no file', () => expect(loadLastApplied('/nonexistent/last-applied.bin')).toBeUndefined());

  test('is absent when cut anywhere, or when any byte is wrong', () => {
    const { lastApplied } = makeRunDirectory();
    saveLastApplied(lastApplied, { plan: PLAN, snapshot: new Uint8Array(16) });
    const whole = readFileSync(lastApplied);
    for (let at = 0; at < whole.length; at += 1) {
      writeFileSync(lastApplied, whole.subarray(0, at));
      expect(loadLastApplied(lastApplied)).toBeUndefined();
      const wrong = Buffer.from(whole);
      wrong[at]! ^= 0x40;
      writeFileSync(lastApplied, wrong);
      expect(loadLastApplied(lastApplied)).toBeUndefined();
    }
  });

  test.each([
    { fault: 'no ports', plan: { vlans: [], addresses: [] } },
    { fault: 'a device name that is a path', plan: { ...PLAN, ports: [{ ...PLAN.ports[0], name: '../eth1' }] } },
    { fault: 'a device name that is an option', plan: { ...PLAN, ports: [{ ...PLAN.ports[0], name: '-batch' }] } },
    { fault: 'a slot past the bound', plan: { ...PLAN, ports: [{ ...PLAN.ports[0], slot: 32 }] } },
    { fault: 'one slot twice', plan: { ...PLAN, ports: [PLAN.ports[0], { ...PLAN.ports[0], name: 'eth2' }] } },
    { fault: 'an address that is none', plan: { ...PLAN, addresses: [{ device: 'eth1', address: 'dev lo', prefixLength: 8 }] } },
    { fault: 'nothing at all', plan: null },
    ...[
      { fault: 'a name that is a path', tunnel: { ...TUNNEL, interface: '../wg0' } },
      { fault: 'a listen port of 0', tunnel: { ...TUNNEL, listen: 0 } },
      { fault: 'an id of 0', tunnel: { ...TUNNEL, id: 0 } },
      { fault: 'a key file without its directory', tunnel: { ...TUNNEL, privateKeyFile: 'key' } },
      { fault: 'no peers', tunnel: { ...TUNNEL, peers: undefined } },
      { fault: 'a public key that is none', tunnel: { ...TUNNEL, peers: [{ ...PEER, publicKey: KEY.slice(1) }] } },
      { fault: 'a key beyond 32 bytes', tunnel: { ...TUNNEL, peers: [{ ...PEER, nextPublicKey: `${KEY.slice(0, 42)}B=` }] } },
      { fault: 'one public key twice', tunnel: { ...TUNNEL, peers: [PEER, { ...PEER, id: 6 }] } },
      { fault: 'one peer id twice', tunnel: { ...TUNNEL, peers: [PEER, { ...PEER, publicKey: Buffer.alloc(32, 1).toString('base64'), nextPublicKey: undefined }] } },
      { fault: 'an endpoint that is an option', tunnel: { ...TUNNEL, peers: [{ ...PEER, endpoint: { address: 'a b', port: 1 } }] } },
      { fault: 'a keepalive of a day', tunnel: { ...TUNNEL, peers: [{ ...PEER, keepalive: 86400 }] } },
    ].map(({ fault, tunnel }) => ({ fault: `a WireGuard interface with ${fault}`, plan: { ...PLAN, wireguards: [tunnel] } })),
    { fault: 'one listen port for two', plan: { ...PLAN, wireguards: [TUNNEL, { ...TUNNEL, interface: 'wg1', id: 10, peers: [] }] } },
    { fault: 'WireGuard interfaces that are no list', plan: { ...PLAN, wireguards: {} } },
  ])('a plan with $fault is refused', ({ plan }) => expect(() => parsePlan(plan)).toThrow(TypeError));
});
