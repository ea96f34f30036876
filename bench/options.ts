// Options of the benches: parsing and the exit code for wrong usage.

import { availableParallelism } from "node:os";
import { Command, InvalidArgumentError } from "commander";
import type { Placement } from "./tool.js";

/** Options of benches that measure contenders in turns. */
export interface TurnCommandOptions {
  rounds: number;
  turns: number;
  seconds: number;
  patience: number;
  pin: boolean;
  urgent: boolean;
  json: boolean;
  save?: string;
}

export function turnCommand(name: string, description: string, { turns = 2, seconds = 2 } = {}): Command {
  return benchCommand(name, description)
    .option("--rounds <n>", "rounds: everything starts anew in each; medians are taken over them", parseCount, 5)
    .option("--turns <n>", "turns a round: each contender is measured once a turn", parseCount, turns)
    .option("--seconds <n>", "measured time of each contender in each turn", parseSeconds, seconds)
    .option("--patience <seconds>", "before each measurement, wait so long at most for a quiet machine; 0: take it as it is", parseCount, 60)
    .option("--no-pin", "let the scheduler place the programs, instead of one core for the sending end and the rest for the device")
    .option("--urgent", "run the traffic's ends and the device before every other process (real-time priority): measures while others work, and slows them", false);
}

/** Where the sending end and the device run. */
export function placementsOf({ pin, urgent }: TurnCommandOptions): { generator: Placement; device: Placement } {
  const cores = availableParallelism();
  const pinned = pin && cores > 1;
  return {
    generator: { urgent, ...(pinned ? { cpus: "0" } : {}) },
    device: { urgent, ...(pinned ? { cpus: cores === 2 ? "1" : `1-${cores - 1}` } : {}) },
  };
}

export function benchCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option("--json", "print the report as JSON", false)
    .option("--save <name>", "name of the files in bench/results (the bench's)", parseFileName)
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
}

function parseFileName(text: string): string {
  if (!/^[\w-]+$/.test(text)) throw new InvalidArgumentError("letters, digits, - and _ are wanted.");
  return text;
}

export function parseCount(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError("a whole number is wanted.");
  return value;
}

/** Whole numbers with commas between them. */
export function parseCounts(text: string): number[] {
  return text.split(",").map(parseCount);
}

/** Seconds; parts of one are allowed. */
export function parseSeconds(text: string): number {
  const value = Number(text);
  if (!(value > 0) || value > 3600) throw new InvalidArgumentError("seconds are wanted.");
  return value;
}

export function parseFamily(text: string): 4 | 6 {
  if (text !== "4" && text !== "6") throw new InvalidArgumentError("4 or 6.");
  return Number(text) as 4 | 6;
}

/** A list of names, each of those that there are. */
export function listOf<Name extends string>(names: readonly Name[]): (text: string) => Name[] {
  return (text) =>
    text.split(",").map((name) => {
      if (!names.includes(name as Name)) throw new InvalidArgumentError(`there are: ${names.join(", ")}.`);
      return name as Name;
    });
}

/** Bytes with an optional K, M or G (powers of 1024). */
export function parseBytes(text: string): number {
  const match = /^(\d+)([KMG]?)$/i.exec(text);
  if (!match) throw new InvalidArgumentError("bytes, optionally with K, M or G, are wanted.");
  return Number(match[1]) * 1024 ** " KMG".indexOf(match[2]!.toUpperCase() || " ");
}
