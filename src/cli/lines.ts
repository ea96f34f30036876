// One record as one line, one way for all commands. Who: flows, drops, observe.
import type { AnyRecord } from '../control/filter.js';
import type { DropRecordView, FlowRecordView, PlaceView } from '../engine/records.js';
import { endpoint as portEndpoint, formatBytes, type Column } from './output.js';

/** Of ICMP the port is the query's identifier; other protocols have none. */
function endpoint(record: AnyRecord, address: string, port: number): string {
  if (record.protocol === 'tcp' || record.protocol === 'udp' || record.protocol === 'sctp') return portEndpoint(address, port);
  return record.protocol.startsWith('icmp') && port !== 0 ? `${address} id ${port}` : address;
}

const timeOf = (record: AnyRecord): string => record.time.slice(11, 23);
/** An interface, and of a tunnel its peer: "wg0/nva-2". */
const placeName = ({ interface: name, peer }: PlaceView): string => `${name ?? '?'}${peer ? `/${peer}` : ''}`;
const way = (record: { from: PlaceView; to: PlaceView | null }): string =>
  `${placeName(record.from)}${record.to ? ` → ${placeName(record.to)}` : ''}`;

export const FLOW_COLUMNS: readonly Column<FlowRecordView>[] = [
  { title: 'TIME', of: timeOf },
  { title: 'STATE', of: (flow) => (flow.event === 'end' ? `ended: ${flow.endReason ?? '?'}` : flow.state) },
  { title: 'PROTOCOL', of: (flow) => flow.protocol },
  { title: 'SOURCE', of: (flow) => endpoint(flow, flow.source, flow.sourcePort) },
  { title: 'DESTINATION', of: (flow) => endpoint(flow, flow.destination, flow.destinationPort) },
  { title: 'TRANSLATED', of: translation },
  { title: 'INTERFACES', of: way },
  { title: 'RULE', of: (flow) => flow.rule },
  { title: 'PACKETS', of: (flow) => `${flow.packets[0]}/${flow.packets[1]}`, right: true },
  { title: 'BYTES', of: (flow) => formatBytes(flow.bytes[0] + flow.bytes[1]), right: true },
];

export const DROP_COLUMNS: readonly Column<DropRecordView>[] = [
  { title: 'TIME', of: timeOf },
  { title: 'REASON', of: (drop) => drop.reason },
  { title: 'PROTOCOL', of: (drop) => drop.protocol },
  { title: 'SOURCE', of: (drop) => endpoint(drop, drop.source, drop.sourcePort) },
  { title: 'DESTINATION', of: (drop) => endpoint(drop, drop.destination, drop.destinationPort) },
  { title: 'FLAGS', of: (drop) => drop.tcpFlags },
  { title: 'TRANSLATED', of: translation },
  { title: 'INTERFACES', of: way },
  { title: 'RULE', of: (drop) => drop.rule },
  { title: 'BYTES', of: (drop) => drop.bytes, right: true },
];

function translation(record: AnyRecord): string {
  const to = record.translated;
  if (!to) return '';
  const parts: string[] = [];
  if (to.source !== record.source || to.sourcePort !== record.sourcePort) parts.push(`from ${endpoint(record, to.source, to.sourcePort)}`);
  if (to.destination !== record.destination || (to.destinationPort !== record.destinationPort && !record.protocol.startsWith('icmp'))) parts.push(`to ${endpoint(record, to.destination, to.destinationPort)}`);
  return parts.join(' ');
}

/** For streams, where columns cannot know their width. */
export function recordLine(record: AnyRecord): string {
  const nat = translation(record);
  const ends = `${record.protocol} ${endpoint(record, record.source, record.sourcePort)} → ${endpoint(record, record.destination, record.destinationPort)}${nat ? ` (${nat})` : ''}`;
  const rule = record.rule ? ` rule ${record.rule}` : '';
  if (record.kind === 'drop') {
    const flags = record.tcpFlags === null ? '' : ` flags ${record.tcpFlags || 'none'}`;
    return `${timeOf(record)} ${record.event.padEnd(7)} ${record.reason.padEnd(20)} ${ends}${flags} ${record.to ? way(record) : `on ${placeName(record.from)}`}${rule}`;
  }
  const event = record.event === 'end' ? `ended ${record.endReason ?? ''}`.trim() : record.event;
  const volume = record.event === 'end' ? ` ${record.packets[0] + record.packets[1]} packets, ${formatBytes(record.bytes[0] + record.bytes[1])}` : '';
  return `${timeOf(record)} allowed ${event.padEnd(20)} ${ends} ${way(record)}${rule}${volume}`;
}
