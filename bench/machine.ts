// What this machine is, and how much CPU time went where: the frame of every measurement. Linux /proc only.

import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { pause } from "../lab/until.js";

/** Root of the checkout; the compiled benches stand in dist/bench. */
export const projectDirectory = fileURLToPath(new URL("../../", import.meta.url));

/** USER_HZ: what /proc counts CPU time in, on every architecture that Node runs on. */
const TICKS_PER_SECOND = 100;
const QUIET_WINDOW_MS = 1000;

export interface Machine {
  kernel: string;
  cpu: string;
  cores: number;
  node: string;
  commit: string;
  /** Files differ from the commit. */
  modified: boolean;
  date: string;
}

export function describeMachine(): Machine {
  const git = (...args: string[]): string => execFileSync("git", ["-C", projectDirectory, ...args], { encoding: "utf8" }).trim();
  return {
    kernel: execFileSync("uname", ["-r"], { encoding: "utf8" }).trim(),
    cpu: /^model name\s*: (.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? process.arch,
    cores: availableParallelism(),
    node: process.version,
    commit: git("rev-parse", "--short=12", "HEAD"),
    modified: git("status", "--porcelain", "--untracked-files=no") !== "",
    date: new Date().toISOString(),
  };
}

/** CPU seconds since boot, over all cores. */
export interface CpuTimes {
  busy: number;
  softirq: number;
  stolen: number;
}

export function readCpuTimes(): CpuTimes {
  const [user, nice, system, , , irq, softirq, steal] = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!.split(/\s+/).slice(1).map(Number) as number[];
  const seconds = (ticks: number): number => ticks / TICKS_PER_SECOND;
  return { busy: seconds(user! + nice! + system! + irq! + softirq!), softirq: seconds(irq! + softirq!), stolen: seconds(steal!) };
}

interface ProcessTimes {
  parent: number;
  name: string;
  seconds: number;
}

function readProcess(pid: number): ProcessTimes | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const end = text.lastIndexOf(")");
    const fields = text.slice(end + 2).split(" ");
    return { parent: Number(fields[1]), name: text.slice(text.indexOf("(") + 1, end), seconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND };
  } catch {
    return undefined; // it ended meanwhile
  }
}

function allProcesses(): Map<number, ProcessTimes> {
  const found = new Map<number, ProcessTimes>();
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    const times = pid > 0 ? readProcess(pid) : undefined;
    if (times) found.set(pid, times);
  }
  return found;
}

/** The process and everything it started that still runs. */
export function processTree(root: number): number[] {
  const processes = allProcesses();
  const tree = [root];
  for (const pid of tree) for (const [child, times] of processes) if (times.parent === pid) tree.push(child);
  return tree;
}

/** CPU seconds of these processes; softirq work done on their time counts as theirs. */
export function processSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => sum + (readProcess(pid)?.seconds ?? 0), 0);
}

/** The kernel's softirq threads: their work belongs to the traffic that runs, whoever's it is. */
export function softirqThreads(): number[] {
  return [...allProcesses()].filter(([, times]) => times.name.startsWith("ksoftirqd/")).map(([pid]) => pid);
}

/** Waits until other people's processes leave the machine alone for a second; false: they did not in time. */
export async function waitForQuiet(seconds: number, coresMax: number): Promise<boolean> {
  for (const end = Date.now() + seconds * 1000; ; ) {
    const before = readCpuTimes().busy;
    await pause(QUIET_WINDOW_MS);
    if ((readCpuTimes().busy - before) / (QUIET_WINDOW_MS / 1000) <= coresMax) return true;
    if (Date.now() > end) return false;
  }
}

/** Resident memory of a process in bytes. */
export function residentBytes(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}
