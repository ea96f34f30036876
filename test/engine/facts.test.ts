// Facts from the tools' output, and what counts as an obstacle to forwarding.
import { describe, expect, test } from 'vitest';
import { CommandError, type Run } from '../../src/engine/command.js';
import { findObstacles, parseIptables, parseRuleset, readFirewallConflicts } from '../../src/engine/conflicts.js';
import { parseChannels, readFacts } from '../../src/engine/facts.js';
import { makeFacts } from './fake-addon.js';

const LINKS = [
  { ifindex: 1, ifname: 'lo', flags: ['LOOPBACK', 'UP', 'LOWER_UP'], mtu: 65536, link_type: 'loopback', address: '00:00:00:00:00:00' },
  {
    ifindex: 3, link_index: 9, ifname: 'eth1', flags: ['UP', 'LOWER_UP'], mtu: 1500, link_type: 'ether', address: '02:00:00:00:00:01', num_rx_queues: 8,
    linkinfo: { info_kind: 'veth' }, xdp: { mode: 1, prog: { id: 7, name: 'someone_elses' }, attached: [{ mode: 1, prog: { id: 7, name: 'someone_elses' } }] },
  },
  { ifindex: 4, link: 'eth1', ifname: 'eth1.5', flags: [], mtu: 1500, link_type: 'ether', address: '02:00:00:00:00:01', linkinfo: { info_kind: 'vlan', info_data: { id: 5 } } },
];
const ADDRESSES = [{ ifname: 'eth1', addr_info: [{ local: '10.0.0.1', prefixlen: 24, dynamic: true }, { local: 'fe80::1', prefixlen: 64 }] }, { ifname: 'eth1.5' }];

const answers = (table: Record<string, string>): Run => async (program, ...args) => {
  const key = Object.keys(table).find((known) => [program, ...args].join(' ').startsWith(known));
  if (key === undefined) throw new CommandError(program, 'not here', true);
  return table[key]!;
};

describe('facts', () => {
  test('are read from ip and ethtool', async () => {
    const facts = await readFacts(answers({
      'ip -j -d link': JSON.stringify(LINKS), 'ip -j address': JSON.stringify(ADDRESSES),
      'ethtool -i eth1': 'driver: veth\nversion: 1.0\n', 'ethtool -l eth1': 'Pre-set maximums:\nRX: 8\nCombined: n/a\nCurrent hardware settings:\nRX:\t\t2\nTX:\t\t2\nCombined:\tn/a\n',
    }));
    expect(facts.devices[1]).toEqual({
      name: 'eth1', ifindex: 3, mtu: 1500, mac: '02:00:00:00:00:01', driver: 'veth', up: true, queues: 2, kind: 'veth',
      addresses: [{ address: '10.0.0.1', prefixLength: 24, dynamic: true }, { address: 'fe80::1', prefixLength: 64, dynamic: false }],
    });
    expect(facts.devices[2]).toMatchObject({ name: 'eth1.5', kind: 'vlan', vlanId: 5, parentIfindex: 3, up: false });
    expect(facts.xdp).toEqual([{ device: 'eth1', programs: ['someone_elses'], mode: 'native' }]);
    expect(facts.carriers).toEqual(['lo', 'eth1']);
  });

  test('of this machine can be read', async () => {
    const facts = await readFacts();
    expect(facts.devices.find((device) => device.name === 'lo')).toMatchObject({ ifindex: 1, up: true });
    expect(facts.localPortRange?.[0]).toBeGreaterThan(0);
  });

  test.each([
    { text: 'Current hardware settings:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t4\n', queues: 4 },
    { text: 'Pre-set maximums:\nCombined: 63\nCurrent hardware settings:\nRX:\t\t1\nCombined:\t2\n', queues: 3 },
    { text: 'netlink error: Operation not supported\n', queues: undefined },
  ])('queues of ethtool -l: $queues', ({ text, queues }) => expect(parseChannels(text)).toBe(queues));
});

const ruleset = (...entries: object[]): string => JSON.stringify({ nftables: entries });
const chain = (over: object): object => ({ chain: { family: 'inet', table: 'guard', name: 'f', hook: 'forward', policy: 'accept', ...over } });
const rule = (...expr: object[]): object => ({ rule: { family: 'inet', table: 'guard', chain: 'f', expr } });
const onDevice = (key: string, right: unknown): object => ({ match: { op: '==', left: { meta: { key } }, right } });
const accept = { accept: null };

