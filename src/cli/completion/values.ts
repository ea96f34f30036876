// Names that only the running appliance knows, for completion. Who: the hidden command `sluice completion-names`, which the shells' scripts
// call at a press of TAB: so it says nothing when there is no appliance, and ends within TIME_LIMIT_MS. Bounds: NAMES_MAX names.
import type { ApiClient } from '../../api/client.js';
import type { StatusView } from '../../control/status.js';
import type { WireguardView } from '../../control/wireguard.js';
import { printable } from '../../lib/text.js';
import type { NameKind } from './model.js';

export const TIME_LIMIT_MS = 3000;
const NAMES_MAX = 2000;
const SESSIONS_MAX = 50;
const REVISIONS_MAX = 100;

export async function readNames(client: ApiClient, kind: NameKind): Promise<string[]> {
  const names = await READERS[kind](client);
  // A shell reads them line by line, and shows them.
  return [...new Set(names)].filter((name) => name !== '' && name === printable(name)).slice(0, NAMES_MAX);
}

const interfaces = async (client: ApiClient): Promise<string[]> => (await client.get<StatusView>('/api/v1/status')).interfaces.map((one) => one.name);
const zones = async (client: ApiClient): Promise<string[]> => (await client.get<StatusView>('/api/v1/status')).interfaces.map((one) => one.zone);

const READERS: Record<NameKind, (client: ApiClient) => Promise<string[]>> = {
  interfaces, zones,
  places: async (client) => (await client.get<StatusView>('/api/v1/status')).interfaces.flatMap((one) => [one.name, one.zone]),
  rules: async (client) => (await client.get<{ rules: { name: string }[] }>('/api/v1/rules')).rules.map((one) => one.name),
  revisions: async (client) => (await client.get<{ revisions: { revision: number }[] }>('/api/v1/config/history', { limit: REVISIONS_MAX })).revisions.map((one) => String(one.revision)),
  tunnels: async (client) => (await client.get<StatusView>('/api/v1/status')).tunnels.map((one) => one.interface),
  peers: async (client) => (await client.get<{ interfaces: WireguardView[] }>('/api/v1/wireguard')).interfaces.flatMap((one) => one.peers.map(({ name }) => name)),
  sessions: async (client) => (await client.get<{ sessions: { sessionId: string }[] }>('/api/v1/sessions', { limit: SESSIONS_MAX })).sessions.map((one) => one.sessionId),
};
