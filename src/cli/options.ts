// Options that several commands share, and the parsers of their values. Who: src/cli/commands/. A parser that throws
// InvalidArgumentError makes the command line end with wrong usage.
import { InvalidArgumentError, Option, type Command } from 'commander';
import { ApiClient, type Query } from '../api/client.js';
import { chosenDirectory, runDirectory } from '../supervisor/run-directory.js';
import { sessionHeaders } from './ssh-session.js';

export interface CommonOptions { dir?: string; json?: boolean }
export interface FilterOptions {
  protocol?: string; port?: number; source?: string; destination?: string; rule?: string; from?: string; to?: string;
}

export const directoryOf = (options: CommonOptions): string => chosenDirectory(options.dir);
/** Asks the appliance that --dir names. */
export const clientOf = (options: CommonOptions): ApiClient => new ApiClient(runDirectory(directoryOf(options)).apiSocket, sessionHeaders());

export function addCommon(command: Command): Command {
  return command
    .option('--dir <DIR>', 'run directory of the appliance (default: $SLUICE_DIR, else /run/sluice)')
    .option('--json', 'print JSON');
}

export function addFilters(command: Command): Command {
  return command
    .option('--protocol <NAME>', 'tcp, udp, icmp, icmpv6 or a number')
    .option('--port <N>', 'source or destination port', wholeNumber(0, 65535))
    .option('--source <PREFIX>', 'source address or prefix, original or translated')
    .option('--destination <PREFIX>', 'destination address or prefix, original or translated')
    .option('--rule <NAME>', 'firewall or NAT rule')
    .option('--from <NAME>', 'ingress interface or zone')
    .option('--to <NAME>', 'egress interface or zone');
}

export function filterQuery({ protocol, port, source, destination, rule, from, to }: FilterOptions): Query {
  return { protocol, port, source, destination, rule, from, to };
}

export function wholeNumber(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum || value > maximum) throw new InvalidArgumentError(`write a whole number from ${minimum} to ${maximum}.`);
    return value;
  };
}

export function seconds(text: string): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value > 86_400) throw new InvalidArgumentError('write seconds, from 0 to 86400.');
  return value;
}

export function secondsBetween(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+(\.\d+)?$/.test(text) || value < minimum || value > maximum) throw new InvalidArgumentError(`write seconds, from ${minimum} to ${maximum}.`);
    return value;
  };
}

export const choiceOption = (flags: string, description: string, choices: readonly string[]): Option => new Option(flags, description).choices(choices);
