// Reads what the machine has: netdevs with addresses, queues and drivers, the kernel's ephemeral ports, foreign XDP programs.
// Who: the engine process for control's `facts` request, the supervisor and `sluice check` before anything runs.
// Queues and drivers come from ethtool, not from /sys: a sysfs mount shows the network namespace it was mounted in, which is
// not ours under `nsenter --net`. Bounds: ETHTOOL_PARALLEL_MAX tools at a time.
import { readFileSync } from 'node:fs';
import type { Device, Facts } from '../config/facts.js';
import { run, tryRun, type Run } from './command.js';
import { readFirewallConflicts, type Conflict } from './conflicts.js';

const ETHTOOL_PARALLEL_MAX = 8;

export interface ForeignXdp { device: string; programs: string[]; mode: string }

/** Facts that check and compile take, and beside them what stands in the appliance's way or is only shown. */
export interface HostFacts extends Facts {
  xdp: ForeignXdp[];       // programs on netdevs, ours among them: who asks knows its own
  conflicts: Conflict[];   // firewall chains that packets between data interfaces would pass by
  ipv6ForwardingAll: boolean;
  carriers: string[];      // netdevs whose link is up in fact; a Device's `up` is what an operator asked for
}

interface IpLink {
  ifindex: number; ifname: string; flags?: string[]; mtu: number; link_type?: string; address?: string; operstate?: string;
  link_index?: number; link?: string; num_rx_queues?: number;
  linkinfo?: { info_kind?: string; info_data?: { id?: number } };
  xdp?: { mode?: number; prog?: { id: number; name?: string }; attached?: { mode?: number; prog?: { id: number; name?: string } }[] };
}
interface IpAddress { ifname: string; addr_info?: { local?: string; prefixlen?: number; dynamic?: boolean; scope?: string }[] }

export async function readFacts(execute: Run = run): Promise<HostFacts> {
  const [{ links, devices }, conflicts] = await Promise.all([readLinks(execute, true), readFirewallConflicts(execute)]);
  const localPortRange = readPortRange();
  return {
    devices,
    ...(localPortRange ? { localPortRange } : {}),
    xdp: links.flatMap((link) => xdpOf(link)),
    conflicts,
    carriers: links.filter((link) => link.flags?.includes('LOWER_UP')).map((link) => link.ifname),
    ipv6ForwardingAll: readSetting('/proc/sys/net/ipv6/conf/all/forwarding') === '1',
  };
}

/** Names, indexes and addresses alone, in one go: what a restarting engine waits for. Drivers and queues are guesses. */
export async function readDevices(execute: Run = run): Promise<Device[]> {
  return (await readLinks(execute, false)).devices;
}

async function readLinks(execute: Run, withEthtool: boolean): Promise<{ links: IpLink[]; devices: Device[] }> {
  const [linkText, addressText] = await Promise.all([execute('ip', '-j', '-d', 'link', 'show'), execute('ip', '-j', 'address', 'show')]);
  const links = parseJsonList<IpLink>(linkText).filter((link) => typeof link.ifname === 'string');
  const addresses = new Map(parseJsonList<IpAddress>(addressText).map((entry) => [entry.ifname, entry.addr_info ?? []]));
  const details = withEthtool ? await readEthtool(links, execute) : new Map<string, EthtoolDetails>();
  const devices = links.map((link): Device => {
    const kind = link.linkinfo?.info_kind ?? '';
    const vlanId = kind === 'vlan' ? link.linkinfo?.info_data?.id : undefined;
    // Of VLAN devices only: a veth's peer stands in the same field, and its index may belong to another namespace.
    const parentIfindex = kind === 'vlan' ? link.link_index ?? links.find((other) => other.ifname === link.link)?.ifindex : undefined;
    return {
      name: link.ifname, ifindex: link.ifindex, mtu: link.mtu, mac: link.address ?? '',
      driver: details.get(link.ifname)?.driver ?? kind,
      up: link.flags?.includes('UP') ?? false,
      queues: details.get(link.ifname)?.queues ?? (kind === 'veth' ? 1 : Math.max(1, link.num_rx_queues ?? 1)),
      kind,
      ...(vlanId === undefined ? {} : { vlanId }),
      ...(parentIfindex === undefined ? {} : { parentIfindex }),
      addresses: (addresses.get(link.ifname) ?? [])
        .filter((entry) => entry.local !== undefined && entry.prefixlen !== undefined)
        .map((entry) => ({ address: entry.local!, prefixLength: entry.prefixlen!, dynamic: entry.dynamic === true })),
    };
  });
  return { links, devices };
}

function parseJsonList<T>(text: string): T[] {
  const value: unknown = text.trim() === '' ? [] : JSON.parse(text);
  return Array.isArray(value) ? value as T[] : [];
}

const XDP_MODES: Record<number, string> = { 1: 'native', 2: 'generic', 3: 'offloaded', 4: 'several' };

function xdpOf(link: IpLink): ForeignXdp[] {
  if (!link.xdp) return [];
  const attached = link.xdp.attached ?? [link.xdp];
  const programs = attached.flatMap((one) => (one.prog ? [one.prog.name ?? `program ${one.prog.id}`] : []));
  return [{ device: link.ifname, programs, mode: XDP_MODES[link.xdp.mode ?? 0] ?? 'unknown' }];
}

interface EthtoolDetails { driver?: string; queues?: number }

async function readEthtool(links: IpLink[], execute: Run): Promise<Map<string, EthtoolDetails>> {
  const details = new Map<string, EthtoolDetails>();
  const waiting = links.filter((link) => link.link_type === 'ether' && link.linkinfo?.info_kind !== 'ifb').map((link) => link.ifname);
  const worker = async (): Promise<void> => {
    for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
      const [channels, information] = await Promise.all([tryRun(execute, 'ethtool', '-l', name), tryRun(execute, 'ethtool', '-i', name)]);
      const queues = channels === undefined ? undefined : parseChannels(channels);
      const driver = /^driver:[ \t]*(\S+)/m.exec(information ?? '')?.[1];
      details.set(name, { ...(driver ? { driver } : {}), ...(queues ? { queues } : {}) });
    }
  };
  await Promise.all(Array.from({ length: ETHTOOL_PARALLEL_MAX }, worker));
  return details;
}

/** Receive queues of `ethtool -l`: its current RX and combined channels. */
export function parseChannels(text: string): number | undefined {
  const current = text.slice(text.indexOf('Current hardware settings'));
  const count = (label: string): number => Number(new RegExp(`^${label}:[ \\t]*(\\d+)`, 'm').exec(current)?.[1] ?? 0);
  return count('RX') + count('Combined') || undefined;
}

function readSetting(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined; // the kernel is built without it
  }
}

function readPortRange(): [number, number] | undefined {
  const [low, high] = (readSetting('/proc/sys/net/ipv4/ip_local_port_range') ?? '').split(/\s+/).map(Number);
  return low && high ? [low, high] : undefined;
}
