// Finds what else claims forwarded packets: nftables and legacy iptables chains at the forward hook, ingress chains on a netdev.
// Packets that Sluice forwards never reach them, so their author would believe in a filter that does nothing: refused by name.
// Who: facts.ts. A chain that cannot touch the data interfaces is no conflict: findConflicts decides that once these are known.
import { tryRun, type Run } from './command.js';

/** `devices`: what its rules name; undefined: it applies to each device. */
export interface Conflict { kind: 'nftables-forward' | 'nftables-ingress' | 'iptables-forward'; name: string; devices?: string[] }

interface NftChain { family: string; table: string; name: string; hook?: string; policy?: string; dev?: string | string[] }
interface NftRule { family: string; table: string; chain: string; expr?: unknown[] }

export async function readFirewallConflicts(execute: Run): Promise<Conflict[]> {
  const text = await tryRun(execute, 'nft', '-j', 'list', 'ruleset');
  const conflicts = text === undefined ? [] : parseRuleset(text);
  for (const conflict of conflicts) {
    if (conflict.kind !== 'nftables-ingress' || conflict.devices) continue;
    // nft before 1.0.7 leaves the device out of its JSON; its text has it.
    const [family = '', table = '', chain = ''] = conflict.name.split(' ');
    const listing = await tryRun(execute, 'nft', 'list', 'chain', family, table, chain);
    const devices = /hook (?:ingress|egress) devices? =? ?(\{[^}]*\}|\S+)/.exec(listing ?? '')?.[1];
    if (devices) conflict.devices = [...devices.matchAll(/[^\s",{}]+/g)].map((match) => match[0]);
  }
  for (const tool of ['iptables-legacy-save', 'ip6tables-legacy-save']) {
    const saved = await tryRun(execute, tool, '-t', 'filter');
    if (saved !== undefined) conflicts.push(...parseIptables(saved, tool.startsWith('ip6') ? 'ip6tables' : 'iptables'));
  }
  return conflicts;
}

const FORWARDING_FAMILIES = new Set(['ip', 'ip6', 'inet']);

export function parseRuleset(text: string): Conflict[] {
  let entries: { chain?: NftChain; rule?: NftRule }[];
  try {
    entries = (JSON.parse(text) as { nftables?: typeof entries }).nftables ?? [];
  } catch {
    return [];
  }
  const rules = entries.flatMap((entry) => (entry.rule ? [entry.rule] : []));
  return entries.flatMap(({ chain }): Conflict[] => {
    if (!chain?.hook) return [];
    const name = `${chain.family} ${chain.table} ${chain.name}`;
    const own = rules.filter((rule) => rule.family === chain.family && rule.table === chain.table && rule.chain === chain.name);
    if (chain.hook === 'forward' && FORWARDING_FAMILIES.has(chain.family)) {
      if (chain.policy !== 'drop' && own.length === 0) return []; // what `iptables -L` leaves behind
      const devices = chain.policy === 'drop' ? undefined : devicesOfRules(own);
      return [{ kind: 'nftables-forward', name, ...(devices ? { devices } : {}) }];
    }
    if (chain.hook === 'ingress' && (chain.family === 'netdev' || chain.family === 'inet')) {
      return [{ kind: 'nftables-ingress', name, ...(chain.dev === undefined ? {} : { devices: [chain.dev].flat() }) }];
    }
    return [];
  });
}

/** The devices that rules are limited to, when each of them names some. */
function devicesOfRules(rules: NftRule[]): string[] | undefined {
  const devices = new Set<string>();
  for (const rule of rules) {
    const named = (rule.expr ?? []).map(devicesOfMatch).find((found) => found !== undefined);
    if (!named) return undefined;
    for (const device of named) devices.add(device);
  }
  return [...devices];
}

const DEVICE_KEYS = new Set(['iif', 'iifname', 'oif', 'oifname']);

function devicesOfMatch(expression: unknown): string[] | undefined {
  const match = (expression as { match?: { op?: string; left?: { meta?: { key?: string } }; right?: unknown } } | null)?.match;
  if (!match || (match.op !== '==' && match.op !== 'in') || !DEVICE_KEYS.has(match.left?.meta?.key ?? '')) return undefined;
  const right = (match.right as { set?: unknown } | null)?.set ?? match.right;
  const names = [right].flat();
  // A wildcard or a named set may hold anything.
  return names.every((name): name is string => typeof name === 'string' && !/[*@]/.test(name)) ? names : undefined;
}

export function parseIptables(saved: string, tool: string): Conflict[] {
  const rules = saved.split('\n').filter((line) => line.startsWith('-A FORWARD'));
  const drops = /^:FORWARD DROP/m.test(saved);
  if (rules.length === 0 && !drops) return [];
  const named = rules.map((rule) => / -[io] ([^\s!+]+)(?= |$)/.exec(rule.replace(/! -[io] \S+/g, ''))?.[1]);
  const devices = drops || named.includes(undefined) ? undefined : [...new Set(named as string[])];
  return [{ kind: 'iptables-forward', name: `${tool} FORWARD`, ...(devices ? { devices } : {}) }];
}

const KINDS: Record<Conflict['kind'], string> = {
  'nftables-forward': 'nftables chain at the forward hook',
  'nftables-ingress': 'nftables chain at the ingress hook',
  'iptables-forward': 'legacy iptables chain',
};

export interface Obstacle { code: string; message: string; remedy: string }

/** What stands against forwarding between these data interfaces; empty when nothing does. `own`: devices with our XDP program. */
export function findObstacles(
  facts: { conflicts: Conflict[]; xdp: { device: string; programs: string[]; mode: string }[]; ipv6ForwardingAll: boolean },
  devices: readonly string[], own: (device: string) => boolean,
): Obstacle[] {
  const obstacles: Obstacle[] = [];
  for (const conflict of facts.conflicts) {
    const touched = conflict.devices ? devices.filter((device) => conflict.devices!.includes(device)) : [...devices];
    if (touched.length === 0) continue;
    const [family, table, chain] = conflict.name.split(' ');
    obstacles.push({
      code: 'SLUICE_FOREIGN_FIREWALL',
      message: `${KINDS[conflict.kind]} '${conflict.name}' applies to ${touched.join(', ')}, but forwarded packets will not pass it`,
      remedy: conflict.kind === 'iptables-forward' ? 'move its rules into firewall.rules and flush the FORWARD chain'
        : `move its rules into firewall.rules, then remove it: nft delete chain ${family} ${table} ${chain}`,
    });
  }
  for (const program of facts.xdp) {
    if (!devices.includes(program.device) || own(program.device)) continue;
    obstacles.push({
      code: 'SLUICE_FOREIGN_XDP',
      message: `${program.device} carries a foreign XDP program: ${program.programs.join(', ') || 'unnamed'} (${program.mode})`,
      remedy: `end the program that owns it, or remove it: ip link set dev ${program.device} xdp off`,
    });
  }
  if (facts.ipv6ForwardingAll) {
    obstacles.push({
      code: 'SLUICE_KERNEL_FORWARDS',
      message: 'the kernel forwards IPv6 itself (net.ipv6.conf.all.forwarding is 1; it has no switch per interface), past the policy',
      remedy: 'sysctl -w net.ipv6.conf.all.forwarding=0',
    });
  }
  return obstacles;
}
