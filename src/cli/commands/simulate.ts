// `sluice simulate`: would this packet pass, and by which rule, NAT and route? Who: src/cli/program.ts. It asks the running appliance, or,
// with --config, the same engine code in offline mode: no netdevs, no root, devices that are missing here are thought up.
import type { Command } from 'commander';
import { ApiError } from '../../api/errors.js';
import { parseQuestion, type SimulateBody } from '../../api/routes/simulate.js';
import type { Device, Facts } from '../../config/facts.js';
import type { Config } from '../../config/schema.js';
import { loadAddon } from '../../engine/binding.js';
import type { namePeer as NamePeer } from '../../control/wireguard.js';
import { decodeSimulate, encodeSimulate } from '../../engine/records.js';
import { addCommon, clientOf, wholeNumber, type CommonOptions } from '../options.js';
import { CliError, endpoint, ExitCode, print, printJson } from '../output.js';

type Answer = ReturnType<typeof NamePeer>;

interface SimulateOptions extends CommonOptions, SimulateBody { config?: string }

export function addSimulateCommand(program: Command): void {
  const port = wholeNumber(0, 65535);
  const octet = wholeNumber(0, 255);
  addCommon(program.command('simulate').description('would this packet pass, and by which rule, NAT and route? exit 0 in either case'))
    .requiredOption('--from <INTERFACE>', 'interface on which it comes in')
    .requiredOption('--source <ADDRESS>', 'source address')
    .requiredOption('--destination <ADDRESS>', 'destination address, as the sender writes it')
    .requiredOption('--protocol <NAME>', 'tcp, udp, icmp, icmpv6 or a number')
    .option('--port <N>', 'destination port', port)
    .option('--source-port <N>', 'source port, or the identifier of an ICMP query', port)
    .option('--icmp-type <N>', 'ICMP type (default: echo request)', octet)
    .option('--icmp-code <N>', 'ICMP code', octet)
    .option('--config <FILE>', 'ask this configuration instead of the running appliance')
    .action((options: SimulateOptions) => simulate(options));
}

async function simulate(options: SimulateOptions): Promise<void> {
  const { from, source, destination, protocol, port, sourcePort, icmpType, icmpCode } = options;
  const given = Object.entries({ port, sourcePort, icmpType, icmpCode }).filter(([, value]) => value !== undefined);
  const question: SimulateBody = { from, source, destination, protocol, ...Object.fromEntries(given) };
  const answer = options.config === undefined
    ? (await clientOf(options).post<{ answer: Answer }>('/api/v1/simulate', question)).answer
    : await simulateOffline(options.config, question);
  if (options.json) printJson({ question, answer });
  else print(formatAnswer(question, answer));
}

async function simulateOffline(file: string, body: SimulateBody): Promise<Answer> {
  const { checkFile } = await import('../../config/check.js');
  const { formatProblem } = await import('../../config/problem.js');
  const { compileFile } = await import('../../control/compiled.js');
  const { namePeer } = await import('../../control/wireguard.js');
  const facts = imagineFacts(checkFile(file).config);
  const { problems, compiled } = compileFile(file, facts, 1, []);
  if (!compiled) {
    const errors = problems.filter((problem) => problem.severity === 'error');
    throw new CliError(`${file} cannot be used:\n${errors.map(formatProblem).join('\n')}`, undefined, ExitCode.REFUSED, { problems: errors });
  }
  let question;
  try {
    question = parseQuestion(body, compiled.interfaces.map((one) => one.name));
  } catch (error) {
    if (error instanceof ApiError) throw new CliError(error.message, undefined, ExitCode.USAGE);
    throw error;
  }
  const addon = loadAddon();
  addon.open({
    pinDirectory: '', bpfObject: '', workers: 1, sessionsMax: 1024, framesPerWorker: 512, txBudget: 0, busyPoll: false, offline: true, hostDevice: '',
  });
  try {
    addon.apply(compiled.snapshot);
    return namePeer(decodeSimulate(addon.simulate(encodeSimulate(question)), compiled.names), compiled.tunnels);
  } finally {
    addon.close();
  }
}

/** A machine that has the devices which the configuration names, with nothing on them. */
function imagineFacts(config: Config | undefined): Facts {
  const devices = new Map<string, Device>();
  for (const { device, mtu } of Object.values(config?.interfaces ?? {})) {
    if (devices.has(device)) continue;
    devices.set(device, {
      name: device, ifindex: 1000 + devices.size, mtu: mtu ?? 1500, mac: '02:00:00:00:00:01', driver: '', up: true, queues: 1, kind: '', addresses: [],
    });
  }
  return { devices: [...devices.values()] };
}

function formatAnswer(question: SimulateBody, answer: Answer): string {
  const lines: [string, string][] = [];
  const isAllowed = answer.verdict === 'allow';
  if (answer.host) lines.push(['verdict', 'to the host: addressed to the appliance itself']);
  else lines.push(['verdict', isAllowed ? 'allow' : `${answer.verdict}${answer.reason ? `: ${answer.reason} (${answer.help})` : ''}`]);
  lines.push(['rule', answer.rule ?? (isAllowed || answer.reason === 'policy-deny' || answer.reason === 'policy-reject' ? 'none: the default' : 'none')]);
  lines.push(['from', `${question.from}, zone ${answer.from.zone ?? '?'}`]);
  if (answer.to.interface) lines.push(['to', `${answer.to.interface}, zone ${answer.to.zone ?? '?'}${answer.peer !== null ? `, peer ${answer.peer}` : answer.nextHop ? `, next hop ${answer.nextHop}` : ''}`]);
  const [low, high] = answer.translated.sourcePorts;
  if (answer.natSource) lines.push(['source', `${answer.translated.source}${low === high ? `, port ${low}` : `, a port from ${low} to ${high}`} by ${answer.natSource}`]);
  if (answer.natDestination) lines.push(['destination', `${endpoint(answer.translated.destination, answer.translated.destinationPort)} by ${answer.natDestination}`]);
  return lines.map(([name, value]) => `${name.padEnd(11)} ${value}\n`).join('');
}
