// `sluice node ...`: who this node is, and the nodes that it trusts. Who: src/cli/program.ts.
import type { Command } from 'commander';
import type { NodesView, NodeView } from '../../nodes/view.js';
import { addCommon, clientOf, type CommonOptions } from '../options.js';
import { CliError, formatDuration, formatTable, print, printJson } from '../output.js';

export function addNodeCommand(program: Command): void {
  const node = program.command('node').description('appliances that trust one another: identity, records, exchange of keys');
  addCommon(node.command('show').description('this node: its id, which others name in their configuration, and what it tells them'))
    .option('--id', 'print the id alone')
    .action((options: CommonOptions & { id?: boolean }) => show(options));
  addCommon(node.command('peers').description('the nodes of the configuration: last exchange, what of theirs is in force, problems'))
    .action((options: CommonOptions) => peers(options));
}

const read = (options: CommonOptions): Promise<NodesView> => clientOf(options).get<NodesView>('/api/v1/nodes');

async function show(options: CommonOptions & { id?: boolean }): Promise<void> {
  const { peers: _peers, ...own } = await read(options);
  if (own.id === null) throw new CliError(own.problem ?? 'this node has no identity yet', 'the log of control says more');
  if (options.id) options.json ? printJson({ id: own.id }) : print(own.id);
  else if (options.json) printJson(own);
  else print(formatNode(own));
}

export function formatNode({ name, id, listen, problem, record, strangers, rotations, lastRotations }: Omit<NodesView, 'peers'>): string {
  const lines = [
    `node: ${name}`, `  id: ${id ?? '(none)'}`, `  listens on: ${listen ?? '(nothing: it calls the others)'}`,
    ...(problem === null ? [] : [`  problem: ${problem}`]), ...(strangers === 0 ? [] : [`  sent away: ${strangers} callers that are no nodes of the configuration`]),
    ...(record === null ? ['  record: (none yet)'] : [`  record: ${record.sequence}, until ${moment(record.expiresAt)}`]),
  ];
  for (const one of record?.wireguard ?? []) {
    lines.push('', `tunnel: ${one.interface}`, `  public key: ${one.publicKey}`, ...(one.nextPublicKey === null ? [] : [`  next public key: ${one.nextPublicKey}`]),
      `  endpoint: ${one.endpoint ?? `(not announced), port ${one.port}`}`, ...(one.allowedIPs.length === 0 ? [] : [`  allowed ips: ${one.allowedIPs.join(', ')}`]));
    const rotation = rotations.find((other) => other.interface === one.interface);
    if (rotation) lines.push(`  rotation: ${rotation.phase}${rotation.waitingFor.length === 0 ? '' : `, waiting for ${rotation.waitingFor.join(', ')}`}, since ${moment(rotation.startedAt)}`);
    const last = lastRotations[one.interface];
    if (last !== undefined) lines.push(`  key in use since: ${moment(last)}, or longer`);
  }
  return lines.join('\n');
}

async function peers(options: CommonOptions): Promise<void> {
  const { peers: all } = await read(options);
  if (options.json) return printJson({ peers: all });
  if (all.length === 0) return print('No nodes are trusted. They stand under nodes.peers in the configuration.');
  print(formatPeers(all, Date.now()));
}

export function formatPeers(all: readonly NodeView[], nowMs: number): string {
  const table = formatTable<NodeView>([
    { title: 'NODE', of: ({ name }) => name }, { title: 'URL', of: ({ url }) => url ?? '(calls us)' },
    { title: 'LAST EXCHANGE', of: ({ lastExchange }) => (lastExchange === null ? 'never' : `${formatDuration(Math.max(0, (nowMs - Date.parse(lastExchange)) / 1000))} ago`) },
    { title: 'ITS RECORD', of: ({ record, inForce }) => (record === null ? 'none' : inForce ? 'in force' : 'not in force') },
    { title: 'OURS THERE', of: ({ hasOurs, have }) => (hasOurs ? 'in force' : have === null ? 'none' : 'an older one') },
    { title: 'TUNNELS', of: ({ tunnels }) => tunnels.join(', ') },
  ], all);
  const notes = all.flatMap(({ name, problem, refused, theyRefused, notes: own }) => [
    ...(problem === null ? [] : [`${name} cannot be reached: ${problem}`]), ...(refused === null ? [] : [`the record of ${name} is refused: ${refused}`]),
    ...(theyRefused === null ? [] : [`${name} refuses our record: ${theyRefused}`]), ...own.map((note) => `${name}: ${note}`),
  ]);
  return notes.length === 0 ? table : `${table}\n${notes.map((note) => `note: ${note}\n`).join('')}`;
}

const moment = (iso: string): string => `${iso.slice(0, 16).replace('T', ' ')} UTC`;
