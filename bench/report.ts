// Progress, tables and result files.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeMachine, projectDirectory, type Machine } from "./machine.js";

/** Says on standard error what is going on; standard output belongs to the result. */
export function progress(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Columns aligned: the first to the left, the others to the right. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head, ...rows];
  const widths = head.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  return lines.map((line) => line.map((cell, column) => (column ? cell.padStart(widths[column]!) : cell.padEnd(widths[0]!))).join("  ").trimEnd()).join("\n");
}

/** 1,284,000 → 1.284 M */
export function count(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(3)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value.toFixed(value < 10 ? 2 : 0);
}

const figure = (value: number): string => (Number.isInteger(value) ? String(value) : value.toFixed(3));

export interface Verdict {
  what: string;
  value: number;
  bar: number;
  met: boolean;
}

export interface Report {
  bench: string;
  machine: Machine;
  options: object;
  /** Why the figures must not be used; empty when they may. */
  void: string[];
  verdicts: Verdict[];
  [figures: string]: unknown;
}

export function newReport(bench: string, options: object): Report {
  return { bench, machine: describeMachine(), options, void: [], verdicts: [] };
}

/** Prints the report, saves it in bench/results, and sets the exit code: 1 when void or below a bar. */
export function finish(report: Report, tables: readonly string[], asJson: boolean): void {
  const directory = join(projectDirectory, "bench/results");
  const stamp = report.machine.date.replace(/[-:]/g, "").slice(0, 15);
  const file = join(directory, `${report.bench}-${stamp}.json`);
  mkdirSync(directory, { recursive: true });
  writeFileSync(file, JSON.stringify(report, null, 2) + "\n");
  const { machine } = report;
  const lines = [
    ...tables,
    ...report.verdicts.map((v) => `${v.met ? "met   " : "MISSED"}  ${v.what}: ${figure(v.value)} (bar ${figure(v.bar)})`),
    ...report.void.map((reason) => `VOID    ${reason}`),
    `kernel ${machine.kernel}, ${machine.cores} × ${machine.cpu}, commit ${machine.commit}${machine.modified ? " + changes" : ""}`,
    `saved in ${file.slice(projectDirectory.length)}`,
  ];
  process.stdout.write(asJson ? JSON.stringify(report, null, 2) + "\n" : lines.join("\n") + "\n");
  if (report.void.length || report.verdicts.some((verdict) => !verdict.met)) process.exitCode = 1;
}
