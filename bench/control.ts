// How fast are changes and questions while the appliance runs? One changed rule of thousands until it is in force; a status and a page of
// sessions out of a million; control killed again and again under traffic; records to a file beside forwarding. A part each (--parts).
// A commit of very many rules under full load is bench commit (--rules 100000); records without packets are bench record-rate.

import { prepareLanes, trafficOf, type LaneCommandOptions, type LaneDetail } from "./lanes.js";
import { Api } from "./api.js";
import { listOf, parseCount, turnCommand } from "./options.js";
import { Lane, compare, type Measurement, type TrafficOptions } from "./packets.js";
import { peers } from "./peers.js";
import { atLeast, count, finish, newReport, progress, table, type Report } from "./report.js";
import { FLOW_LOG, type Sluice, type SluiceOptions } from "./sluice.js";
import { networks } from "./topology.js";
import { measureInTurns, overRounds, ratioOf, type Contender, type Outcome } from "./turns.js";
import { processSeconds } from "./machine.js";
import { pause, until } from "../lab/until.js";

const PARTS = ["rule", "read", "restarts", "records"] as const;
const BARS = { ruleP50Ms: 50, ruleP99Ms: 150, statusP99Ms: 10, pageP99Ms: 50, recordsPerSecond: 100_000, recordsPps: 0.95, recordsPpsAim: 0.99 } as const;
const WARM_UP = 10;
/** Filler rules are replaced in an order without pattern: a prime that divides no usual number of rules. */
const STRIDE = 7919;
/** Ports of changed rules, above all that filler rules name: those of the third kind end at 1,000 + a third of the rules. */
const PROBE_PORTS = { first: 40_000, count: 20_000 };
const PAGE = 1000;
/** So that a million sessions do not end while they are read. */
const LASTING = { udpNew: 3600, udp: 3600 };
/** Established flows that lose nothing as long as the device keeps up; those of `offload: never` pass the engine. */
const RESTART_LOADS = { auto: { flows: 1000, rate: 100_000 }, never: { flows: 1000, rate: 20_000 } } as const;
const RESTART_DEADLINE_S = 600;
const SETTLE_MS = 1500;
/** Each new flow is two records: its start and its end. */
const NEW_FLOWS_RATE = BARS.recordsPerSecond / 2;
const NEW_FLOWS = { flows: 2 ** 31, sources: 60_000, destinations: 60_000 };
/** Sessions and ports are given back as fast as new flows come. */
const SHORT = { udpNew: 1, udp: 1, natPortReuse: 1 };
const SESSIONS_MAX = 2 ** 21;

interface Options extends LaneCommandOptions {
  parts: (typeof PARTS)[number][];
  rules: number;
  commits: number;
  sessions: number;
  reads: number;
  restarts: number;
}

/** A lane's appliance, and an open connection to its API. */
async function withAppliance<T>(traffic: TrafficOptions, options: SluiceOptions, work: (lane: Lane, sluice: Sluice, api: Api) => Promise<T>): Promise<T> {
  const lane = await Lane.start(peers.sluice, traffic, options);
  const api = new Api(lane.sluice!.apiSocket);
  try {
    return await work(lane, lane.sluice!, api);
  } finally {
    api.close();
    await lane.stop();
  }
}

/** Of a list of durations. A quantile is a value that was measured: the p99 of 200 is the third worst. */
export function quantilesOf(values: readonly number[]): { p50: number; p99: number; max: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)]!;
  return { p50: at(0.5), p99: at(0.99), max: sorted.at(-1)! };
}

const round = (milliseconds: number): string => milliseconds.toFixed(1);

function judge(report: Report, what: string, value: number, bar: number): void {
  report.verdicts.push({ what, value, bar, most: true, met: value <= bar });
}

// ---- one changed rule ---------------------------------------------------------------------------------------------------

interface Simulated {
  answer: { verdict: string; rule: string | null };
}
interface Written {
  commit: { milliseconds: { validate: number; compile: number; apply: number; total: number } } | null;
}

/**
 * Each commit replaces a filler rule by one that stops a port which passed until then. Its time is that of the request; that the change
 * is in force when the answer comes is then asked of the engine, which decides by what its workers decide by.
 */