describe('firewall conflicts', () => {
  test.each([
    { what: 'an empty chain that accepts', text: ruleset(chain({})), conflicts: [] },
    { what: 'a chain at another hook', text: ruleset(chain({ hook: 'input', policy: 'drop' })), conflicts: [] },
    { what: 'a bridge chain', text: ruleset(chain({ family: 'bridge', policy: 'drop' })), conflicts: [] },
    { what: 'a policy of drop', text: ruleset(chain({ policy: 'drop' })), conflicts: [{ kind: 'nftables-forward', name: 'inet guard f' }] },
    { what: 'a rule for all', text: ruleset(chain({}), rule(accept)), conflicts: [{ kind: 'nftables-forward', name: 'inet guard f' }] },
    { what: 'rules for one device', text: ruleset(chain({}), rule(onDevice('iifname', 'docker0'), accept), rule(onDevice('oifname', { set: ['docker0', 'br1'] }))), conflicts: [{ kind: 'nftables-forward', name: 'inet guard f', devices: ['docker0', 'br1'] }] },
    { what: 'a rule with a wildcard', text: ruleset(chain({}), rule(onDevice('iifname', 'eth*'))), conflicts: [{ kind: 'nftables-forward', name: 'inet guard f' }] },
    { what: 'an ingress chain', text: ruleset(chain({ family: 'netdev', hook: 'ingress', dev: 'eth1' })), conflicts: [{ kind: 'nftables-ingress', name: 'netdev guard f', devices: ['eth1'] }] },
    { what: 'nonsense', text: 'not json', conflicts: [] },
  ])('$what', ({ text, conflicts }) => expect(parseRuleset(text)).toEqual(conflicts));

  test('the device of an ingress chain comes from the text when the JSON lacks it', async () => {
    const text = 'table netdev guard {\n\tchain f {\n\t\ttype filter hook ingress devices = { "eth1", "eth2" } priority filter; policy accept;\n\t}\n}\n';
    const run = answers({ 'nft -j list ruleset': ruleset(chain({ family: 'netdev', hook: 'ingress' })), 'nft list chain netdev guard f': text });
    expect(await readFirewallConflicts(run)).toEqual([{ kind: 'nftables-ingress', name: 'netdev guard f', devices: ['eth1', 'eth2'] }]);
  });

  test.each([
    { saved: ':FORWARD ACCEPT [0:0]\n', conflicts: [] },
    { saved: ':FORWARD DROP [0:0]\n', conflicts: [{ kind: 'iptables-forward', name: 'iptables FORWARD' }] },
    { saved: ':FORWARD ACCEPT [0:0]\n-A FORWARD -o docker0 -j X\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n', conflicts: [{ kind: 'iptables-forward', name: 'iptables FORWARD', devices: ['docker0'] }] },
    { saved: ':FORWARD ACCEPT [0:0]\n-A FORWARD -j X\n', conflicts: [{ kind: 'iptables-forward', name: 'iptables FORWARD' }] },
  ])('iptables: $saved', ({ saved, conflicts }) => expect(parseIptables(saved, 'iptables')).toEqual(conflicts));
});

describe('obstacles', () => {
  const data = ['eth1', 'eth2'];
  const foreign = (): boolean => false;

  test('none on a clean machine', () => expect(findObstacles(makeFacts(), data, foreign)).toEqual([]));

  test('a chain is one when it may touch a data interface', () => {
    const facts = makeFacts({ conflicts: [{ kind: 'nftables-forward', name: 'inet guard f', devices: ['docker0'] }, { kind: 'nftables-forward', name: 'ip nat fw' }] });
    const found = findObstacles(facts, data, foreign);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject({ code: 'SLUICE_FOREIGN_FIREWALL', message: expect.stringContaining("'ip nat fw'") as string, remedy: expect.stringContaining('nft delete chain ip nat fw') as string });
  });

  test('an XDP program is one unless it is ours', () => {
    const facts = makeFacts({ xdp: [{ device: 'eth1', programs: ['someone_elses'], mode: 'native' }, { device: 'eth9', programs: ['x'], mode: 'native' }] });
    expect(findObstacles(facts, data, foreign)).toEqual([expect.objectContaining({ code: 'SLUICE_FOREIGN_XDP', message: expect.stringMatching(/eth1.*someone_elses/) as string })]);
    expect(findObstacles(facts, data, () => true)).toEqual([]);
  });

  test('a kernel that forwards IPv6 itself is one', () => {
    expect(findObstacles(makeFacts({ ipv6ForwardingAll: true }), data, foreign)).toMatchObject([{ code: 'SLUICE_KERNEL_FORWARDS' }]);
  });
});
