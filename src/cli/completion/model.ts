// The command line as data: commands, options and what their values can be, read off the commander program, so that no list of them
// is written twice. Who: bash.ts and zsh.ts make shell scripts of it, `sluice completion --json` prints it. Pure.
import type { Argument, Command, Option } from 'commander';

/** What completes a value. `names`: asked of the running appliance (values.ts). */
export type ValueKind =
  | { kind: 'none' } | { kind: 'file' } | { kind: 'directory' }
  | { kind: 'words'; words: readonly string[] }
  | { kind: 'names'; of: NameKind };

export const NAME_KINDS = ['interfaces', 'zones', 'places', 'rules', 'revisions', 'sessions', 'tunnels', 'peers'] as const;
export type NameKind = typeof NAME_KINDS[number];

export interface OptionModel { names: string[]; help: string; value?: ValueKind; repeats: boolean }
export interface ArgumentModel { name: string; value: ValueKind; repeats: boolean }
export interface CommandModel { path: string[]; help: string; options: OptionModel[]; arguments: ArgumentModel[]; commands: CommandModel[] }

const PROTOCOLS = ['tcp', 'udp', 'icmp', 'icmpv6'];

/** By the placeholder in <> first, then by the option's own name: `<NAME>` alone says little. */
const BY_PLACEHOLDER: Record<string, ValueKind> = {
  FILE: { kind: 'file' }, DIR: { kind: 'directory' }, INTERFACE: { kind: 'names', of: 'interfaces' }, ZONE: { kind: 'names', of: 'zones' },
  RULE: { kind: 'names', of: 'rules' }, REVISION: { kind: 'names', of: 'revisions' }, A: { kind: 'names', of: 'revisions' }, B: { kind: 'names', of: 'revisions' }, SESSION: { kind: 'names', of: 'sessions' }, TUNNEL: { kind: 'names', of: 'tunnels' }, PEER: { kind: 'names', of: 'peers' },
};
const BY_OPTION: Record<string, ValueKind> = {
  '--rule': { kind: 'names', of: 'rules' }, '--interface': { kind: 'names', of: 'interfaces' }, '--zone': { kind: 'names', of: 'zones' },
  '--from': { kind: 'names', of: 'places' }, '--to': { kind: 'names', of: 'places' }, '--protocol': { kind: 'words', words: PROTOCOLS },
};

export function describeCommand(command: Command, path: string[] = []): CommandModel {
  const help = command.createHelp();
  return {
    path, help: oneLine(command.summary() || command.description()),
    options: help.visibleOptions(command).map(describeOption),
    arguments: command.registeredArguments.map(describeArgument),
    // `help` is commander's own, and its value is a command's name.
    commands: help.visibleCommands(command).map((child) => describeCommand(child, [...path, child.name()])),
  };
}

function describeOption(option: Option): OptionModel {
  const names = [option.short, option.long].filter((name): name is string => name !== undefined && name !== null);
  const placeholder = /[<[]([^\]>]+?)(?:\.\.\.)?[\]>]/.exec(option.flags)?.[1];
  const base = { names, help: oneLine(option.description), repeats: option.variadic };
  return placeholder === undefined ? base : { ...base, value: valueOf(placeholder, option.argChoices, option.long ?? undefined) };
}

function describeArgument(argument: Argument): ArgumentModel {
  return { name: argument.name(), value: valueOf(argument.name(), argument.argChoices), repeats: argument.variadic };
}

function valueOf(placeholder: string, choices?: readonly string[], option?: string): ValueKind {
  if (choices && choices.length > 0) return { kind: 'words', words: choices };
  return BY_PLACEHOLDER[placeholder.toUpperCase()] ?? BY_OPTION[option ?? ''] ?? { kind: 'none' };
}

/** Every command of the tree, parents first. */
export function flatten(command: CommandModel): CommandModel[] { return [command, ...command.commands.flatMap(flatten)]; }

function oneLine(text: string): string { return text.replace(/\s+/g, ' ').trim(); }

/** A word for a shell, whatever is in it. */
export function shellQuote(text: string): string { return `'${text.replaceAll('\'', '\'\\\'\'')}'`; }
