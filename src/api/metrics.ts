// /metrics in Prometheus' text format. Who: src/api/server.ts, a scrape at a time. Values are read from the engine at the scrape;
// between scrapes nothing is kept. Label values come from the lists of native/abi/dataplane.h and from names of the configuration.
import { Counter, Gauge, Registry } from 'prom-client';
import { COUNTERS, SESSION_STATES, SL_STEER_BASE, STEER_COUNTERS } from '../engine/abi.generated.js';
import type { Counters } from '../engine/binding.js';
import type { Control } from '../control/control.js';
import { dropsOf, healthOf } from '../control/status.js';

export class Metrics {
  private readonly registry = new Registry();
  private readonly totals = new Map(COUNTERS.map(({ name, help }) => [name, this.counter(`${name.replaceAll('-', '_')}_total`, help)]));
  private readonly drops = this.counter('drops_total', 'packets dropped, by reason; engine and steering programs together', ['reason']);
  private readonly steered = this.counter('steered_packets_total', 'packets that a steering program sent on, by device and way', ['device', 'way']);
  private readonly ruleSessions = this.counter('rule_sessions_total', 'sessions that a rule allowed or stopped, since the engine started', ['rule', 'kind']);
  private readonly sessions = this.gauge('sessions', 'sessions by state', ['state']);
  private readonly gauges = {
    sessions_max: this.gauge('sessions_max', 'sessions that fit'),
    nat_mappings: this.gauge('nat_mappings', 'NAT mappings'),
    fragmented_datagrams: this.gauge('fragmented_datagrams', 'datagrams under virtual reassembly'),
    packet_buffers_free: this.gauge('packet_buffers_free', 'free packet buffers, all workers'),
    packet_buffers: this.gauge('packet_buffers', 'packet buffers, all workers'),
    packets_held: this.gauge('packets_held', 'packets that wait for a link address or a first fragment'),
    workers: this.gauge('workers', 'worker threads'),
    generation: this.gauge('generation', 'generation of the forwarding state in force'),
    engine_up: this.gauge('engine_up', '1 while the engine process answers'),
    ready: this.gauge('ready', '1 while the data plane forwards by the configuration'),
  };

  get contentType(): string { return this.registry.contentType; }

  async render(control: Control): Promise<string> {
    const counters = await control.counters().catch(() => undefined);
    this.gauges.engine_up.set(counters ? 1 : 0);
    this.gauges.ready.set(healthOf(control).status === 'ok' ? 1 : 0);
    if (counters) this.take(control, counters);
    if (counters) await this.takeRules(control).catch(() => undefined);
    return this.registry.metrics();
  }

  private take(control: Control, counters: Counters): void {
    for (const { value, name } of COUNTERS) put(this.totals.get(name)!, counters.counters[value] ?? 0);
    this.drops.reset();
    for (const [reason, count] of Object.entries(dropsOf(control, counters, true))) this.drops.inc({ reason }, count);
    this.steered.reset();
    for (const port of control.engineStatus?.ports ?? []) {
      const steer = counters.steer(port.slot);
      for (const { value, name } of STEER_COUNTERS) this.steered.inc({ device: port.name, way: name }, steer[SL_STEER_BASE + value] ?? 0);
    }
    for (const { value, name } of SESSION_STATES) this.sessions.set({ state: name }, counters.sessionStates[value] ?? 0);
    const { gauges } = counters;
    this.gauges.sessions_max.set(gauges.sessionsMax);
    this.gauges.nat_mappings.set(gauges.natMappings);
    this.gauges.fragmented_datagrams.set(gauges.fragments);
    this.gauges.packet_buffers_free.set(gauges.umemFree);
    this.gauges.packet_buffers.set(gauges.umemTotal);
    this.gauges.packets_held.set(gauges.held);
    this.gauges.workers.set(gauges.workers);
    this.gauges.generation.set(gauges.generation);
  }

  private async takeRules(control: Control): Promise<void> {
    const hits = await control.ruleHits();
    this.ruleSessions.reset();
    for (const rule of control.applied?.compiled.rules ?? []) {
      if (rule.kind === 'firewall' || hits.has(rule.id)) this.ruleSessions.inc({ rule: rule.name, kind: rule.kind }, hits.get(rule.id) ?? 0);
    }
  }

  private counter(name: string, help: string, labelNames: string[] = []): Counter {
    return new Counter({ name: `sluice_${name}`, help, labelNames, registers: [this.registry] });
  }

  private gauge(name: string, help: string, labelNames: string[] = []): Gauge {
    return new Gauge({ name: `sluice_${name}`, help, labelNames, registers: [this.registry] });
  }
}

/** The engine counts; we show. */
function put(counter: Counter, value: number): void {
  counter.reset();
  counter.inc(value);
}
