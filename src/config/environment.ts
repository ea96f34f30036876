// What rules mean depends on objects and zones alone. As long as those stay, what was found out about a rule holds: an environment keeps
// it, so that a commit of one changed rule in 10,000 examines and compiles one rule.
//
// Called by check.ts, check-firewall.ts and compile.ts. The last KEPT_MAX environments are remembered in this module; a configuration whose objects
// are the same object (share.ts) and whose zones are the same gets it again. Only what had no fault is kept: a fault is reported anew.
// Bounds: an environment is left behind when it has interned RENEW_LISTS lists or united RENEW_ENTRIES entries: many may be in use no more.
import { Objects } from './objects.js';
import type { Config, FirewallRule } from './schema.js';
import { SnapshotPools } from './snapshot-writer.js';
import type { ShadowRule } from './shadow.js';
import type { ShadowIndex } from './shadow-index.js';
import type { Topology } from './topology.js';

const RENEW_ENTRIES = 1_000_000;
const RENEW_LISTS = 1_000_000;

export class Environment {
  readonly objects: Objects;
  /** What a rule without fault matches. */
  readonly matches = new WeakMap<FirewallRule, ShadowRule>();
  /** The last configuration's rules, when no two had one name, and what each without fault matches: most of the next one's are the same at the same place. */
  last: { rules: readonly FirewallRule[]; matches: readonly (ShadowRule | undefined)[] } | undefined;
  shadows: ShadowIndex | undefined;
  readonly pools = new SnapshotPools();

  constructor(config: Config, readonly zones: string, private readonly definitions = config.objects) {
    this.objects = new Objects(config);
  }

  /** It has grown too much to be used again, and that does not change. */
  get isWorn(): boolean { return this.objects.entries >= RENEW_ENTRIES || this.objects.lists >= RENEW_LISTS || this.pools.isStale; }

  suits(config: Config, zones: string): boolean { return this.definitions === config.objects && this.zones === zones && !this.isWorn; }
}

/** Newest first: what runs, and candidates that are looked at meanwhile. */
const KEPT_MAX = 4;
let kept: Environment[] = [];

/** One that suits, or a new one. A new one is kept once nothing was wrong in it: resolving a bad object marks it as reported. */
export function environmentOf(config: Config, topology: Topology): Environment {
  const zones = topology.zoneNames.join('\0');
  return kept.find((one) => one.suits(config, zones)) ?? new Environment(config, zones);
}

/** Of texts that nobody will commit: what was found out about a hundred thousand rules is a hundred megabytes. */
export function forgetEnvironments(): void { kept = []; }

export function keepEnvironment(environment: Environment): void {
  // What is worn is the largest: with a hundred thousand rules each of them is a hundred megabytes that the garbage collector looks through.
  if (kept[0] !== environment) kept = [environment, ...kept.filter((one) => one !== environment && !one.isWorn)].slice(0, KEPT_MAX);
}
