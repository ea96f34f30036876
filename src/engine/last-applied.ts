// The forwarding state in force, on disk (state directory, last-applied.bin): a killed engine comes back forwarding with it, also
// when control is dead. Who: src/engine/host.ts. Format: magic, u32 length and bytes of the plan (JSON), u32 length and bytes of
// the snapshot, SHA-256 of all before it. Whatever does not fit is treated as absent: the engine then waits, closed, for control.
import { createHash } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { SL_PORTS_MAX } from './abi.generated.js';
import { replaceFile } from '../supervisor/run-directory.js';
import type { AddressPlan, VlanPlan } from './netdevs.js';
import type { XdpMode } from './binding.js';

const MAGIC = Buffer.from('SLAPPLY1');
const DIGEST_BYTES = 32;

export interface PortPlan {
  name: string; ifindex: number; slot: number; queues: number;
  mode: XdpMode; allowGeneric: boolean;   // generic when native does not work
  partialChecksums: boolean;
}

/** What `configure` asks for. */
export interface ConfigurePlan { ports: PortPlan[]; vlans: VlanPlan[]; addresses: AddressPlan[] }

export interface LastApplied { plan: ConfigurePlan; snapshot: Uint8Array }

export function saveLastApplied(path: string, { plan, snapshot }: LastApplied): void {
  const json = Buffer.from(JSON.stringify(plan));
  const content = Buffer.concat([MAGIC, lengthOf(json), json, lengthOf(snapshot), snapshot]);
  replaceFile(path, Buffer.concat([content, createHash('sha256').update(content).digest()]));
}

export function loadLastApplied(path: string): LastApplied | undefined {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch {
    return undefined;
  }
  const end = bytes.length - DIGEST_BYTES;
  if (end < MAGIC.length + 8 || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  const content = bytes.subarray(0, end);
  if (!createHash('sha256').update(content).digest().equals(bytes.subarray(end))) return undefined;
  const planEnd = MAGIC.length + 4 + content.readUInt32LE(MAGIC.length);
  if (planEnd + 4 > end || planEnd + 4 + content.readUInt32LE(planEnd) !== end) return undefined;
  try {
    const plan = parsePlan(JSON.parse(content.toString('utf8', MAGIC.length + 4, planEnd)));
    return { plan, snapshot: new Uint8Array(content.subarray(planEnd + 4)) };
  } catch {
    return undefined;
  }
}

export function removeLastApplied(path: string): void { rmSync(path, { force: true }); }

function lengthOf(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return length;
}

/** Checks a plan that came over the socket or from disk. Throws TypeError. */
export function parsePlan(value: unknown): ConfigurePlan {
  const plan = value as Partial<ConfigurePlan> | null;
  const isText = (one: unknown): one is string => typeof one === 'string' && /^[^\s/-][^\s/]{0,14}$/.test(one);
  const valid = plan && Array.isArray(plan.ports) && Array.isArray(plan.vlans) && Array.isArray(plan.addresses)
    && plan.ports.every((port) => isText(port.name) && Number.isInteger(port.ifindex) && Number.isInteger(port.queues)
      && port.queues > 0 && Number.isInteger(port.slot) && port.slot >= 0 && port.slot < SL_PORTS_MAX && typeof port.allowGeneric === 'boolean' && (port.mode === 'native' || port.mode === 'generic') && typeof port.partialChecksums === 'boolean')
    && plan.vlans.every((vlan) => isText(vlan.device) && isText(vlan.parent) && Number.isInteger(vlan.vlanId))
    && plan.addresses.every((one) => isText(one.device) && /^[0-9a-fA-F.:]+$/.test(one.address) && Number.isInteger(one.prefixLength));
  if (valid && new Set(plan.ports!.map((port) => port.slot)).size !== plan.ports!.length) throw new TypeError('two ports of a plan have one slot');
  if (!valid) throw new TypeError('a plan has ports {name, ifindex, slot, queues, mode, allowGeneric, partialChecksums}, vlans {device, parent, vlanId} and addresses {device, address, prefixLength}');
  return plan as ConfigurePlan;
}
