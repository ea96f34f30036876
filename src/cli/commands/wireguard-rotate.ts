// `sluice wireguard rotate`: replaces a tunnel's static key and waits until that is done. Who: wireguard.ts. It may take as long as the other
// nodes take; interrupting it, or a restart of control, leaves the rotation running. Progress goes to stderr, the result to stdout.
import { setTimeout as delay } from 'node:timers/promises';
import { InvalidArgumentError, type Command } from 'commander';
import { ApiClient, ClientError } from '../../api/client.js';
import type { Operation } from '../../api/operations.js';
import type { WireguardView } from '../../control/wireguard.js';
import { durationMs, OVERLAP_MS_MAX, OVERLAP_MS_MIN } from '../../config/schema-nodes.js';
import type { Rotated } from '../../nodes/nodes.js';
import type { NodesView } from '../../nodes/view.js';
import { addCommon, clientOf, type CommonOptions } from '../options.js';
import { CliError, note, print, printJson } from '../output.js';
import { sessionHeaders } from '../ssh-session.js';

const POLL_MS = 250;

interface RotateOptions extends CommonOptions { overlap?: number; force?: boolean }

export function addRotateCommand(wireguard: Command): void {
  addCommon(wireguard.command('rotate').description('replace a tunnel\'s static key without losing a packet').argument('<INTERFACE>', 'the tunnel'))
    .option('--overlap <TIME>', 'how long a step waits for peers that do not answer, like 30s or 10m (default: nodes.rotate.overlap, else 10m)', overlap)
    .option('--force', 'also when peers that are no nodes cannot be told: they are cut off until given the new key by hand')
    .addHelpText('after', `
The next key is announced to all nodes that are peers of the tunnel, and both keys are answered to; then sessions move to the next one;
then the old one is wiped. Each step ends when all nodes have followed, or after the overlap.`)
    .action((name: string, options: RotateOptions) => rotate(name, options));
}

function overlap(text: string): number {
  const ms = durationMs(text);
  if (ms === undefined || ms < OVERLAP_MS_MIN || ms > OVERLAP_MS_MAX) throw new InvalidArgumentError('write a time like 30s or 10m, 24h at most.');
  return ms / 1000;
}

async function rotate(name: string, options: RotateOptions): Promise<void> {
  const client = clientOf(options);
  let said = '';
  const say = (text: string): void => {
    if (!options.json && text !== said) note(`${text} …`);
    said = text;
  };
  const body = { ...(options.overlap === undefined ? {} : { overlapS: options.overlap }), ...(options.force ? { force: true } : {}) };
  const before = await keyOf(client, name);
  // Answered at once: whatever happens to control afterwards, it has begun.
  const asking = new ApiClient(client.socket, { ...sessionHeaders(), prefer: 'respond-async' });
  const operation = await asking.post<Operation>(`/api/v1/wireguard/${encodeURIComponent(name)}/rotate`, body);
  const result = await follow(client, name, operation, before ?? '', say);
  if (options.json) return printJson(result);
  print(`${name} has the public key ${result.publicKey}${result.milliseconds > 0 ? ` after ${(result.milliseconds / 1000).toFixed(1)} s` : ''}; the old one is wiped.`);
  for (const peer of result.left) note(`note: ${peer} was not waited for any longer, and may be cut off until it hears of the new key`);
}

async function keyOf(client: ApiClient, name: string): Promise<string | null | undefined> {
  return (await client.get<{ interfaces: WireguardView[] }>('/api/v1/wireguard')).interfaces.find((one) => one.interface === name)?.publicKey;
}

async function follow(client: ApiClient, name: string, operation: Operation, before: string, say: (text: string) => void): Promise<Rotated> {
  for (;;) {
    let now: Operation;
    try {
      now = await client.get<Operation>(`/api/v1/operations/${operation.id}`);
    } catch (error) {
      if (!(error instanceof ClientError) || !['NOT_RUNNING', 'SLUICE_CLIENT_CONNECTION', 'SLUICE_API_NOT_FOUND'].includes(error.code)) throw error;
      return followState(client, name, before, say); // another control goes on with it
    }
    if (now.state === 'done' && now.result) return now.result as Rotated;
    if (now.state === 'done' || now.state === 'interrupted' || now.problem?.code === 'SLUICE_NODE_ENDING') return followState(client, name, before, say);
    if (now.problem) throw new ClientError(now.problem.code, now.problem.detail, now.problem);
    say(now.phase);
    await delay(POLL_MS);
  }
}

/** Without the operation, which the control that knew it took along. */
async function followState(client: ApiClient, name: string, before: string, say: (text: string) => void): Promise<Rotated> {
  say('control starts again');
  for (;;) {
    await delay(POLL_MS);
    try {
      const rotation = (await client.get<NodesView>('/api/v1/nodes')).rotations.find((one) => one.interface === name);
      const publicKey = rotation ? null : await keyOf(client, name);
      if (publicKey) {
        if (publicKey === before) throw new CliError(`control ended before the rotation of ${name} had begun`, 'run it again');
        return { interface: name, publicKey, previousPublicKey: before, milliseconds: 0, left: [] };
      }
      say(rotation?.phase ?? 'waiting for the engine');
    } catch (error) {
      if (!(error instanceof ClientError) || !['NOT_RUNNING', 'SLUICE_CLIENT_CONNECTION', 'SLUICE_ENGINE_AWAY'].includes(error.code)) throw error;
    }
  }
}
