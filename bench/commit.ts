// How much of the speed of established flows is left while thousands of rules are committed? Packets a second from the
// start of `sluice config commit` to its end, against windows of steady traffic before and after it. Every rule changes.

import { ceilingContender, laneCommand, objectionsTo, prepareLanes, trafficOf, type LaneCommandOptions, type LaneDetail } from "./lanes.js";
import { parseCount } from "./options.js";
import { compare, Lane, type Measurement } from "./packets.js";
import { peers } from "./peers.js";
import { atLeast, atMost, count, finish, newReport, table } from "./report.js";
import { spreadOf } from "./statistics.js";
import { measureInTurns, overRounds, samplesOf, type Contender } from "./turns.js";
import type { CommitAnswer, Sluice } from "./sluice.js";
import { pause } from "../lab/until.js";

const BARS = [0.95, 0.99] as const;
/** From so many rules on a commit may take so many seconds. */
const SECONDS_BAR = { rules: 100_000, seconds: 5 };
/** Packets are counted so often during a commit: the worst stretch is reported. */
const STRETCH_MS = 100;
const COMMIT_SECONDS_MAX = 120;

interface Options extends LaneCommandOptions {
  rules: number;
}

interface CommitMeasurement extends Measurement {
  /** Of the windows before and after. */
  steadyPps: number;
  /** The least of STRETCH_MS. */
  worstPps: number;
  seconds: number;
  commit: CommitAnswer;
}

function committing(options: Options): Contender<CommitMeasurement> {
  return {
    name: "sluice",
    title: peers.sluice.title,
    async start() {
      const traffic = trafficOf(options);
      const lane = await Lane.start(peers.sluice, traffic, { rules: options.rules, workers: options.workers });
      let seed = 1; // of the rules in force
      const appliance: Sluice = lane.sluice!;

      async function measure(): Promise<CommitMeasurement> {
        const { result, offeredPps } = await lane.underLoad(async (take) => {
          const window = async () => {
            const from = await take();
            await pause(traffic.milliseconds);
            return [from, await take()] as const;
          };
          const before = await window();
          const readings = [await take()];
          let commit: CommitAnswer | undefined;
          const committed = appliance.commit(options.rules, ++seed).then((answer) => (commit = answer));
          while (!commit) {
            await Promise.race([pause(STRETCH_MS), committed]);
            readings.push(await take());
          }
          return { before, readings, commit, after: await window() };
        }, COMMIT_SECONDS_MAX);
        const { before, readings, commit, after } = result;
        const [steady, steadyAfter] = [compare(...before, offeredPps), compare(...after, offeredPps)];
        const stretches = readings.slice(1).map((reading, at) => compare(readings[at]!, reading, offeredPps).pps);
        const during = compare(readings[0]!, readings.at(-1)!, offeredPps);
        return {
          ...during,
          // The commit's own processes are the appliance's: what others took shows in the steady windows.
          cores: { ...during.cores, foreign: Math.max(steady.cores.foreign, steadyAfter.cores.foreign) },
          steadyPps: (steady.pps + steadyAfter.pps) / 2,
          worstPps: Math.min(...(stretches.length > 1 ? stretches.slice(0, -1) : stretches)),
          seconds: (readings.at(-1)!.counts.ns - readings[0]!.counts.ns) / 1e9,
          commit,
        };
      }
      return {
        measure,
        detail: async (): Promise<LaneDetail> => ({ flowsSeen: lane.flowsSeen, flowsAnswered: lane.flowsAnswered, device: await lane.detail() }),
        stop: () => lane.stop(),
      };
    },
    describe: (one) => `${count(one.pps)} pps during ${one.seconds.toFixed(2)} s of committing, ${count(one.steadyPps)} steady, ${count(one.worstPps)} in the worst ${STRETCH_MS} ms`,
    foreignCores: ({ cores }) => cores.foreign,
  };
}

export async function main(argv: readonly string[]): Promise<void> {
  const options = laneCommand("commit", "Packets a second of established flows while a configuration of many other rules is committed.", { turns: 3 })
    .option("--rules <n>", "rules before and after the commit; all of them change", parseCount, 10_000)
    .parse(argv, { from: "user" })
    .opts<Options>();
  prepareLanes(options);
  const report = newReport("commit", options);
  const ceiling = await measureInTurns([ceilingContender(trafficOf(options))], { ...options, rounds: 1, turns: 1 });
  const [outcome] = await measureInTurns([committing(options)], options);
  const part = (one: CommitMeasurement): number => one.pps / one.steadyPps;
  const figures = {
    ...{ pps: overRounds(outcome!, (one) => one.pps), steadyPps: overRounds(outcome!, (one) => one.steadyPps), worstPps: overRounds(outcome!, (one) => one.worstPps) },
    ...{ seconds: overRounds(outcome!, (one) => one.seconds), totalMilliseconds: overRounds(outcome!, (one) => one.commit.milliseconds.total) },
    ...{ part: overRounds(outcome!, part), worstPart: overRounds(outcome!, (one) => one.worstPps / one.steadyPps) },
  };
  report.figures = figures;
  report.rounds = outcome!.rounds;
  report.void.push(...objectionsTo([...ceiling, outcome!], options.flows, options.urgent));
  const unchanged = samplesOf(outcome!, (one) => one.commit.changeCount).filter((changes) => changes < options.rules / 2).length;
  if (unchanged) report.void.push(`${unchanged} commits changed fewer than half of the rules`);
  report.verdicts.push(atLeast(`pps during a commit of ${options.rules} rules ÷ steady`, figures.part, ...BARS));
  if (options.rules >= SECONDS_BAR.rules) report.verdicts.push(atMost(`seconds of a commit of ${options.rules} rules, the command from start to end`, figures.seconds, SECONDS_BAR.seconds));
  const rows = (
    [
      ["steady, packets a second", samplesOf(outcome!, (one) => one.steadyPps), count],
      ["during the commit", samplesOf(outcome!, (one) => one.pps), count],
      [`in the worst ${STRETCH_MS} ms`, samplesOf(outcome!, (one) => one.worstPps), count],
      ["the command, seconds", samplesOf(outcome!, (one) => one.seconds), (value: number) => value.toFixed(2)],
      ["of it in control, ms", samplesOf(outcome!, (one) => one.commit.milliseconds.total), count],
    ] as const
  ).map(([name, values, format]) => ({ name, values, format, spread: spreadOf(values) }));
  finish(report, [table(["committing", "median", "least … most"], rows.map(({ name, format, spread }) => [name, format(spread.median), `${format(spread.min)} … ${format(spread.max)}`]))], {
    ...options,
    plot: { title: `Established flows while ${options.rules} rules are committed`, panels: [{ title: "packets a second", format: count, rows: rows.slice(0, 3) }] },
  });
}
