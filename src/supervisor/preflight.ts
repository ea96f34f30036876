// What `sluice up` and a reload examine before they touch anything: configuration, machine, obstacles, build. Who: src/supervisor/up.ts,
// and `sluice check` for the configuration's part.
import { existsSync } from 'node:fs';
import { checkFile, checkText } from '../config/check.js';
import { engineOptions } from '../config/defaults.js';
import type { Facts } from '../config/facts.js';
import { formatProblem, type Problem } from '../config/problem.js';
import type { Config } from '../config/schema.js';
import { listenPort } from '../config/wireguard.js';
import { addonPath, bpfObjectPath } from '../engine/binding.js';
import { findObstacles } from '../engine/conflicts.js';
import { readFacts, type HostFacts } from '../engine/facts.js';
import { packageRoot } from './run-directory.js';

export interface Preflight { config?: Config; facts?: HostFacts; problems: Problem[]; refusals: string[] }

/** `isOwn`: does this netdev carry our program already? `text`: what to check, when it is not the file's content. */
export async function preflight(file: string, isOwn: (device: string) => boolean, text?: string): Promise<Preflight> {
  const refusals: string[] = [];
  if (process.getuid?.() !== 0) {
    return { problems: [], refusals: ['sluice up needs root: it attaches XDP programs and sets addresses\n    run it as root'] };
  }
  for (const part of [addonPath(), bpfObjectPath()]) {
    if (!existsSync(part)) refusals.push(`${part} is not built\n    run \`npm run setup\` in ${packageRoot()}`);
  }
  const facts = await readFacts();
  const { problems, config } = text === undefined ? checkFile(file, facts) : checkText(text, file, facts);
  if (!config) return { problems, facts, refusals };
  const devices = [...new Set(Object.values(config.interfaces ?? {}).map((one) => one.device))];
  if (devices.length === 0) refusals.push(`${file} names no interface\n    add at least one under interfaces:`);
  for (const { message, remedy } of findObstacles(facts, devices, isOwn)) refusals.push(`${message}\n    ${remedy}`);
  return { config, facts, problems, refusals };
}

export const isRefused = ({ config, refusals }: Preflight): boolean => config === undefined || refusals.length > 0;

export function describePreflight({ problems, refusals }: Preflight): string {
  return [...problems.map(formatProblem), ...refusals.map((text) => `error: ${text}`)].map((line) => `${line}\n`).join('');
}

/** One line an interface, one for the rules. */
export function describeConfig(config: Config, facts: Facts): string[] {
  const interfaces = Object.entries(config.interfaces ?? {});
  const width = (texts: string[]): number => Math.max(0, ...texts.map((text) => text.length));
  const nameWidth = Math.max(9, width(interfaces.map(([name]) => name)));
  const deviceOf = (one: (typeof interfaces)[number][1]): string => (one.vlan === undefined ? one.device : `${one.device} VLAN ${one.vlan}`);
  const deviceWidth = width(interfaces.map(([, one]) => deviceOf(one)));
  const zoneWidth = width(interfaces.map(([, one]) => one.zone));
  const lines = interfaces.map(([name, one]) => {
    const own = facts.devices.find((device) => device.name === one.device)?.addresses.map((entry) => `${entry.address}/${entry.prefixLength}`) ?? [];
    const addresses = one.addresses === undefined ? own : [one.addresses].flat();
    return `  ${name.padEnd(nameWidth)}  ${deviceOf(one).padEnd(deviceWidth)}  zone ${one.zone.padEnd(zoneWidth)}  ${addresses.join(', ')}`;
  });
  for (const [name, one] of Object.entries(config.wireguard ?? {})) {
    lines.push(`  ${name.padEnd(nameWidth)}  ${`WireGuard, UDP ${listenPort(one)}`.padEnd(deviceWidth)}  zone ${one.zone.padEnd(zoneWidth)}  ${[one.addresses ?? []].flat().join(', ')}`);
  }
  const nat = (config.nat?.source?.length ?? 0) + (config.nat?.destination?.length ?? 0) + (config.nat?.static?.length ?? 0);
  const { workers } = engineOptions(config);
  lines.push(`  ${'rules'.padEnd(nameWidth)}  ${config.firewall?.rules?.length ?? 0} firewall, ${nat} NAT; default ${config.firewall?.default ?? 'deny'}; workers ${workers}`);
  return lines;
}
