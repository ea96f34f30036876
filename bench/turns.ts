// Contenders measured in turns. A round starts every one of them, each in a network of its own, and then measures them
// one after the other, A B C A B C: neighbours in time are compared with each other, so the drift of the machine cancels
// out; new rounds bring new processes and new memory.

import { waitForQuiet } from "./machine.js";
import { progress } from "./report.js";
import { spreadOf, type Spread } from "./statistics.js";

/** A measurement during which processes of other people took more than this is taken again. */
export const FOREIGN_CORES_MAX = 0.1;
const REPEATS_MAX = 3;

export interface TurnOptions {
  rounds: number;
  turns: number;
  /** Seconds to wait for a quiet machine before each measurement, at most. */
  patience: number;
  urgent: boolean;
}

export interface Subject<M> {
  measure(): Promise<M>;
  /** Its own counters at the end of a round: for people who look into a surprising result. */
  detail(): Promise<unknown>;
  stop(): Promise<void>;
}

export interface Contender<M> {
  name: string;
  title: string;
  start(): Promise<Subject<M>>;
  /** What progress says of a measurement. */
  describe(measurement: M): string;
  /** Cores that processes took which have no part in it. */
  foreignCores(measurement: M): number;
}

export interface Round<M> {
  measurements: M[];
  detail: unknown;
}

export interface Outcome<M> {
  name: string;
  title: string;
  rounds: Round<M>[];
  foreignCoresMax: number;
}

/** One measurement, taken again when others disturbed it. */
async function measureUndisturbed<M>(contender: Contender<M>, subject: Subject<M>, title: string, options: TurnOptions): Promise<M> {
  for (let repeat = 0; ; repeat++) {
    // Urgent devices do not notice the others: the scheduler puts them first.
    if (!options.urgent && options.patience > 0) await waitForQuiet(options.patience, FOREIGN_CORES_MAX);
    const result = await subject.measure();
    const foreign = contender.foreignCores(result);
    const disturbed = !options.urgent && foreign > FOREIGN_CORES_MAX;
    const again = disturbed && options.patience > 0 && repeat < REPEATS_MAX;
    const remark = disturbed ? `, other processes ${foreign.toFixed(2)} cores${again ? ": again" : ""}` : "";
    progress(`${title}  ${contender.describe(result)}${remark}`);
    if (!again) return result;
  }
}

/** Starts all, measures them in turns, ends them; as many rounds as wanted. */
export async function measureInTurns<M>(contenders: readonly Contender<M>[], options: TurnOptions): Promise<Outcome<M>[]> {
  const outcomes = contenders.map(({ name, title }): Outcome<M> => ({ name, title, rounds: [], foreignCoresMax: 0 }));
  const width = Math.max(...contenders.map(({ name }) => name.length));
  for (let round = 1; round <= options.rounds; round++) {
    const subjects: Subject<M>[] = [];
    const results = contenders.map((): Round<M> => ({ measurements: [], detail: undefined }));
    try {
      for (const contender of contenders) {
        progress(`round ${round}/${options.rounds}  ${contender.name.padEnd(width)}  starting`);
        subjects.push(await contender.start());
      }
      for (let turn = 1; turn <= options.turns; turn++) {
        for (const [at, contender] of contenders.entries()) {
          const title = `round ${round}/${options.rounds} turn ${turn}/${options.turns}  ${contender.name.padEnd(width)}`;
          const measurement = await measureUndisturbed(contender, subjects[at]!, title, options);
          results[at]!.measurements.push(measurement);
          outcomes[at]!.foreignCoresMax = Math.max(outcomes[at]!.foreignCoresMax, contender.foreignCores(measurement));
        }
      }
      for (const [at, subject] of subjects.entries()) results[at]!.detail = await subject.detail();
    } finally {
      for (const subject of subjects) await subject.stop();
    }
    outcomes.forEach((outcome, at) => outcome.rounds.push(results[at]!));
  }
  return outcomes;
}

/** Median of each round's turns; median and spread of these. */
export function overRounds<M>(outcome: Outcome<M>, value: (measurement: M) => number): Spread {
  return spreadOf(outcome.rounds.map(({ measurements }) => spreadOf(measurements.map(value)).median));
}

/** Ratio of two contenders, turn by turn; then as overRounds. */
export function ratioOf<M>(over: Outcome<M>, under: Outcome<M>, value: (measurement: M) => number): Spread {
  return spreadOf(over.rounds.map(({ measurements }, round) => spreadOf(measurements.map((one, turn) => value(one) / value(under.rounds[round]!.measurements[turn]!))).median));
}

/** Every sample: what plots show. */
export function samplesOf<M>(outcome: Outcome<M>, value: (measurement: M) => number): number[] {
  return outcome.rounds.flatMap(({ measurements }) => measurements.map(value));
}

/** Said of each contender whose figures were taken while others worked on the machine. */
export function disturbances<M>(outcomes: readonly Outcome<M>[]): string[] {
  return outcomes.filter(({ foreignCoresMax }) => foreignCoresMax > FOREIGN_CORES_MAX).map(({ title, foreignCoresMax }) => `other processes took up to ${foreignCoresMax.toFixed(2)} cores from ${title}`);
}
