// Options of the benches: parsing and the exit code for wrong usage.

import { Command, InvalidArgumentError } from "commander";

export function benchCommand(name: string, description: string): Command {
  return new Command(name)
    .description(description)
    .option("--json", "print the report as JSON", false)
    .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
}

export function parseCount(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) throw new InvalidArgumentError("a whole number is wanted.");
  return value;
}

/** Bytes with an optional K, M or G (powers of 1024). */
export function parseBytes(text: string): number {
  const match = /^(\d+)([KMG]?)$/i.exec(text);
  if (!match) throw new InvalidArgumentError("bytes, optionally with K, M or G, are wanted.");
  return Number(match[1]) * 1024 ** " KMG".indexOf(match[2]!.toUpperCase() || " ");
}
