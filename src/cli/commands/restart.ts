// `sluice restart engine|control`: ends one process and waits until its successor does its work. Who: src/cli/program.ts.
// An upgrade on purpose: sessions, NAT bindings and offloaded flows outlive the engine. Progress goes to stderr, the result to stdout.
import { setTimeout as delay } from 'node:timers/promises';
import { Argument, type Command } from 'commander';
import { ApiClient, ClientError } from '../../api/client.js';
import type { StatusView } from '../../control/status.js';
import { addCommon, clientOf, seconds, type CommonOptions } from '../options.js';
import { CliError, formatCount, note, print, printJson } from '../output.js';

const POLL_MS = 50;
const WAIT_S = 30;

type Role = 'engine' | 'control';
interface RestartOptions extends CommonOptions { wait: number }
interface Restarted { process: Role; pidBefore: number; pid: number; milliseconds: number; sessionsBefore: number | null; sessions: number | null }

export function addRestartCommand(program: Command): void {
  addCommon(program.command('restart').description('restart a process; sessions go on'))
    .addArgument(new Argument('<PROCESS>', 'which one').choices(['engine', 'control']))
    .option('--wait <SECONDS>', 'how long its successor may take', seconds, WAIT_S)
    .addHelpText('after', `
Flows that the XDP program forwards lose nothing. Packets that need the engine wait for it, less than a second; sessions and
NAT bindings are the same afterwards. With another limits.sessions, or a version of another memory layout, the engine starts
with no sessions, and its log says so.`)
    .action((role: Role, options: RestartOptions) => restart(role, options));
}

async function restart(role: Role, options: RestartOptions): Promise<void> {
  const client = clientOf(options);
  const say = (text: string): void => { if (!options.json) note(text); };
  const before = await client.get<StatusView>('/api/v1/status');
  const began = performance.now();
  const { pid: pidBefore } = await client.post<{ pid: number }>('/api/v1/restart', { process: role });
  say(`${role} ${pidBefore} ends …`);
  const after = await successor(client, role, pidBefore, began + options.wait * 1000, say);
  const result: Restarted = {
    process: role, pidBefore, pid: pidOf(after, role)!, milliseconds: Math.round(performance.now() - began),
    sessionsBefore: before.sessions?.total ?? null, sessions: after.sessions?.total ?? null,
  };
  if (options.json) printJson(result);
  else print(`${role} ${result.pid} does its work after ${(result.milliseconds / 1000).toFixed(1)} s${result.sessions === null ? '' : `; ${formatCount(result.sessions)} sessions (${formatCount(result.sessionsBefore ?? 0)} before)`}`);
}

const pidOf = (status: StatusView, role: Role): number | null => status.processes.find((one) => one.role === role)?.pid ?? null;

async function successor(client: ApiClient, role: Role, pidBefore: number, end: number, say: (text: string) => void): Promise<StatusView> {
  let missing = [`${role} has not started yet`];
  let started: number | null = null;
  for (;;) {
    try {
      const status = await client.get<StatusView>('/api/v1/status');
      const pid = pidOf(status, role);
      if (pid !== null && pid !== pidBefore) {
        if (pid !== started) say(`${role} ${pid} has started …`);
        started = pid;
        if (status.ready) return status;
        missing = status.missing;
      }
    } catch (error) {
      if (!(error instanceof ClientError) || (error.code !== 'NOT_RUNNING' && error.code !== 'SLUICE_CLIENT_CONNECTION')) throw error;
    }
    if (performance.now() >= end) throw new CliError(`not ready in time: ${missing.join('; ')}`, 'the log says more: engine.log and control.log in the run directory');
    await delay(POLL_MS);
  }
}
