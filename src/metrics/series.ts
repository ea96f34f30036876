// Which series an answer of /metrics holds: filters of the configuration by label, and a bound on their number over all metrics, so that
// neither rules nor records make it grow without end. Who: metrics.ts, a budget an answer. What is over the bound is left out and counted.
import type { MetricFilterConfig } from '../config/schema-observability.js';
import { asList } from '../config/schema-parts.js';
import { FLOW_FAMILY, metricName } from './catalog.js';

export type Labels = Record<string, string>;
type LabelTest = (labels: Labels) => boolean;

/** Filters by metric name. The flow family filters records, not labels: flow-metrics.ts. */
export function compileLabelFilters(filters: readonly MetricFilterConfig[]): Map<string, LabelTest> {
  const tests = new Map<string, LabelTest[]>();
  for (const { metric, include, exclude } of filters) {
    const name = metricName(metric);
    if (name === FLOW_FAMILY) continue;
    const wanted = include && testOf(include);
    const unwanted = exclude && testOf(exclude);
    const list = tests.get(name) ?? [];
    list.push((labels) => (wanted === undefined || wanted(labels)) && !(unwanted?.(labels) ?? false));
    tests.set(name, list);
  }
  return new Map([...tests].map(([name, list]) => [name, (labels: Labels) => list.every((test) => test(labels))]));
}

function testOf(criteria: object): LabelTest {
  const members = Object.entries(criteria as Record<string, string | string[] | undefined>).flatMap(([label, value]) => (value === undefined ? [] : [{ label, values: new Set(asList<string>(value)) }]));
  return (labels) => members.every(({ label, values }) => values.has(labels[label] ?? ''));
}

export class SeriesBudget {
  used = 0;
  leftOut = 0;
  constructor(readonly max: number, private readonly filters: ReadonlyMap<string, LabelTest>) {}

  /** May this series be shown? Only series with labels count: the others are few and fixed. */
  admits(metric: string, labels: Labels | undefined): boolean {
    const filter = this.filters.get(metric);
    if (filter && !filter(labels ?? {})) return false;
    if (labels === undefined) return true;
    if (this.used >= this.max) {
      this.leftOut += 1;
      return false;
    }
    this.used += 1;
    return true;
  }
}
