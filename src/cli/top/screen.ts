// One picture of `sluice top` as lines of text. Who: src/cli/commands/top.ts, for a terminal and for --once. Pure.
// Parts in the order of their worth: heading, ports, drops, talkers; each later one gets the lines that are left.
import { endpoint, formatBytes, formatCount, formatDuration, formatTable, type Column } from '../output.js';
import type { DropRate, PortRates, TopView } from './rates.js';
import type { Talker } from './talkers.js';

const DROPS_SHOWN = 6;
const TALKERS_SHOWN_ONCE = 20;

export interface Size { rows: number; columns: number }

/** Lines that fit `size`; without one, all that there is to say. */
export function drawTop(view: TopView, size?: Size): string[] {
  const lines = [...heading(view), ''];
  const add = (text: string, rowsMax: number): void => {
    const all = text.trimEnd().split('\n');
    const room = size === undefined ? Infinity : size.rows - lines.length;
    const shown = Math.min(all.length, rowsMax + 1, room);
    if (shown < 2) return; // a title without a line below it says nothing
    lines.push(...all.slice(0, shown), '');
  };
  if (view.ports.length > 0) add(formatTable(PORT_COLUMNS, view.ports), Math.max(3, size ? Math.floor(size.rows / 3) : Infinity));
  const drops = view.drops.slice(0, size === undefined ? undefined : DROPS_SHOWN);
  if (drops.length > 0) add(formatTable(DROP_COLUMNS, drops), DROPS_SHOWN);
  if (view.talkers.length > 0) add(formatTable(TALKER_COLUMNS, view.talkers.slice(0, size === undefined ? TALKERS_SHOWN_ONCE : size.rows)), Infinity);
  else lines.push('No session carried anything since the last look.');
  while (lines.at(-1) === '') lines.pop();
  return size === undefined ? lines : lines.slice(0, size.rows).map((line) => [...line].slice(0, size.columns).join(''));
}

function heading(view: TopView): string[] {
  const state = view.ready ? 'ready' : `not ready: ${view.missing.join('; ')}`;
  const lines = [`Sluice ${view.version}  ${view.hostname ?? 'unnamed'}  ${state}  generation ${view.generation ?? 'none'}  up ${formatDuration(view.uptimeSeconds)}  ${view.time.slice(11, 19)} UTC`];
  lines.push(`packets   ${shortRate(view.packets.in)}/s in, ${shortRate(view.packets.out)}/s out; ${bits(view.bits.in)} in, ${bits(view.bits.out)} out`);
  const share = view.offloadShare === null ? 'no packets of sessions' : `${(view.offloadShare * 100).toFixed(1)} % of the packets in XDP`;
  lines.push(`offload   ${share}; ${shortRate(view.packets.offloaded)}/s offloaded, ${shortRate(view.packets.toEngine)}/s to the engine`);
  const { sessions } = view;
  if (sessions) {
    const states = Object.entries(sessions.byState).filter(([, count]) => count > 0).map(([name, count]) => `${formatCount(count)} ${name}`).join(', ');
    lines.push(`sessions  ${formatCount(sessions.total)} of ${formatCount(sessions.max)}${states === '' ? '' : ` (${states})`}; +${shortRate(sessions.createdPerSecond)}/s, -${shortRate(sessions.endedPerSecond)}/s`);
  }
  if (view.buffers) lines.push(`buffers   ${formatCount(view.buffers.free)} of ${formatCount(view.buffers.total)} free`);
  lines.push(`drops     ${shortRate(view.dropsPerSecond)}/s`);
  if (sessions && sessions.total > view.sessionsSampled) lines.push(`talkers   from ${formatCount(view.sessionsSampled)} sessions at a time, of ${formatCount(sessions.total)}`);
  return lines;
}

const PORT_COLUMNS: readonly Column<PortRates>[] = [
  { title: 'INTERFACE', of: (port) => port.interfaces.join(',') },
  { title: 'DEVICE', of: (port) => port.device },
  { title: 'LINK', of: (port) => port.link },
  { title: 'IN PKT/S', of: (port) => shortRate(port.inPackets), right: true },
  { title: 'BIT/S', of: (port) => shortRate(port.inBits), right: true },
  { title: 'OUT PKT/S', of: (port) => shortRate(port.outPackets), right: true },
  { title: 'BIT/S', of: (port) => shortRate(port.outBits), right: true },
  { title: 'ENGINE', of: (port) => shortRate(port.toEngine), right: true },
  { title: 'OFFLOAD', of: (port) => shortRate(port.offloaded), right: true },
  { title: 'HOST', of: (port) => shortRate(port.toHost), right: true },
  { title: 'DROPPED', of: (port) => shortRate(port.dropped), right: true },
];

const DROP_COLUMNS: readonly Column<DropRate>[] = [
  { title: 'DROPS/S', of: (drop) => shortRate(drop.perSecond), right: true },
  { title: 'TOTAL', of: (drop) => drop.total, right: true },
  { title: 'REASON', of: (drop) => drop.reason },
];

const TALKER_COLUMNS: readonly Column<Talker>[] = [
  { title: 'BIT/S', of: (talker) => shortRate(talker.bitsPerSecond), right: true },
  { title: 'PKT/S', of: (talker) => shortRate(talker.packetsPerSecond), right: true },
  { title: 'SESSIONS', of: (talker) => talker.sessions, right: true },
  { title: 'PROTOCOL', of: (talker) => talker.protocol },
  { title: 'SOURCE', of: (talker) => talker.source },
  { title: 'DESTINATION', of: (talker) => (talker.destinationPort === 0 ? talker.destination : endpoint(talker.destination, talker.destinationPort)) },
  { title: 'RULE', of: (talker) => talker.rule },
];

/** 950 bit/s, 8.0 Mbit/s. */
function bits(value: number | null): string {
  const [amount = '', prefix = ''] = shortRate(value).split(' ');
  return `${amount} ${prefix}bit/s`;
}

/** Three digits that matter: 0, 7.25, 950, 1.23 k, 12.3 M, 7.90 G. A dash: not known. */
export function shortRate(value: number | null): string {
  if (value === null) return '-';
  if (value < 999.5) return String(Number(value.toPrecision(3)));
  return formatBytes(Math.round(value)).replace('KB', 'k').replace(/([MGTP])B$/, '$1');
}
