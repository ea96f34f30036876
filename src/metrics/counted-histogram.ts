// A histogram that somebody else counts, the engine: it is set at a scrape and shown as it is. Who: metrics.ts.
import { Histogram, type MetricValueWithName } from 'prom-client';

export class CountedHistogram extends Histogram {
  private values: MetricValueWithName<string>[] = [];

  /** counts[n]: of at most bounds[n], more than bounds[n - 1]. The last one holds all longer ones, whatever its bound. */
  set(bounds: readonly number[], counts: readonly number[], sum: number): void {
    const { name } = this as unknown as { name: string };
    const inAll = counts.reduce((total, count) => total + count, 0);
    let upTo = 0;
    const buckets = counts.slice(0, -1).map((count, index) => ({ bound: bounds[index]!, count: upTo += count }));
    const value = (metricName: string, number: number, labels: Record<string, string | number> = {}): MetricValueWithName<string> => ({ metricName, value: number, labels });
    this.values = [
      ...buckets.map(({ bound, count }) => value(`${name}_bucket`, count, { le: bound })),
      value(`${name}_bucket`, inAll, { le: '+Inf' }), value(`${name}_sum`, sum), value(`${name}_count`, inAll),
    ];
  }

  override reset(): void { this.values = []; }

  /** What the registry asks, and get() too. */
  async getForPromString(): Promise<object> {
    const { name, help } = this as unknown as { name: string; help: string };
    return { name, help, type: 'histogram', values: this.values, aggregator: 'sum' };
  }
}