async function oneRule(report: Report, options: Options): Promise<string> {
  const { rules, commits, family } = options;
  const { insideGateway, firstDestination } = networks[family];
  return withAppliance({ ...trafficOf(options), flows: 1 }, { rules, workers: options.workers }, async (_lane, _sluice, api) => {
    const times: number[] = [];
    const parts: Record<string, number[]> = { validate: [], compile: [], apply: [], total: [] };
    let unenforced = 0;
    for (let number = -WARM_UP; number < commits; number++) {
      const port = PROBE_PORTS.first + ((number + WARM_UP) % PROBE_PORTS.count);
      const name = `filler-${((number + WARM_UP) * STRIDE) % rules}`;
      const packet = { from: "trust", source: insideGateway, destination: firstDestination, protocol: "udp", port };
      const simulate = async (): Promise<Simulated["answer"]> => (await api.must<Simulated>("POST", "/api/v1/simulate", packet)).body.answer;
      const before = await simulate();
      if (before.verdict !== "allow") throw new Error(`port ${port} is stopped by ${before.rule} before it is changed`);
      const body = { from: ["trust"], to: ["untrust"], service: [`udp/${port}`], action: number % 2 ? "deny" : "reject" };
      const { milliseconds, body: written } = await api.must<Written>("PUT", `/api/v1/config/firewall/rules/${name}`, body, { "if-match": "*" });
      const after = await simulate();
      if (after.verdict === "allow" || after.rule !== name) unenforced++;
      if (number < 0) continue;
      times.push(milliseconds);
      for (const [part, values] of Object.entries(parts)) values.push(written.commit?.milliseconds[part as "total"] ?? NaN);
      if (number % 50 === 49) progress(`${number + 1} of ${commits} commits, p50 so far ${round(quantilesOf(times).p50)} ms`);
    }
    const [all, ofParts] = [quantilesOf(times), Object.fromEntries(Object.entries(parts).map(([part, values]) => [part, quantilesOf(values)]))];
    report.rule = { rules, commits, request: all, parts: ofParts, milliseconds: times };
    judge(report, `one changed rule of ${rules}, request to answer, p50 ms`, all.p50, BARS.ruleP50Ms);
    judge(report, `one changed rule of ${rules}, request to answer, p99 ms`, all.p99, BARS.ruleP99Ms);
    judge(report, "commits not in force when they were answered", unenforced, 0);
    const rows = [["request to answer", all] as const, ...Object.entries(ofParts)].map(([part, { p50, p99, max }]) => [part, round(p50), round(p99), round(max)]);
    return table([`one rule of ${rules}, ms`, "p50", "p99", "most"], rows);
  });
}

// ---- questions ------------------------------------------------------------------------------------------------------------

interface Page {
  sessions: unknown[];
  cursor: string | null;
}

