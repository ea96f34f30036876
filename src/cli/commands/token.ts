// `sluice token ...`: makes, lists and revokes tokens of the API. Who: src/cli/program.ts. The secret of a new token is printed once, alone on
// stdout (so that it can be put where it belongs without copying from a screen); what there is to say about it goes to stderr.
import { InvalidArgumentError, type Command } from 'commander';
import type { CreatedToken } from '../../api/access-routes.js';
import type { TokenView } from '../../api/tokens.js';
import { addCommon, choiceOption, clientOf, type CommonOptions } from '../options.js';
import { CliError, formatTable, print, printJson } from '../output.js';

const TOKENS = '/api/v1/tokens';
const UNITS: Record<string, number> = { m: 60, h: 3600, d: 86_400, y: 365 * 86_400 };
const EXPIRES_DEFAULT = '90d';
const ROLE_NAMES = ['viewer', 'operator', 'administrator'];

interface CreateOptions extends CommonOptions { role: string; scope?: string[]; expires: number | null }

export function addTokenCommand(program: Command): void {
  const token = program.command('token').description('tokens with which programs and people use the API over HTTPS');
  addCommon(token.command('create').description('make a token; it is printed once, and kept nowhere').argument('<NAME>', 'for people: who or what uses it'))
    .addOption(choiceOption('--role <ROLE>', 'what it may', ROLE_NAMES).makeOptionMandatory())
    .option('--scope <RESOURCE>', 'only this resource, or RESOURCE:read; may stand several times (default: all that the role may)', (one: string, before: string[] | undefined) => [...before ?? [], one])
    .option('--expires <TIME>', 'how long it is valid, like 30m, 12h, 90d, 1y, or never', lifetime, lifetime(EXPIRES_DEFAULT))
    .action((name: string, options: CreateOptions) => create(name, options));
  addCommon(token.command('list').description('tokens, without their secrets'))
    .action((options: CommonOptions) => list(options));
  addCommon(token.command('revoke').description('end a token, at once and for good').argument('<ID>', 'its id, or its name when only one valid token has it'))
    .action((id: string, options: CommonOptions) => revoke(id, options));
}

function lifetime(text: string): number | null {
  if (text === 'never') return null;
  const [, count, unit] = /^(\d{1,6})([mhdy])$/.exec(text) ?? [];
  if (count === undefined || Number(count) === 0) throw new InvalidArgumentError('write a time like 30m, 12h, 90d, 1y, or never.');
  return Number(count) * UNITS[unit!]!;
}

async function create(name: string, options: CreateOptions): Promise<void> {
  const made = await clientOf(options).post<CreatedToken>(TOKENS, { name, role: options.role, expiresInSeconds: options.expires, ...(options.scope ? { scopes: options.scope } : {}) });
  if (options.json) return printJson(made);
  process.stderr.write(`Token ${made.id} (${made.role}${made.scopes ? `: ${made.scopes.join(', ')}` : ''}), valid ${made.expiresAt === null ? 'until it is revoked' : `until ${made.expiresAt.slice(0, 16).replace('T', ' ')} UTC`}. It is shown this once:\n`);
  print(made.secret);
}

async function list(options: CommonOptions): Promise<void> {
  const { tokens } = await clientOf(options).get<{ tokens: TokenView[] }>(TOKENS);
  if (options.json) return printJson({ tokens });
  if (tokens.length === 0) return print('No tokens. `sluice token create` makes one.');
  const day = (time: string | null): string => time?.slice(0, 16).replace('T', ' ') ?? '';
  print(formatTable([
    { title: 'ID', of: (one) => one.id }, { title: 'NAME', of: (one) => one.name }, { title: 'ROLE', of: (one) => one.role },
    { title: 'SCOPES', of: (one) => one.scopes?.join(', ') ?? 'all' }, { title: 'STATE', of: (one) => one.state },
    { title: 'EXPIRES', of: (one) => (one.expiresAt === null ? 'never' : day(one.expiresAt)) }, { title: 'LAST USED', of: (one) => (one.lastUsedAt === null ? 'never' : day(one.lastUsedAt)) },
    { title: 'MADE BY', of: (one) => one.createdBy },
  ], tokens));
}

async function revoke(which: string, options: CommonOptions): Promise<void> {
  const client = clientOf(options);
  const { tokens } = await client.get<{ tokens: TokenView[] }>(TOKENS);
  const named = tokens.filter((one) => one.name === which && one.state === 'valid');
  const found = tokens.find((one) => one.id === which) ?? (named.length === 1 ? named[0] : undefined);
  if (!found) throw new CliError(named.length > 1 ? `${named.length} valid tokens are called '${which}'` : `there is no token '${which}'`, `name one by its id: ${named.length > 1 ? named.map((one) => one.id).join(', ') : '`sluice token list` shows them'}`);
  await client.delete(`${TOKENS}/${found.id}`);
  if (options.json) printJson({ id: found.id, state: 'revoked' });
  else print(`Token ${found.id} (${found.name}) is revoked.`);
}
