// What tests of nodes share: identities, records and directories.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { onTestFinished } from 'vitest';
import { loadIdentity, type NodeIdentity } from '../../src/nodes/identity.js';
import { LIFETIME_MS, type Announcement, type NodeRecord } from '../../src/nodes/record.js';

export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-nodes-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export const makeIdentity = (): Promise<NodeIdentity> => loadIdentity(temporaryDirectory());
export const makeKey = (): string => randomBytes(32).toString('base64');

export const NOW = Date.parse('2026-11-21T20:00:00.000Z');

export function makeAnnouncement(over: Partial<Announcement> = {}): Announcement {
  return { interface: 'wg0', publicKey: makeKey(), nextPublicKey: null, endpoint: '203.0.113.20:51820', port: 51820, allowedIPs: ['10.99.0.2/32', '10.2.0.0/16'], ...over };
}

export function makeRecord(node: string, over: Partial<NodeRecord> = {}): NodeRecord {
  return { version: 1, node, name: 'nva-2', sequence: 7, issuedAt: new Date(NOW).toISOString(), expiresAt: new Date(NOW + LIFETIME_MS).toISOString(), wireguard: [makeAnnouncement()], ...over };
}
