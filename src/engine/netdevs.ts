// Makes the machine's netdevs fit the configuration: VLAN devices, kernel forwarding off, LRO off, links up, addresses.
// Who: src/engine/host.ts, before it attaches XDP, and again when the configuration or the machine changes. Each thing that is to be
// taken away at the end goes into the clean-up journal before it is set. What was there already is left alone, also at the end.
// The engine's TUN device is there already, made and set up by the addon; addresses of WireGuard interfaces stand on it.
// Kernel forwarding goes off first and stays off: at no moment does the kernel forward between data interfaces.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import type { CleanupEntry, CleanupJournal } from '../supervisor/cleanup.js';
import { undo } from '../supervisor/cleanup.js';
import type { Device } from '../config/facts.js';
import { formatAddress, parseAddress } from '../lib/address.js';
import { CommandError, run, tryRun, type Run } from './command.js';

/** nat: the kernel answers neighbours for it, and never chooses it as a source of its own. */
export interface AddressPlan { device: string; address: string; prefixLength: number; purpose?: 'interface' | 'nat' }
export interface VlanPlan { device: string; parent: string; vlanId: number }
export interface NetdevPlan {
  devices: string[];        // that carry XDP
  raise: string[];          // those of them to set up: the new ones; a link that an operator sets down later stays down
  vlans: VlanPlan[];
  addresses: AddressPlan[];
}

/** Brings the netdevs into the planned state. Returns warnings; throws when a device cannot be used at all. */
export async function prepareNetdevs(
  plan: NetdevPlan, present: readonly Device[], journal: CleanupJournal, execute: Run = run,
): Promise<string[]> {
  const warnings: string[] = [];
  const existing = new Map(present.map((device) => [device.name, device]));
  for (const device of new Set([...plan.devices, ...plan.addresses.map((one) => one.device)])) stopKernelForwarding(device);
  for (const device of await devicesWithLro(plan.raise, execute)) {
    journal.add({ kind: 'offload', device, feature: 'lro' });
    await execute('ethtool', '-K', device, 'lro', 'off');
    warnings.push(`${device}: large receive offload switched off; XDP cannot work beside it`);
  }
  for (const vlan of plan.vlans) {
    const warning = existing.has(vlan.device) ? undefined : await createVlan(vlan, journal, execute);
    if (warning) warnings.push(warning);
    stopKernelForwarding(vlan.device);
  }
  const vlanDevices = plan.vlans.filter((vlan) => plan.raise.includes(vlan.parent) || !existing.has(vlan.device))
    .map((vlan) => vlan.device).filter(deviceExists);
  for (const device of [...plan.raise, ...vlanDevices]) {
    if (existing.get(device)?.up) continue;
    const entry: CleanupEntry = { kind: 'link-up', device };
    // A VLAN device of ours is deleted at the end anyway.
    if (!journal.has({ kind: 'vlan', device })) journal.add(entry);
    await execute('ip', 'link', 'set', 'dev', device, 'up');
  }
  await dropFormerAddresses(plan.addresses, journal, execute);
  for (const address of plan.addresses) await setAddress(address, existing.get(address.device), journal, execute);
  return warnings;
}

const deviceExists = (device: string): boolean => existsSync(`/proc/sys/net/ipv4/conf/${device}`);

/** True when it was on: somebody else (`sysctl net.ipv4.ip_forward=1` reaches every device) switched it on meanwhile. */
export function stopKernelForwarding(device: string): boolean {
  let wasOn = false;
  for (const family of ['ipv4', 'ipv6']) {
    const path = `/proc/sys/net/${family}/conf/${device}/forwarding`;
    if (!existsSync(path) || readFileSync(path, 'utf8').trim() === '0') continue;
    writeFileSync(path, '0\n');
    wasOn = true;
  }
  return wasOn;
}

async function devicesWithLro(devices: readonly string[], execute: Run): Promise<string[]> {
  const features = await Promise.all(devices.map((device) => tryRun(execute, 'ethtool', '-k', device)));
  return devices.filter((_, index) => /^large-receive-offload: on(?! \[fixed\])/m.test(features[index] ?? ''));
}

async function createVlan(vlan: VlanPlan, journal: CleanupJournal, execute: Run): Promise<string | undefined> {
  const entry: CleanupEntry = { kind: 'vlan', device: vlan.device };
  journal.add(entry);
  try {
    await execute('ip', 'link', 'add', 'link', vlan.parent, 'name', vlan.device, 'type', 'vlan', 'id', String(vlan.vlanId));
    return undefined;
  } catch (error) {
    journal.remove(entry);
    if (!(error instanceof CommandError)) throw error;
    const isUnknown = /Unknown device type|not supported/i.test(error.stderr);
    return `${vlan.device}: the kernel cannot create a VLAN device (${isUnknown ? 'it lacks 802.1q' : error.stderr}), so neighbours on VLAN `
      + `${vlan.vlanId} of ${vlan.parent} cannot be resolved; ${isUnknown ? 'load the module 8021q' : 'create it by hand'}`;
  }
}

const addressKey = (device: string, address: string, prefixLength: number): string =>
  `${device} ${formatAddress(parseAddress(address))}/${prefixLength}`;

/** Addresses that an earlier configuration had us set, and this one does not name. */
async function dropFormerAddresses(planned: readonly AddressPlan[], journal: CleanupJournal, execute: Run): Promise<void> {
  const wanted = new Set(planned.map((one) => addressKey(one.device, one.address, one.prefixLength)));
  for (const entry of journal.entries) {
    if (entry.kind !== 'address' || wanted.has(addressKey(entry.device, entry.address, entry.prefixLength))) continue;
    await undo(entry, execute);
    journal.remove(entry);
  }
}

async function setAddress(plan: AddressPlan, device: Device | undefined, journal: CleanupJournal, execute: Run): Promise<void> {
  const key = addressKey(plan.device, plan.address, plan.prefixLength);
  const isSet = device?.addresses.some((one) => addressKey(device.name, one.address, one.prefixLength) === key) ?? false;
  if (isSet) return;
  if (!deviceExists(plan.device)) return; // the VLAN device that could not be created; createVlan warned
  journal.add({ kind: 'address', device: plan.device, address: plan.address, prefixLength: plan.prefixLength });
  // nodad: the address was assigned to us; a tentative one would leave neighbours unanswered for the first seconds.
  // preferred_lft 0: NAT's addresses are no source of the host's own connections. IPv4 chooses by the gateway's subnet.
  const flags = plan.address.includes(':') ? ['nodad', ...(plan.purpose === 'nat' ? ['preferred_lft', '0'] : [])] : [];
  await execute('ip', 'address', 'replace', `${plan.address}/${plan.prefixLength}`, 'dev', plan.device, ...flags);
}
