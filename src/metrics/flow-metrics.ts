// Counts made from flow and drop records, by event, protocol, rule, zones, interfaces and reason. Filters apply here, at the source: what
// they leave out costs a test and no series. Who: FlowLog feeds it, metrics.ts reads it. Thread: control's main thread.
// Bound: `seriesMax` label sets; records of further ones are counted as left out.
import { DROP_REASONS, DROP_RECORD_BYTES, FLOW_RECORD_BYTES, FlowEvent } from '../engine/abi.generated.js';
import { protocolName } from '../engine/records.js';
import { SERIES_MAX_DEFAULT, type ObservabilityConfig } from '../config/schema-observability.js';
import { criteriaOf } from '../flowlog/criteria.js';
import { Drop, dropEvent, Flow, RECORD_EVENTS } from '../flowlog/layout.js';
import { compileMatch, type RecordMatch } from '../flowlog/match.js';
import type { NameTexts } from '../flowlog/names.js';
import { readCount } from '../flowlog/output.js';
import type { RecordSpan } from '../flowlog/stream.js';
import { FLOW_FAMILY, metricName, type FLOW_LABELS } from './catalog.js';

export interface FlowSeries { labels: Record<(typeof FLOW_LABELS)[number], string>; records: number; packets: number; bytes: number }
type MetricsConfig = ObservabilityConfig['metrics'];

export class FlowMetrics {
  private matches: RecordMatch[] = [];
  private filterText = '[]';
  private readonly byRule = new Map<number, Map<number, FlowSeries>>();
  private readonly interfaceIndexes = new Map<number, number>();
  private count = 0;
  leftOut = 0;

  constructor(private seriesMax: number) {}

  get all(): Iterable<FlowSeries> { return this.each(); }

  private *each(): Generator<FlowSeries> { for (const list of this.byRule.values()) yield* list.values(); }

  /** Takes effect with the next record. Other filters begin new counts: a sum over two meanings would mean nothing. */
  configure(config: MetricsConfig): void {
    const filters = (config?.filters ?? []).filter(({ metric }) => metricName(metric) === FLOW_FAMILY);
    const seriesMax = config?.seriesMax ?? SERIES_MAX_DEFAULT;
    const text = JSON.stringify(filters);
    if (text === this.filterText && seriesMax === this.seriesMax) return;
    if (text !== this.filterText || seriesMax < this.count) this.clear();
    this.filterText = text;
    this.seriesMax = seriesMax;
    this.matches = filters.map(({ include, exclude }) => compileMatch(criteriaOf(include), criteriaOf(exclude)));
  }

  private clear(): void {
    this.byRule.clear();
    this.interfaceIndexes.clear();
    this.count = 0;
  }

  flows({ view, bytes, offset, count }: RecordSpan, names: NameTexts): void {
    for (let at = offset, end = offset + count * FLOW_RECORD_BYTES; at < end; at += FLOW_RECORD_BYTES) {
      if (!this.wantsFlow(view, bytes, at, names)) continue;
      const event = bytes[at + Flow.EVENT]!;
      const key = (((((event & 7) * 256 + bytes[at + Flow.PROTOCOL]!) * 64 + (view.getUint16(at + Flow.FROM_ZONE, true) & 63)) * 64 + (view.getUint16(at + Flow.TO_ZONE, true) & 63)) * 512
        + this.interfaceIndex(view.getUint32(at + Flow.FROM_INTERFACE, true))) * 512 + this.interfaceIndex(view.getUint32(at + Flow.TO_INTERFACE, true));
      const rule = view.getUint32(at + Flow.RULE, true);
      const series = this.byRule.get(rule)?.get(key) ?? this.open(rule, key, () => ({
        event: RECORD_EVENTS[event] ?? `unknown-${event}`, verdict: 'allowed', reason: '', protocol: protocolName(bytes[at + Flow.PROTOCOL]!), rule: names.names.rule(rule) ?? '',
        from: names.names.interfaceById(view.getUint32(at + Flow.FROM_INTERFACE, true)) ?? '', to: names.names.interfaceById(view.getUint32(at + Flow.TO_INTERFACE, true)) ?? '',
        from_zone: names.names.zoneOfInterface(view.getUint32(at + Flow.FROM_INTERFACE, true)) ?? '', to_zone: names.names.zoneOfInterface(view.getUint32(at + Flow.TO_INTERFACE, true)) ?? '',
      }));
      if (!series) continue;
      series.records += 1;
      if (event !== FlowEvent.END) continue; // what is under way is counted once, at its end
      series.packets += readCount(view, at + Flow.PACKETS) + readCount(view, at + Flow.PACKETS + 8);
      series.bytes += readCount(view, at + Flow.BYTES) + readCount(view, at + Flow.BYTES + 8);
    }
  }

  drops({ view, bytes, offset, count }: RecordSpan, names: NameTexts): void {
    for (let at = offset, end = offset + count * DROP_RECORD_BYTES; at < end; at += DROP_RECORD_BYTES) {
      if (!this.wantsDrop(view, bytes, at, names)) continue;
      const reason = bytes[at + Drop.REASON]!;
      const from = view.getUint32(at + Drop.INTERFACE, true);
      // Events 0 to 7 are flows'; a reason stands above them.
      const key = (((8 + reason) * 256 + bytes[at + Drop.PROTOCOL]!) * 64 * 64 * 512 + this.interfaceIndex(from)) * 512;
      const rule = view.getUint32(at + Drop.RULE, true);
      const series = this.byRule.get(rule)?.get(key) ?? this.open(rule, key, () => ({
        event: RECORD_EVENTS[dropEvent(reason)]!, verdict: 'dropped', reason: DROP_REASONS[reason]?.name ?? `unknown-${reason}`, protocol: protocolName(bytes[at + Drop.PROTOCOL]!), rule: names.names.rule(rule) ?? '',
        from: names.names.interfaceById(from) ?? '', to: '', from_zone: names.names.zoneOfInterface(from) ?? '', to_zone: '',
      }));
      if (series) series.records += 1;
    }
  }

  private wantsFlow(view: DataView, bytes: Uint8Array, at: number, names: NameTexts): boolean {
    for (const match of this.matches) if (!match.flow(view, bytes, at, names)) return false;
    return true;
  }

  private wantsDrop(view: DataView, bytes: Uint8Array, at: number, names: NameTexts): boolean {
    for (const match of this.matches) if (!match.drop(view, bytes, at, names)) return false;
    return true;
  }

  private open(rule: number, key: number, labelsOf: () => FlowSeries['labels']): FlowSeries | undefined {
    if (this.count >= this.seriesMax) {
      this.leftOut += 1;
      return undefined;
    }
    this.count += 1;
    const series = { labels: labelsOf(), records: 0, packets: 0, bytes: 0 };
    let list = this.byRule.get(rule);
    if (!list) this.byRule.set(rule, list = new Map());
    list.set(key, series);
    return series;
  }

  /** Ids are hashes; a key wants something small. Interfaces that were removed share the last place. */
  private interfaceIndex(id: number): number {
    let index = this.interfaceIndexes.get(id);
    if (index === undefined) {
      index = Math.min(this.interfaceIndexes.size, 511);
      this.interfaceIndexes.set(id, index);
    }
    return index;
  }
}
