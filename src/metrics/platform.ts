// How many connections Azure allows a machine of this size; a network appliance counts each session twice. Who: metrics.ts, `sluice doctor`.
// From the platform's page on network throughput; below two processors nothing is published, so the smallest published figure stands.
import { availableParallelism } from 'node:os';

const CONNECTIONS: readonly (readonly [processors: number, connections: number])[] = [[64, 1_000_000], [32, 800_000], [16, 700_000], [8, 500_000], [0, 100_000]];

export function platformConnectionsMax(processors = availableParallelism()): number {
  return CONNECTIONS.find(([from]) => processors >= from)![1];
}
