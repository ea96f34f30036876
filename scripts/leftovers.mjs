// What tests could leave on the machine, a line each: test.sh looks before and after, and what came in between is left over.
//   node scripts/leftovers.mjs            everything there is now
//   node scripts/leftovers.mjs BEFORE     what is not in that file; exit code 1 when there is something
// Other runs may work on the same machine: what belongs to a living process of theirs is not ours. Ours are known by SLUICE_TEST_RUN in
// the environment that each of them inherits.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';

const LABS = '/run/sluice-lab';
const list = (path) => (existsSync(path) ? readdirSync(path) : []);
const read = (path) => { try { return readFileSync(path, 'utf8'); } catch { return ''; } };
const run = process.env.SLUICE_TEST_RUN;

/** Whether a lab is somebody's who lives: its directory names the process that made it. */
const isOwned = (id) => existsSync(`/proc/${read(`${LABS}/${id}/owner`).split(' ')[0] || '-'}`);
/** A namespace's name holds its lab's id or the number of the process that made it. */
const isOwnedNamespace = (name) => name.split('-').slice(1).some((word) => isOwned(word) || (/^\d+$/.test(word) && existsSync(`/proc/${word}`)));
const ownedLabs = list(LABS).filter(isOwned);

function processes() {
  if (!run) return [];
  const ours = list('/proc').filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid && read(`/proc/${pid}/environ`).split('\0').includes(`SLUICE_TEST_RUN=${run}`));
  // The script that asks, and what it is a part of.
  const above = new Set();
  for (let pid = process.pid; pid > 1; pid = Number(read(`/proc/${pid}/stat`).replace(/^.*\) /s, '').split(' ')[1])) above.add(String(pid));
  return ours.filter((pid) => !above.has(pid)).map((pid) => `process ${pid}: ${read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim()}`);
}

const cgroups = read('/proc/mounts').split('\n').map((line) => line.split(' ')).filter((fields) => fields[2]?.startsWith('cgroup')).map((fields) => fields[1]);
const found = [
  ...processes(),
  ...list('/run/netns').filter((name) => name.startsWith('sl-') && !isOwnedNamespace(name)).map((name) => `network namespace ${name}`),
  ...list(LABS).filter((id) => !isOwned(id)).map((id) => `directory ${LABS}/${id}`),
  ...list('/run/wireguard').filter((name) => name.startsWith('slwg') && !ownedLabs.some((id) => name.startsWith(`slwg${id}`))).map((name) => `socket /run/wireguard/${name}`),
  ...read('/proc/mounts').split('\n').map((line) => line.split(' ')[1] ?? '').filter((point) => /sluice|\/slt\./.test(point) && !ownedLabs.some((id) => point.startsWith(`${LABS}/${id}/`))).map((point) => `mount ${point}`),
  ...list('/sys/fs/bpf').map((name) => `pin /sys/fs/bpf/${name}`),
  ...cgroups.flatMap((point) => list(point).filter((name) => name.startsWith('sluice')).map((name) => `cgroup ${point}/${name}`)),
  ...JSON.parse(execFileSync('ip', ['-j', 'link', 'show'], { encoding: 'utf8' })).map(({ ifname }) => `netdev ${ifname}`),
];

const before = process.argv[2] === undefined ? [] : readFileSync(process.argv[2], 'utf8').split('\n');
const left = found.filter((line) => !before.includes(line));
if (left.length > 0) console.log(left.join('\n'));
if (process.argv[2] !== undefined && left.length > 0) process.exitCode = 1;
