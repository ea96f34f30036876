// Nodes as people see them. Who: nodes.ts and its parts make it, the API and the command line show it. Nothing in it is secret.
import type { Announcement, NodeRecord } from './record.js';

export interface RecordView { sequence: number; issuedAt: string; expiresAt: string; wireguard: Announcement[] }

export interface NodeView {
  name: string; id: string; url: string | null;
  lastExchange: string | null; exchanges: number; failures: number;
  /** Why the last call failed; null: it did not. */
  problem: string | null;
  record: RecordView | null;
  /** Is its record in force here? Is ours in force there, and which one is? */
  inForce: boolean; hasOurs: boolean; have: number | null;
  /** Why its record is not taken here, ours not there. */
  refused: string | null; theyRefused: string | null;
  /** What of its record does not count. */
  notes: string[];
  tunnels: string[];
}

export interface RotationView { interface: string; phase: string; startedAt: string; by: { name: string; via: string }; waitingFor: string[]; left: string[] }

export interface NodesView {
  name: string;
  /** Null: there is no usable identity, and `problem` says why. */
  id: string | null;
  listen: string | null; problem: string | null;
  record: RecordView | null;
  /** Callers that were sent away. */
  strangers: number;
  peers: NodeView[]; rotations: RotationView[]; lastRotations: Record<string, string>;
}

export const timeText = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());

export function recordView(record: NodeRecord | undefined): RecordView | null {
  if (record === undefined) return null;
  const { sequence, issuedAt, expiresAt, wireguard } = record;
  return { sequence, issuedAt, expiresAt, wireguard };
}
