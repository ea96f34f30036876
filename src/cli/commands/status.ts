// `sluice status`: is it forwarding, since when, over what, how much. Who: src/cli/program.ts. With --wait it comes back when the data plane
// is ready, or says what is missing when the time is over.
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { ApiClient, ClientError } from '../../api/client.js';
import type { InterfaceView, StatusView } from '../../control/status.js';
import type { TunnelStatus } from '../../control/wireguard.js';
import { DROP_REASONS } from '../../engine/abi.generated.js';
import { addCommon, clientOf, seconds, type CommonOptions } from '../options.js';
import { CliError, formatBytes, formatCount, formatDuration, formatTable, print, printJson, type Column } from '../output.js';

const POLL_MS = 100;

interface StatusOptions extends CommonOptions { wait?: number }

export function addStatusCommand(program: Command): void {
  addCommon(program.command('status').description('state of the appliance: processes, interfaces, sessions, drops'))
    .option('--wait <SECONDS>', 'wait until the data plane is ready; exit 1 when it is not by then', seconds)
    .action((options: StatusOptions) => showStatus(options));
}

async function showStatus(options: StatusOptions): Promise<void> {
  const client = clientOf(options);
  const status = options.wait === undefined ? await client.get<StatusView>('/api/v1/status') : await waitForReady(client, options.wait);
  if (options.json) printJson(status);
  else print(formatStatus(status));
  if (options.wait === undefined || (status.ready && isSupervised(status))) return;
  const missing = status.ready ? ['it forwards, but without a supervisor that restarts it; run `sluice up` again'] : status.missing;
  throw new CliError(`not ready after ${options.wait} s: ${missing.join('; ')}`);
}

async function waitForReady(client: ApiClient, waitSeconds: number): Promise<StatusView> {
  const end = performance.now() + waitSeconds * 1000;
  for (;;) {
    try {
      const status = await client.get<StatusView>('/api/v1/status');
      if (status.ready && isSupervised(status)) return status;
      if (performance.now() >= end) return status;
    } catch (error) {
      if (!(error instanceof ClientError) || performance.now() >= end) throw error;
      if (error.code !== 'NOT_RUNNING' && error.code !== 'SLUICE_CLIENT_CONNECTION') throw error;
    }
    await delay(POLL_MS);
  }
}

/** Processes of a killed supervisor forward on, but are about to be replaced when somebody waits for a start. */
const isSupervised = (status: StatusView): boolean => status.processes.some((one) => one.role === 'supervisor' && one.state === 'running');

const INTERFACE_COLUMNS: readonly Column<InterfaceView>[] = [
  { title: 'INTERFACE', of: (one) => one.name },
  { title: 'DEVICE', of: (one) => (one.vlanId === null ? one.device : `${one.device} VLAN ${one.vlanId}`) },
  { title: 'ZONE', of: (one) => one.zone },
  { title: 'LINK', of: (one) => one.link },
  { title: 'MTU', of: (one) => (one.mtuBytes === null ? '' : String(one.mtuBytes)), right: true },
  { title: 'XDP', of: (one) => (one.kind === 'wireguard' ? '' : one.xdpMode ?? 'none') },
  { title: 'TO ENGINE', of: (one) => one.steering?.toEngine, right: true },
  { title: 'TO HOST', of: (one) => one.steering?.toHost, right: true },
  { title: 'DROPPED', of: (one) => one.steering?.dropped, right: true },
  { title: 'ADDRESSES', of: (one) => one.addresses.join(', ') },
];

const TUNNEL_COLUMNS: readonly Column<TunnelStatus>[] = [
  { title: 'TUNNEL', of: (one) => one.interface },
  { title: 'ZONE', of: (one) => one.zone },
  { title: 'UDP PORT', of: (one) => String(one.listen), right: true },
  { title: 'PEERS UP', of: (one) => `${one.established} of ${one.peers}`, right: true },
  { title: 'LATEST HANDSHAKE', of: (one) => (one.latestHandshake === null ? 'never' : one.latestHandshake.slice(0, 19).replace('T', ' ')) },
  { title: 'RECEIVED', of: (one) => formatBytes(one.rxBytes), right: true },
  { title: 'SENT', of: (one) => formatBytes(one.txBytes), right: true },
];

export function formatStatus(status: StatusView): string {
  const lines: [string, string][] = [
    ['appliance', `${status.hostname ?? 'unnamed'}, Sluice ${status.version}, ${status.directory}`],
    ['state', status.ready ? 'ready' : `not ready: ${status.missing.join('; ')}`],
    ['generation', status.generation === null ? 'none' : `${status.generation}, applied ${status.appliedAt ?? 'never'}${status.applyMicroseconds === null ? '' : ` in ${formatCount(status.applyMicroseconds)} µs`}`],
    ['processes', status.processes.map((one) => `${one.role} ${one.pid ?? one.state}${one.uptimeSeconds === null ? '' : ` (${formatDuration(one.uptimeSeconds)})`}`).join(', ')],
    ['rules', formatCount(status.rules)],
  ];
  if (status.workers !== null) lines.push(['workers', `${status.workers}${status.buffers ? `, ${formatCount(status.buffers.free)} of ${formatCount(status.buffers.total)} packet buffers free` : ''}`]);
  if (status.sessions) {
    const states = Object.entries(status.sessions.byState).filter(([, count]) => count > 0).map(([name, count]) => `${formatCount(count)} ${name}`);
    lines.push(['sessions', `${formatCount(status.sessions.total)} of ${formatCount(status.sessions.max)}${states.length > 0 ? `: ${states.join(', ')}` : ''}`]);
    lines.push(['NAT', `${formatCount(status.natMappings ?? 0)} mappings`]);
  }
  if (status.packets && status.bytes) {
    lines.push(['packets', `${formatCount(status.packets.received)} received (${formatBytes(status.bytes.received)}), ${formatCount(status.packets.sent)} sent (${formatBytes(status.bytes.sent)}), ${formatCount(status.packets.toHost)} to the host`]);
  }
  const text = [lines.map(([name, value]) => `${name.padEnd(11)} ${value}\n`).join('')];
  if (status.interfaces.length > 0) text.push(formatTable(INTERFACE_COLUMNS, status.interfaces));
  if (status.tunnels.length > 0) text.push(formatTable(TUNNEL_COLUMNS, status.tunnels));
  const drops = DROP_REASONS.filter(({ name }) => (status.drops[name] ?? 0) > 0);
  if (drops.length > 0) {
    text.push(formatTable([
      { title: 'DROPPED', of: ({ name }) => status.drops[name] ?? 0, right: true },
      { title: 'REASON', of: ({ name }) => name },
    ], drops));
  }
  const notes = [...status.warnings, ...status.obstacles.map((one) => `${one.message}; ${one.remedy}`),
    ...status.problems.map((one) => `${one.path === '' ? '' : `${one.path}: `}${one.message}; ${one.remedy}`)];
  if (notes.length > 0) text.push(notes.map((note) => `note: ${note}\n`).join(''));
  return text.join('\n');
}
