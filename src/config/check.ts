// check: is this configuration one that the appliance can carry out? Each problem with its place and what would be right.
//
// Called by `sluice check`, by the supervisor before it starts anything, and by `control` before a commit. Never throws on
// input. Order: shape (load.ts) → objects → interfaces → routes → tunnels → rules → NAT → settings. With facts of the machine, devices,
// MTUs and their own addresses are examined too; without, what they would tell is not guessed.
import { checkFirewall, checkObjects } from './check-firewall.js';
import { checkInterfaces, checkRoutes } from './check-interfaces.js';
import { checkNat } from './check-nat.js';
import { checkApi } from './check-api.js';
import { checkNodes } from './check-nodes.js';
import { checkObservability } from './check-observability.js';
import { checkWireguard } from './check-wireguard.js';
import { TIMERS } from './defaults.js';
import { environmentOf, keepEnvironment, type Environment } from './environment.js';
import type { Facts } from './facts.js';
import { loadFile, loadText, type Loaded } from './load.js';
import { isClaimedBy, natClaims, nextHopAddresses, type NatClaim } from './nat-claims.js';
import { Objects } from './objects.js';
import { Problems, type Problem } from './problem.js';
import { INERT_SECTIONS, type Config } from './schema.js';
import { buildTopology, type Topology } from './topology.js';

export interface CheckContext {
  config: Config;
  facts: Facts | undefined;
  objects: Objects;
  /** What was found out before, about the same rules with the same objects and zones. */
  environment: Environment;
  topology: Topology;
  claims: readonly NatClaim[];
  nextHops: readonly bigint[];
  problems: Problems;
  /** Somebody waits for a commit: leave out what only warns and takes long. */
  isHurried: boolean;
}

export interface Checked {
  /** By place in the file. */
  problems: Problem[];
  /** Present when there is no error: what compile.ts may be given. */
  config?: Config;
}

export function checkFile(file: string, facts?: Facts): Checked {
  return checkLoaded(loadFile(file), file, facts);
}

export function checkText(text: string, file: string, facts?: Facts): Checked {
  return checkLoaded(loadText(text, file), file, facts);
}

function checkLoaded(loaded: Loaded, file: string, facts: Facts | undefined): Checked {
  if (loaded.config === undefined) return { problems: loaded.problems };
  const problems = new Problems(file, loaded.locate);
  checkConfig(loaded.config, problems, facts);
  const all = [...loaded.problems, ...problems.sorted()];
  return problems.errors > 0 || loaded.problems.some(({ severity }) => severity === 'error') ? { problems: all } : { problems: all, config: loaded.config };
}

/** Examines a configuration of the schema's shape. */
export function checkConfig(config: Config, problems: Problems, facts?: Facts, isHurried = false): void {
  // A set of objects of its own: resolving marks faults as reported, and here nobody reports yet.
  const claims = natClaims(config, new Objects(config));
  const topology = buildTopology(config, facts, isClaimedBy(claims));
  const environment = environmentOf(config, topology);
  const context: CheckContext = { config, facts, objects: environment.objects, environment, topology, claims, nextHops: nextHopAddresses(config), problems, isHurried };
  checkObjects(context);
  checkInterfaces(context);
  checkRoutes(context);
  checkWireguard(context);
  checkNodes(context);
  checkFirewall(context);
  checkNat(context);
  checkSettings(context);
  checkObservability(context);
  checkApi(context);
  if (problems.errors === 0) keepEnvironment(environment);
}

function checkSettings({ config, problems }: CheckContext): void {
  for (const [name, { requiredSeconds, requirement }] of Object.entries(TIMERS)) {
    const seconds = config.timers?.[name as keyof typeof TIMERS];
    if (seconds === undefined || requiredSeconds === undefined || seconds >= requiredSeconds) continue;
    problems.warn('SLUICE_TIMER_BELOW_RFC', ['timers', name], `${seconds} s is less than the ${requiredSeconds} s that ${requirement} requires`, `write ${requiredSeconds} or more, unless you know the peers`);
  }
  for (const section of INERT_SECTIONS) {
    if (config[section] !== undefined) {
      problems.warn('SLUICE_SECTION_INERT', [section], `section ${section} is accepted but has no effect in this version`, 'do not rely on it', 'key');
    }
  }
  const asn = config.bgp?.asn;
  if (asn !== undefined && isReservedAsn(asn)) {
    problems.error('SLUICE_BGP_ASN_RESERVED', ['bgp', 'asn'], `AS ${asn} is reserved: Azure Route Server does not peer with it`, 'choose a private one, like 64512 to 65514');
  }
}

const ASNS_RESERVED: readonly (readonly [number, number])[] = [
  [8074, 8075], [12076, 12076], [23456, 23456], [64496, 64511], [65515, 65515], [65517, 65520], [65535, 65551],
];

function isReservedAsn(asn: number): boolean {
  return ASNS_RESERVED.some(([lo, hi]) => asn >= lo && asn <= hi);
}
