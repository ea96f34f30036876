// Progress, tables and result files.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeMachine, projectDirectory, type Machine } from "./machine.js";
import { plotSvg, type Panel } from "./plot.js";
import type { Spread } from "./statistics.js";

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

/** What a figure is judged by: the bar it must reach, and where the project wants it. */
export interface Verdict {
  what: string;
  value: number;
  bar: number;
  aim?: number;
  /** Bar and aim are the most that there may be, not the least. */
  most?: boolean;
  met: boolean;
}

/** The verdict on a ratio that must be at least the bar. */
export function atLeast(what: string, ratio: Spread, bar: number, aim?: number): Verdict {
  return { what: `${what} (${figure(ratio.min)} to ${figure(ratio.max)})`, value: ratio.median, bar, ...(aim === undefined ? {} : { aim }), met: ratio.median >= bar };
}

/** The verdict on a ratio that must be at most the bar. */
export function atMost(what: string, ratio: Spread, bar: number, aim?: number): Verdict {
  return { ...atLeast(what, ratio, bar, aim), met: ratio.median <= bar, most: true };
}

export function verdictLine({ what, value, bar, aim, most, met }: Verdict): string {
  const word = !met ? "MISSED" : aim !== undefined && (most ? value <= aim : value >= aim) ? "aim met" : "met";
  return `${word.padEnd(7)} ${what}: ${figure(value)} (bar ${figure(bar)}${aim === undefined ? "" : `, aim ${figure(aim)}`})`;
}

export interface Report {
  bench: string;
  machine: Machine;
  /** As it was typed. */
  command: string;
  options: object;
  /** Why the figures must not be used; empty when they may. */
  void: string[];
  verdicts: Verdict[];
  [figures: string]: unknown;
}

export function newReport(bench: string, options: object): Report {
  const command = ["npm run bench --", ...process.argv.slice(2)].join(" ");
  return { bench, machine: describeMachine(), command, options, void: [], verdicts: [] };
}

export interface Output {
  /** Print the report instead of tables. */
  json: boolean;
  /** Name of the files in bench/results; default: the bench's. */
  save?: string;
  plot?: { title: string; panels: readonly Panel[] };
}

/** Prints the report, saves it in bench/results, and sets the exit code: 1 when void or below a bar. */
export function finish(report: Report, tables: readonly string[], output: Output): void {
  const directory = join(projectDirectory, "bench/results");
  const base = join(directory, output.save ?? report.bench);
  const { machine } = report;
  const where = `kernel ${machine.kernel}, ${machine.cores} × ${machine.cpu}, commit ${machine.commit}${machine.modified ? " + changes" : ""}`;
  mkdirSync(directory, { recursive: true });
  writeFileSync(`${base}.json`, JSON.stringify(report, null, 1) + "\n");
  if (output.plot) writeFileSync(`${base}.svg`, plotSvg(output.plot.title, `${where}, ${machine.date.slice(0, 10)}${report.void.length ? " – VOID" : ""}`, output.plot.panels));
  const lines = [
    ...tables,
    ...report.verdicts.map(verdictLine),
    ...report.void.map((reason) => `VOID    ${reason}`),
    where,
    `saved in ${base.slice(projectDirectory.length)}.json${output.plot ? " and .svg" : ""}`,
  ];
  process.stdout.write(output.json ? JSON.stringify(report, null, 2) + "\n" : lines.join("\n") + "\n");
  if (report.void.length || report.verdicts.some((verdict) => !verdict.met)) process.exitCode = 1;
}
