// Ports for source NAT: which of them a rule may use, and which on an address that the host uses as well.
//
// Called by check-nat.ts and compile.ts. Pure. On an address of the appliance, NAT's ports and the kernel's own ephemeral
// ports never overlap. The engine takes one range an address, so NAT gets the larger side of what the kernel leaves.
import { LOCAL_PORT_RANGE_DEFAULT, type Facts } from './facts.js';

export const NAT_PORT_LO = 1024;
export const NAT_PORT_HI = 65535;

/** "1024-65535" of a checked rule. */
export function splitPorts(ports: string | undefined): [number, number] {
  if (ports === undefined) return [NAT_PORT_LO, NAT_PORT_HI];
  const [lo, hi] = ports.split('-').map(Number);
  return [lo!, hi!];
}

/** Ports of an address shared with the host; undefined when the kernel takes all of the rule's. */
export function sharedPortRange(ports: string | undefined, facts: Facts | undefined): [number, number] | undefined {
  const [lo, hi] = splitPorts(ports);
  const [kernelLo, kernelHi] = facts?.localPortRange ?? LOCAL_PORT_RANGE_DEFAULT;
  const below: [number, number] = [lo, Math.min(hi, kernelLo - 1)];
  const above: [number, number] = [Math.max(lo, kernelHi + 1), hi];
  const size = ([first, last]: [number, number]): number => last - first + 1;
  const larger = size(below) >= size(above) ? below : above;
  return size(larger) > 0 ? larger : undefined;
}
