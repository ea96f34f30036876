// Turns the engine's lists of NAT ports, rings and interfaces (structs of native/abi/dataplane.h) into objects.
// Who: src/metrics/metrics.ts, src/control/status.ts. Pure functions; nothing is kept.
import {
  INTERFACE_RECORD_BYTES, NAT_POOL_RECORD_BYTES, readInterfaceRecord, readNatPoolRecord, readRingRecord, RING_RECORD_BYTES,
} from './abi.generated.js';
import { viewOf } from './records.js';
import { formatAddress } from '../lib/address.js';

/** Of `SL_NAT_PROTOCOLS`, in their order. */
const NAT_PROTOCOLS = ['tcp', 'udp', 'icmp'] as const;

export interface PortCounts { used: number; resting: number; free: number; total: number }
export interface NatPool { address: string; protocols: Record<(typeof NAT_PROTOCOLS)[number], PortCounts> }
export interface RingLevels { portSlot: number; queue: number; entries: number; levels: { rx: number; fill: number; tx: number; completion: number } }
export interface InterfaceCounts { interface: number; rxPackets: number; rxBytes: number; txPackets: number; txBytes: number }

function decodeList<T>(bytes: Uint8Array, recordBytes: number, read: (view: DataView, offset: number) => T): T[] {
  const view = viewOf(bytes);
  return Array.from({ length: Math.floor(bytes.length / recordBytes) }, (_, index) => read(view, index * recordBytes));
}

/** An outside address with more than one range of ports stands here once, its ranges together. */
export function decodeNatPools(bytes: Uint8Array): NatPool[] {
  const pools = new Map<string, NatPool>();
  for (const { address: raw, used, resting, free, total } of decodeList(bytes, NAT_POOL_RECORD_BYTES, readNatPoolRecord)) {
    const address = formatAddress(raw);
    const before = pools.get(address)?.protocols;
    const countsAt = (at: 0 | 1 | 2): PortCounts => {
      const { used: usedBefore = 0, resting: restingBefore = 0, free: freeBefore = 0, total: totalBefore = 0 } = before?.[NAT_PROTOCOLS[at]] ?? {};
      return { used: usedBefore + used[at], resting: restingBefore + resting[at], free: freeBefore + free[at], total: totalBefore + total[at] };
    };
    pools.set(address, { address, protocols: { tcp: countsAt(0), udp: countsAt(1), icmp: countsAt(2) } });
  }
  return [...pools.values()];
}

export function decodeRings(bytes: Uint8Array): RingLevels[] {
  return decodeList(bytes, RING_RECORD_BYTES, readRingRecord).map(({ portSlot, queue, entries, ...levels }) => ({ portSlot, queue, entries, levels }));
}

export function decodeInterfaces(bytes: Uint8Array): InterfaceCounts[] {
  return decodeList(bytes, INTERFACE_RECORD_BYTES, readInterfaceRecord).map((record) => ({
    interface: record.interface, rxPackets: Number(record.rxPackets), rxBytes: Number(record.rxBytes), txPackets: Number(record.txPackets), txBytes: Number(record.txBytes),
  }));
}
