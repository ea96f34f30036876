// What one commit of one changed rule costs control, step by step, in milliseconds of CPU time: `node test/tools/commit-cost.mjs [RULES] [ROUNDS]`.
// Without engine and disk. Needs a build (npm run setup). CPU time, because the machine may be busy with other things.
const [rulesWanted = '10000', roundsWanted = '50'] = process.argv.slice(2);
if (rulesWanted === '--help') {
  console.log('usage: node test/tools/commit-cost.mjs [RULES] [ROUNDS]');
  process.exit(0);
}
const source = new URL('../../dist/src/', import.meta.url);
const load = (path) => import(new URL(path, source).href);
const [{ parseText, checkShape }, { checkConfig }, { Problems }, { compileSnapshot }, { shareWith }, { diffConfigs }, { emitConfig }, { etagOf }] = await Promise.all([
  'config/load.js', 'config/check.js', 'config/problem.js', 'config/compile.js', 'config/share.js', 'config/diff.js', 'config/emit.js', 'control/store.js',
].map(load));

const device = (name, ifindex) => ({ name, ifindex, mtu: 1500, mac: '02:00:00:00:00:01', driver: 'veth', up: true, queues: 2, kind: 'veth', addresses: [] });
const facts = { devices: [device('lo', 1), device('eth1', 2), device('eth2', 3)], localPortRange: [32768, 60999] };
const rules = Array.from({ length: Number(rulesWanted) }, (_, n) => `    - { name: rule-${n}, from: [trust], to: [untrust], source: [10.${n >> 16}.${(n >> 8) & 255}.${n & 255}/32], `
  + `destination: [198.51.${(n >> 8) & 255}.0/24], service: [tcp/${1 + (n % 65000)}, udp/53], action: ${n % 7 ? 'allow' : 'deny'}, log: end }\n`);
const text = `version: 1\ninterfaces:\n  untrust: { device: eth1, zone: untrust, addresses: [203.0.113.4/24] }\n  trust: { device: eth2, zone: trust, addresses: [10.255.1.4/24] }\n`
  + `firewall:\n  rules:\n${rules.join('')}`;

const costs = new Map();
function timed(step, work) {
  const before = process.cpuUsage();
  const result = work();
  const { user, system } = process.cpuUsage(before);
  costs.set(step, [...costs.get(step) ?? [], (user + system) / 1000]);
  return result;
}

let current = timed('first: parse', () => parseText(text, 'bench')).value;
timed('first: shape', () => checkShape(current, 'bench'));
timed('first: check', () => checkConfig(current, new Problems('bench'), facts));
timed('first: compile', () => compileSnapshot(current, facts, 1));
for (let round = 0; round < Number(roundsWanted); round += 1) {
  const at = (round * 7919) % rules.length;
  const edited = { ...current, firewall: { rules: current.firewall.rules.map((rule, index) => (index === at ? { ...rule, action: 'reject', description: `round ${round}` } : rule)) } };
  const next = timed('share', () => shareWith(edited, current));
  timed('shape', () => checkShape(next, 'bench'));
  timed('check', () => checkConfig(next, new Problems('bench'), facts));
  timed('diff', () => diffConfigs(current, next));
  timed('compile', () => compileSnapshot(next, facts, 1));
  const emitted = timed('text', () => emitConfig(next));
  timed('etag', () => etagOf(emitted));
  current = next;
}
for (const [step, values] of costs) {
  values.sort((a, b) => a - b);
  const at = (share) => values[Math.min(values.length - 1, Math.floor(share * values.length))].toFixed(1).padStart(8);
  console.log(`${step.padEnd(15)} median ${at(0.5)} ms   p99 ${at(0.99)} ms`);
}
