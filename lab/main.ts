// `npm start`: the lab with the running appliance in it. Real programs send real traffic, a summary says what happened and
// by which rule; then it runs until Ctrl-C, so that a person can try. Leaves nothing behind.

import { parseArgs } from 'node:util';
import type { DropRecordView, FlowRecordView } from '../src/engine/records.js';
import { Appliance } from './appliance.js';
import { Lab, labObstacle } from './lab.js';
import { ADDRESSES, CONFIG, FAMILIES, PORTS, buildTopology, startServers, type Family } from './topology.js';
import { download, iperf, ping, tcpConnect, udpExchange, who } from './traffic.js';
import { until } from './until.js';

const TRANSFER_BYTES = 50_000_000;
const IPERF_SECONDS = 2;
const FORBIDDEN_WAIT_MS = 1000;
const RECORD_DEADLINE_MS = 5_000;
const RECORDS_MAX = '1000';

const USAGE = `Usage: npm start [-- OPTIONS]

Runs the lab: client, server and internet around the appliance, in network namespaces of their own.

  --once   end after the summary; the exit code says whether everything behaved
  --json   the summary as JSON
  --help   this text
`;

interface Outcome {
  ok: boolean;
  what: string;
}

/** One thing to try, and how to find it in the appliance's records. */
interface Trial {
  name: string;
  family: Family;
  run(): Promise<Outcome>;
  protocol: string;
  source: string;
  destination: string;
  port?: number;
  expect: 'flow' | 'drop';
}

interface Summary extends Outcome {
  name: string;
  family: Family;
  by: string;
}

function trials(lab: Lab, family: Family): Trial[] {
  const at = ADDRESSES[family];
  const icmp = family === 'IPv4' ? 'icmp' : 'icmpv6';
  const gigabits = (bits: number): string => `${(bits / 1e9).toFixed(2)} Gbit/s`;
  return [
    {
      name: `HTTP, ${TRANSFER_BYTES / 1e6} MB, client to far`,
      family,
      protocol: 'tcp',
      source: at.client,
      destination: at.far,
      port: 80,
      expect: 'flow',
      run: async () => {
        const transfer = await download(lab, 'client', at.far, TRANSFER_BYTES);
        return { ok: transfer.ok, what: `${transfer.detail}, ${transfer.seconds.toFixed(1)} s` };
      },
    },
    {
      name: 'UDP exchange, client to far',
      family,
      protocol: 'udp',
      source: at.client,
      destination: at.far,
      port: 7,
      expect: 'flow',
      run: async () => {
        const exchange = await udpExchange(lab, 'client', at.far, { count: 100 });
        return { ok: exchange.answered === exchange.sent, what: `${exchange.answered} of ${exchange.sent} answered` };
      },
    },
    {
      name: 'ping, client to far',
      family,
      protocol: icmp,
      source: at.client,
      destination: at.far,
      expect: 'flow',
      run: async () => {
        const answer = await ping(lab, 'client', at.far);
        return { ok: answer.ok, what: `${answer.received} of ${answer.sent} answered` };
      },
    },
    {
      name: 'iperf3, client to internet',
      family,
      protocol: 'tcp',
      source: at.client,
      destination: at.internet,
      port: PORTS.iperf,
      expect: 'flow',
      run: async () => {
        const run = await iperf(lab, 'client', at.internet, { seconds: IPERF_SECONDS });
        return { ok: run.ok, what: run.ok ? gigabits(run.bitsPerSecond) : run.detail };
      },
    },
    {
      name: 'published service, internet to server',
      family,
      protocol: 'tcp',
      source: at.internet,
      destination: at.nvaUntrust,
      port: 8443,
      expect: 'flow',
      run: async () => {
        const seen = await who(lab, 'internet', at.nvaUntrust, 8443);
        return { ok: seen.local === at.server, what: `reached ${seen.local} port ${seen.localPort}` };
      },
    },
    {
      name: 'no NAT: HTTP, client to server',
      family,
      protocol: 'tcp',
      source: at.client,
      destination: at.server,
      port: 80,
      expect: 'flow',
      run: async () => {
        const seen = await who(lab, 'client', at.server);
        return { ok: seen.remote === at.client, what: `the server saw ${seen.remote}` };
      },
    },
    {
      name: 'forbidden: telnet, client to internet',
      family,
      protocol: 'tcp',
      source: at.client,
      destination: at.internet,
      port: 23,
      expect: 'drop',
      run: async () => {
        const attempt = await tcpConnect(lab, 'client', at.internet, 23, { timeoutMs: FORBIDDEN_WAIT_MS });
        return { ok: attempt.result === 'timeout', what: attempt.result === 'timeout' ? 'stopped, silently' : attempt.result };
      },
    },
    {
      name: 'forbidden: SMTP, client to internet',
      family,
      protocol: 'tcp',
      source: at.client,
      destination: at.internet,
      port: 25,
      expect: 'drop',
      run: async () => {
        const attempt = await tcpConnect(lab, 'client', at.internet, 25);
        return { ok: attempt.result === 'ECONNREFUSED', what: attempt.result === 'ECONNREFUSED' ? 'refused at once' : attempt.result };
      },
    },
  ];
}

const socket = (address: string, port: number): string => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);