async function read(report: Report, options: Options): Promise<string> {
  const { sessions: wanted, reads } = options;
  progress(`setting up ${count(wanted)} sessions`);
  const traffic: TrafficOptions = { ...trafficOf(options), flows: wanted, sources: NEW_FLOWS.sources, destinations: NEW_FLOWS.destinations };
  const appliance: SluiceOptions = { sessions: Math.max(SESSIONS_MAX, 2 * wanted), largePool: true, timers: LASTING, workers: options.workers };
  return withAppliance(traffic, appliance, async (_lane, sluice, api) => {
    const { sessions } = await sluice.status();
    if ((sessions?.total ?? 0) < wanted) report.void.push(`only ${sessions?.total} of ${wanted} sessions were there to be read`);
    const times = { status: [] as number[], page: [] as number[] };
    let cursor: string | null = null;
    for (let number = -WARM_UP; number < reads; number++) {
      const status = await api.must("GET", "/api/v1/status");
      const page: { milliseconds: number; body: Page } = await api.must<Page>("GET", `/api/v1/sessions?limit=${PAGE}${cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`}`);
      cursor = page.body.cursor;
      if (number < 0) continue;
      times.status.push(status.milliseconds);
      if (page.body.sessions.length === PAGE) times.page.push(page.milliseconds);
    }
    const [ofStatus, ofPage] = [quantilesOf(times.status), quantilesOf(times.page)];
    report.read = { sessions: sessions?.total, status: ofStatus, page: ofPage, pages: times.page.length };
    if (times.page.length < reads * 0.9) report.void.push(`only ${times.page.length} of ${reads} pages were full`);
    judge(report, "GET status, p99 ms", ofStatus.p99, BARS.statusP99Ms);
    judge(report, `GET of ${PAGE} sessions out of ${count(sessions?.total ?? 0)}, p99 ms`, ofPage.p99, BARS.pageP99Ms);
    const row = (name: string, { p50, p99, max }: typeof ofPage): string[] => [name, round(p50), round(p99), round(max)];
    return table([`with ${count(sessions?.total ?? 0)} sessions, ms`, "p50", "p99", "most"], [row("GET status", ofStatus), row(`GET of ${PAGE} sessions`, ofPage)]);
  });
}

// ---- control killed under traffic -----------------------------------------------------------------------------------------

async function restarts(report: Report, options: Options): Promise<string> {
  const rows: string[][] = [];
  for (const [offload, load] of Object.entries(RESTART_LOADS) as ["auto" | "never", { flows: number; rate: number }][]) {
    const traffic = { ...trafficOf(options), ...load };
    await withAppliance(traffic, { rules: 1000, offload, workers: options.workers }, async (lane, sluice) => {
      const before = { received: await lane.received(), sessions: (await sluice.status()).sessions?.total ?? NaN };
      const began = performance.now();
      const { sent } = await lane.underLoad(async () => {
        for (let kill = 1; kill <= options.restarts; kill++) {
          const pid = sluice.pidOf("control");
          process.kill(pid, "SIGKILL");
          await until("another control runs", () => sluice.pidOf("control") !== pid && sluice.pidOf("control") > 0, { deadlineMs: 60_000 });
          await sluice.ready();
          if (kill % 5 === 0) progress(`${kill} of ${options.restarts} restarts, offload ${offload}`);
        }
      }, RESTART_DEADLINE_S);
      const seconds = (performance.now() - began) / 1000;
      await pause(SETTLE_MS);
      const lost = sent - ((await lane.received()) - before.received);
      const sessions = (await sluice.status()).sessions?.total ?? NaN;
      report[`restarts-${offload}`] = { restarts: options.restarts, seconds, sent, lost, sessionsBefore: before.sessions, sessions };
      const path = offload === "auto" ? "XDP" : "the engine";
      judge(report, `packets lost of ${sent} through ${path}, control killed ${options.restarts} times`, lost, 0);
      judge(report, `sessions lost of ${before.sessions}`, before.sessions - sessions, 0);
      rows.push([`through ${path}`, count(sent), String(lost), String(before.sessions), String(sessions), (seconds / options.restarts).toFixed(2)]);
    });
  }
  return table([`control killed ${options.restarts} times`, "packets", "lost", "sessions", "after", "s a restart"], rows);
}

// ---- records beside forwarding ----------------------------------------------------------------------------------------------

interface Recorded extends Measurement {
  /** Of the far end's packets, a second of the engine process's CPU time. */
  ppsPerEngineSecond: number;
  recordsPerSecond: number;
  recordsLost: number;
}

/** Sums of a metric's series whose labels hold this text. */
function metric(text: string, name: string, labels = ""): number {
  return text.split("\n").filter((line) => line.startsWith(name) && /^[ {]/.test(line.slice(name.length)) && line.includes(labels)).reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** New flows at a fixed rate through one appliance, whose rule records each of them or none: a change of the rule before each measurement. */
function recording(log: "both" | "none", lane: Lane, api: Api, seconds: number): Contender<Recorded> {
  return {
    name: log,
    title: log === "both" ? "flow records to a file" : "no records",
    async start() {
      return {
        async measure() {
          const rule = { from: ["trust"], to: ["untrust"], action: "allow", log };
          await api.must("PUT", "/api/v1/config/firewall/rules/outbound", rule, { "if-match": "*" });
          const engine = lane.sluice!.pidOf("engine");
          const read = async () => {
            const text = (await api.must<string>("GET", "/metrics")).body;
            const lost = metric(text, "sluice_record_losses_total") + metric(text, "sluice_log_records_lost_total");
            return { written: metric(text, "sluice_log_records_total", `stream="${FLOW_LOG}"`), lost, engineSeconds: processSeconds([engine]) };
          };
          const { result, offeredPps } = await lane.underLoad(async (take) => {
            await pause(SETTLE_MS); // sessions end as fast as they begin
            const [before, from] = [await read(), await take()];
            await pause(seconds * 1000);
            return { before, from, to: await take(), after: await read() };
          }, SETTLE_MS / 1000 + seconds + 1);
          const { before, from, to, after } = result;
          const measured = compare(from, to, offeredPps);
          const elapsed = (to.counts.ns - from.counts.ns) / 1e9;
          return {
            ...measured,
            ppsPerEngineSecond: (to.counts.packets - from.counts.packets) / (after.engineSeconds - before.engineSeconds),
            recordsPerSecond: (after.written - before.written) / elapsed,
            recordsLost: after.lost - before.lost,
          };
        },
        detail: async (): Promise<LaneDetail> => ({ flowsSeen: NaN, flowsAnswered: NaN, device: await lane.detail() }),
        stop: async () => {},
      };
    },
    describe: (one) => `${count(one.pps)} new flows a second of ${count(one.offeredPps)}, ${count(one.recordsPerSecond)} records, ${one.recordsLost} lost, ${count(one.ppsPerEngineSecond)} a CPU second of the engine`,
    foreignCores: ({ cores }) => cores.foreign,
  };
}

async function records(report: Report, options: Options): Promise<string> {
  const traffic: TrafficOptions = { ...trafficOf(options), ...NEW_FLOWS, rate: NEW_FLOWS_RATE, newFlows: true };
  const appliance: SluiceOptions = { rules: 1000, sessions: SESSIONS_MAX, largePool: true, timers: SHORT, flowLog: true, workers: options.workers };
  const [logged, silent] = await withAppliance(traffic, appliance, (lane, _sluice, api) =>
    measureInTurns([recording("both", lane, api, options.seconds), recording("none", lane, api, options.seconds)], options),
  );
  const worst = (outcome: Outcome<Recorded>, value: (one: Recorded) => number): number => Math.max(...outcome.rounds.flatMap(({ measurements }) => measurements.map(value)));
  const perSecond = overRounds(logged!, (one) => one.recordsPerSecond);
  const lost = worst(logged!, (one) => one.recordsLost);
  const pps = ratioOf(logged!, silent!, (one) => one.pps);
  const perEngineSecond = ratioOf(logged!, silent!, (one) => one.ppsPerEngineSecond);
  report.records = { recordsPerSecond: perSecond, lost, pps, ppsPerEngineSecond: perEngineSecond, rounds: { logged: logged!.rounds, silent: silent!.rounds } };
  report.verdicts.push(
    { ...atLeast("flow records a second to a file", perSecond, BARS.recordsPerSecond * 0.99) },
    atLeast("packets a second with records ÷ without", pps, BARS.recordsPps, BARS.recordsPpsAim),
    atLeast("packets a CPU second of the engine, with records ÷ without", perEngineSecond, BARS.recordsPps, BARS.recordsPpsAim),
  );
  judge(report, "records lost", lost, 0);
  const row = (outcome: Outcome<Recorded>): string[] => [
    outcome.title,
    count(overRounds(outcome, (one) => one.pps).median),
    count(overRounds(outcome, (one) => one.recordsPerSecond).median),
    String(worst(outcome, (one) => one.recordsLost)),
    count(overRounds(outcome, (one) => one.ppsPerEngineSecond).median),
  ];
  return table(["new flows at a fixed rate", "pps", "records/s", "lost", "pps/engine's CPU s"], [logged!, silent!].map(row));
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = turnCommand("control", "Changes, questions, restarts and records of a running appliance.", { turns: 3, seconds: 5 })
    .option("--parts <list>", `of ${PARTS.join(",")}`, listOf(PARTS), [...PARTS])
    .option("--rules <n>", "part rule: rules of which one changes", parseCount, 10_000)
    .option("--commits <n>", "part rule: so many commits", parseCount, 200)
    .option("--sessions <n>", "part read: sessions that there are", parseCount, 1_000_000)
    .option("--reads <n>", "part read: requests of each kind", parseCount, 500)
    .option("--restarts <n>", "part restarts: times that control is killed", parseCount, 20)
    .option("--workers <n>", "worker threads of sluice", parseCount, 1)
    .parse(argv, { from: "user" })
    .opts<Options>();
  Object.assign(options, { family: 4, flows: 1000 });
  prepareLanes(options);
  const report = newReport("control", options);
  const work = { rule: oneRule, read, restarts, records };
  const tables: string[] = [];
  for (const part of options.parts) {
    progress(`part ${part}`);
    tables.push((await work[part](report, options)) + "\n");
  }
  finish(report, tables, options);
}
