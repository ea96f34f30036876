// `sluice top`: what the appliance does right now, drawn again each interval. Who: src/cli/program.ts.
// A round asks for status, counters and at most two windows of sessions, and reads the devices' own counters of the appliance's network
// namespace in /proc. When control is away it says so and goes on asking.
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { ClientError, type ApiClient } from '../../api/client.js';
import type { CountersView, StatusView } from '../../control/status.js';
import { addCommon, clientOf, secondsBetween, type CommonOptions } from '../options.js';
import { CliError, ExitCode, print, printJson, printJsonLine } from '../output.js';
import { FullScreen } from '../top/full-screen.js';
import { parseLinkCounters, ratesBetween, type LinkCounters, type Sample, type TopView } from '../top/rates.js';
import { drawTop } from '../top/screen.js';
import { TalkerSampler } from '../top/talkers.js';

const INTERVAL_S = 1;
const INTERVAL_S_MIN = 0.2;
const INTERVAL_S_MAX = 60;

interface TopOptions extends CommonOptions { interval: number; once?: boolean }

export function addTopCommand(program: Command): void {
  addCommon(program.command('top').description('rates, sessions, drops and top talkers, live; q ends it'))
    .option('--interval <SECONDS>', `between two looks, from ${INTERVAL_S_MIN} to ${INTERVAL_S_MAX}`, secondsBetween(INTERVAL_S_MIN, INTERVAL_S_MAX), INTERVAL_S)
    .option('--once', 'print one picture, after one interval')
    .addHelpText('after', `
With --json and without --once: a line of JSON each interval, until Ctrl-C.
Rates of interfaces are those of their devices (interfaces of VLANs share one), as the kernel counts them. Drivers may leave
out packets that XDP redirects or drops; the columns ENGINE, OFFLOAD, HOST and DROPPED are Sluice's own and exact.`)
    .action((options: TopOptions) => top(options));
}

async function top(options: TopOptions): Promise<void> {
  const rounds = new Rounds(clientOf(options));
  const intervalMs = options.interval * 1000;
  if (options.once) {
    await rounds.next();
    await delay(intervalMs);
    const view = (await rounds.next())!;
    return options.json ? printJson(view) : print(drawTop(view).join('\n'));
  }
  if (options.json) return streamJson(rounds, intervalMs);
  if (!process.stdout.isTTY) throw new CliError('sluice top draws on a terminal, and its output is none', 'use --once for one picture, or --json', ExitCode.USAGE);
  return drawUntilQuit(rounds, intervalMs);
}

async function streamJson(rounds: Rounds, intervalMs: number): Promise<void> {
  process.once('SIGINT', () => process.exit(ExitCode.DONE)); // the way to end it is no failure
  for (;;) {
    const view = await rounds.next().catch((error: unknown) => {
      if (rounds.hasBegun && isAway(error)) return undefined;
      throw error;
    });
    if (view) printJsonLine(view);
    await delay(intervalMs);
  }
}

async function drawUntilQuit(rounds: Rounds, intervalMs: number): Promise<void> {
  await rounds.next(); // no appliance, no rights: said on the usual screen
  const quit = new AbortController();
  let view: TopView | undefined;
  let away = '';
  const redraw = (): void => {
    const size = screen.size;
    const lines = view ? drawTop(view, { ...size, rows: size.rows - 1 }) : ['Counting …'];
    while (lines.length < size.rows - 1) lines.push('');
    screen.draw([...lines, (away || 'q: quit').slice(0, size.columns)]);
  };
  const screen = new FullScreen(() => quit.abort(), redraw);
  screen.open();
  try {
    while (!quit.signal.aborted) {
      await delay(intervalMs, undefined, { signal: quit.signal }).catch(() => undefined);
      if (quit.signal.aborted) break;
      try {
        view = await rounds.next() ?? view;
        away = '';
      } catch (error) {
        if (!isAway(error)) throw error;
        away = `q: quit    control does not answer since ${new Date().toISOString().slice(11, 19)} UTC; forwarding does not need it`;
      }
      redraw();
    }
  } finally {
    screen.leave();
  }
  process.exit(ExitCode.DONE); // an answer may still be under way
}

/** Away for now: control restarts, or answers late. Anything else would not pass by waiting. */
const isAway = (error: unknown): boolean => error instanceof ClientError && ['NOT_RUNNING', 'SLUICE_CLIENT_CONNECTION', 'SLUICE_CLIENT_TIMEOUT', 'SLUICE_ENGINE_AWAY', 'SLUICE_NOT_READY'].includes(error.code);

class Rounds {
  private before: Sample | undefined;
  private readonly talkers: TalkerSampler;

  constructor(private readonly client: ApiClient) { this.talkers = new TalkerSampler(client); }

  get hasBegun(): boolean { return this.before !== undefined; }

  /** Undefined the first time: a rate needs two looks. */
  async next(): Promise<TopView | undefined> {
    const status = await this.client.get<StatusView>('/api/v1/status');
    const [counters, links, talkers] = await Promise.all([this.client.get<CountersView>('/api/v1/counters'), readLinks(status), this.talkers.round()]);
    const sample: Sample = { atMs: performance.now(), status, counters, links };
    const view = this.before && ratesBetween(this.before, sample, talkers, new Date());
    this.before = sample;
    return view;
  }
}

/** Of control's network namespace, which is the appliance's, whichever we are in. */
async function readLinks(status: StatusView): Promise<Map<string, LinkCounters>> {
  const pid = status.processes.find((one) => one.role === 'control')?.pid;
  const text = pid === undefined || pid === null ? '' : await readFile(`/proc/${pid}/net/dev`, 'utf8').catch(() => '');
  return parseLinkCounters(text);
}