function describeFlow(record: FlowRecordView): string {
  const { translated } = record;
  const parts = [`rule ${record.rule}`];
  if (translated && record.natSource)
    parts.push(`source NAT ${record.natSource}: from ${socket(translated.source, translated.sourcePort)}`);
  if (translated && record.natDestination)
    parts.push(`destination NAT ${record.natDestination}: to ${socket(translated.destination, translated.destinationPort)}`);
  if (!translated) parts.push('no NAT');
  return parts.join(', ');
}

/** What the appliance itself says about the trials: its records, read once they are all there. */
async function explain(appliance: Appliance, all: readonly Trial[]): Promise<(string | undefined)[]> {
  const read = async (): Promise<(string | undefined)[]> => {
    const [flows, drops] = await Promise.all([appliance.flows('--limit', RECORDS_MAX), appliance.drops('--last', RECORDS_MAX)]);
    return all.map((trial) => {
      const isTrial = (record: FlowRecordView | DropRecordView): boolean =>
        record.protocol === trial.protocol &&
        record.source === trial.source &&
        record.destination === trial.destination &&
        (trial.port === undefined || record.destinationPort === trial.port);
      if (trial.expect === 'flow') {
        const flow = flows.find(isTrial);
        return flow && describeFlow(flow);
      }
      const drop = drops.find(isTrial);
      return drop && `rule ${drop.rule}, dropped: ${drop.reason}`;
    });
  };
  const complete = async (): Promise<(string | undefined)[] | undefined> => {
    const answers = await read();
    return answers.includes(undefined) ? undefined : answers;
  };
  return until('there is a record of each trial', complete, { deadlineMs: RECORD_DEADLINE_MS, intervalMs: 200 }).catch(read);
}

async function attempt(trial: Trial): Promise<Outcome> {
  try {
    return await trial.run();
  } catch (error) {
    return { ok: false, what: (error as Error).message.trim().split('\n').at(-1) ?? 'failed' };
  }
}

function printSummary(rows: Summary[]): void {
  const width = (pick: (row: Summary) => string): number => Math.max(...rows.map((row) => pick(row).length));
  const [names, whats] = [width((row) => row.name), width((row) => row.what)];
  for (const row of rows)
    console.log(`${row.ok ? '  ok ' : 'FAIL '} ${row.family}  ${row.name.padEnd(names)}  ${row.what.padEnd(whats)}  ${row.by}`);
}

function printHowTo(lab: Lab, appliance: Appliance): void {
  console.log(`
The lab runs. Configuration: ${CONFIG}
  shells           npm run lab:shell client     (also: server, internet, far, nva)
  for instance     npm run lab:shell client curl http://${ADDRESSES.IPv4.far}/
  the appliance    npx sluice status --dir ${appliance.directory}
                   npx sluice flows --dir ${appliance.directory}
                   npx sluice drops --dir ${appliance.directory}
  admin API        curl --unix-socket ${appliance.directory}/api.sock http://sluice/api/v1/status
  namespaces       ${lab.namespace('client')} and its like

Ctrl-C ends it and leaves nothing behind.`);
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: { once: { type: 'boolean' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const obstacle = labObstacle();
  if (obstacle) {
    console.error(`lab: ${obstacle}`);
    return 1;
  }
  const say = (text: string): void => (values.json ? undefined : console.log(text));

  const lab = new Lab();
  const interrupted = new Promise<'interrupted'>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => resolve('interrupted'));
  });
  try {
    const appliance = new Appliance(lab);
    const work = async (): Promise<number> => {
      say('Lab: client, server, internet and far around the appliance …');
      buildTopology(lab);
      await startServers(lab);
      say('Appliance: sluice up …');
      await appliance.start();
      say(`Ready after ${process.uptime().toFixed(1)} s. Traffic …\n`);
      const all = FAMILIES.flatMap((family) => trials(lab, family));
      const outcomes: Outcome[] = [];
      for (const trial of all) outcomes.push(await attempt(trial));
      const by = await explain(appliance, all);
      const rows = all.map(({ name, family }, n): Summary => {
        const { ok, what } = outcomes[n]!;
        return { name, family, ok: ok && by[n] !== undefined, what, by: by[n] ?? 'no record' };
      });
      if (values.json) console.log(JSON.stringify({ lab: lab.id, directory: appliance.directory, trials: rows }, null, 2));
      else printSummary(rows);
      const failed = rows.filter((row) => !row.ok).length;
      if (failed) say(`\n${failed} of ${rows.length} did not behave as expected.\n${appliance.logs()}`);
      if (values.once) return failed ? 1 : 0;
      say('');
      if (!values.json) printHowTo(lab, appliance);
      const ended = await Promise.race([interrupted, appliance.program!.exited]);
      if (ended === 'interrupted') return failed ? 1 : 0;
      console.error(`lab: the appliance ended (${appliance.program!.describeExit()}):\n${appliance.program!.tail()}`);
      return 1;
    };
    const running = work();
    const first = await Promise.race([running, interrupted]);
    if (first !== 'interrupted') return first;
    running.catch(() => undefined); // what is under way fails when the lab goes
    return 0;
  } finally {
    say('\nCleaning up …');
    await lab.destroy();
  }
}

process.exitCode = await main().catch((error: Error) => {
  console.error(`lab: ${error.message}`);
  return 1;
});
process.exit();
