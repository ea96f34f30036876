// Problems of a configuration: their codes, their form, and the helpers that word them.
//
// Everything in src/config reports through this file; the CLI and the API print what formatProblem gives. Bound:
// PROBLEMS_MAX problems are kept, further ones are counted, so that a broken file cannot fill a terminal or memory.
import { printable } from '../lib/text.js';

export const PROBLEM_CODES = {
  SLUICE_CONFIG_UNREADABLE: 'the file cannot be read',
  SLUICE_CONFIG_TOO_LARGE: 'the file is over a size, depth or count limit',
  SLUICE_CONFIG_SYNTAX: 'the file is not YAML',
  SLUICE_CONFIG_DUPLICATE_KEY: 'a key stands twice in one mapping',
  SLUICE_CONFIG_UNKNOWN_KEY: 'a key that the configuration does not have',
  SLUICE_CONFIG_SECRET: 'a secret, which never stands in a configuration',
  SLUICE_CONFIG_MISSING_KEY: 'a key that must be there',
  SLUICE_CONFIG_VALUE: 'a value of the wrong type or outside its range',
  SLUICE_CONFIG_TOO_MANY_PROBLEMS: 'further problems were left out',
  SLUICE_SECTION_INERT: 'a section that has no effect in this version',
  SLUICE_FQDN_UNSUPPORTED: 'fqdn: objects cannot be enforced in this version',
  SLUICE_L7_UNSUPPORTED: 'l7: rules cannot be enforced in this version',
  SLUICE_INTERFACE_DUPLICATE: 'two interfaces take the same frames',
  SLUICE_INTERFACE_DEVICE: 'the device is missing or unfit',
  SLUICE_INTERFACE_ADDRESS: 'an interface address that cannot be used',
  SLUICE_INTERFACE_OVERLAP: 'two interfaces have overlapping subnets',
  SLUICE_INTERFACE_MTU: 'an MTU that cannot be carried',
  SLUICE_ZONE_UNKNOWN: 'a zone that no interface has',
  SLUICE_ZONES_TOO_MANY: 'more zones than fit',
  SLUICE_OBJECT_UNKNOWN: 'a name that no object has',
  SLUICE_OBJECT_NAME: 'an object name that means something else already',
  SLUICE_OBJECT_CYCLE: 'objects that contain themselves',
  SLUICE_OBJECT_TOO_LARGE: 'an object that expands past its bound',
  SLUICE_ADDRESS: 'not an address, prefix or range',
  SLUICE_ADDRESS_FAMILY: 'IPv4 and IPv6 mixed where one family is needed',
  SLUICE_ADDRESS_RESERVED: 'an address that the platform keeps for itself',
  SLUICE_SERVICE: 'not a service',
  SLUICE_NEGATION_UNSUPPORTED: 'negation is not supported',
  SLUICE_ROUTE: 'a route that cannot work',
  SLUICE_ROUTE_DUPLICATE: 'two routes to the same prefix',
  SLUICE_ROUTE_UNENCRYPTED: 'a route that wants encryption and leads past it',
  SLUICE_ROUTE_NEXT_HOP: 'a next hop that no connected subnet holds',
  SLUICE_NAME_DUPLICATE: 'two rules, peers or interfaces with one name',
  SLUICE_RULE_SHADOWED: 'a rule that can never match',
  SLUICE_RULE_SHADOW_CAPPED: 'the search for covered rules was cut short',
  SLUICE_RULES_SLOW: 'lists that the engine can only search one rule after another',
  SLUICE_NAT_TRANSLATE: 'a translation that cannot work',
  SLUICE_NAT_POOL: 'a pool that cannot be used',
  SLUICE_NAT_POOL_UNREACHABLE: 'a pool whose answers would never come back',
  SLUICE_NAT_PORTS: 'ports that cannot be translated so',
  SLUICE_NAT_CONFLICT: 'two translations claim one address',
  SLUICE_NAT_SLOTS: 'more addresses shared between NAT and the host than fit',
  SLUICE_LOCAL_ADDRESSES: 'more addresses of the appliance than fit',
  SLUICE_WIREGUARD_KEY: 'a key or key file that cannot be used',
  SLUICE_WIREGUARD_PORT: 'a UDP port that somebody else has',
  SLUICE_WIREGUARD_ALLOWED_IPS: 'allowed IPs that contradict each other, or the routes',
  SLUICE_WIREGUARD_ENDPOINT: 'an endpoint that cannot be reached',
  SLUICE_TIMER_BELOW_RFC: 'a timer below what an RFC requires',
  SLUICE_ENGINE_RESTART: 'the engine is started again',
  SLUICE_OBSERVABILITY: 'a log or a metric\'s filter that cannot work',
  SLUICE_NODE_PEER: 'a node that cannot be exchanged with',
  SLUICE_NODE_UNKNOWN: 'a name that no node or tunnel has',
  SLUICE_NODE_LISTEN: 'an address that nodes cannot be listened to on',
  SLUICE_NODE_ROTATION: 'a rotation of keys that cannot work',
  SLUICE_API_LISTEN: 'an address that the API cannot listen on',
  SLUICE_API_NAME: 'a name that no certificate can hold',
  SLUICE_API_ROLE: 'a role that nobody can have',
  SLUICE_API_LIMITS: 'limits of the API that contradict each other',
  SLUICE_BGP_ASN_RESERVED: 'an AS number that Azure reserves',
} as const;
export type ProblemCode = keyof typeof PROBLEM_CODES;

export type Severity = 'error' | 'warning';
export type Path = readonly (string | number)[];
/** Does a problem stand at a mapping's key (unknown key) or at its value? */
export type At = 'key' | 'value';
export interface Position { line: number; column: number }

export interface Problem {
  severity: Severity;
  code: ProblemCode;
  file: string;
  line: number;
  column: number;
  /** Like firewall.rules[3].source[0]; empty: the file as a whole. */
  path: string;
  message: string;
  remedy: string;
}

/** Thrown by parsers of single values; whoever knows the place turns it into a Problem. */
export class ConfigError extends Error {
  constructor(readonly code: ProblemCode, message: string, readonly remedy: string,
    /** True when the same cause was reported at its own place already. */
    readonly reported = false) { super(message); }
}

export const PROBLEMS_MAX = 1000;
const START: Position = { line: 1, column: 1 };

/**
 * Collects problems and gives each its place. `locate` is absent when a configuration did not come from a file. Without `locatesWarnings` what is
 * no error stands at the start: to find a place costs as much as reading the whole text.
 */
export class Problems {
  readonly list: Problem[] = [];
  #leftOut = 0;
  #errors = 0;

  constructor(readonly file: string, private readonly locate: (path: Path, at: At) => Position = () => START, private readonly locatesWarnings = true) {}

  get errors(): number { return this.#errors; }

  add(severity: Severity, code: ProblemCode, path: Path, message: string, remedy: string, at: At = 'value'): void {
    if (severity === 'error') this.#errors++;
    if (this.list.length >= PROBLEMS_MAX) { this.#leftOut++; return; }
    this.list.push({ severity, code, file: this.file, ...(severity === 'error' || this.locatesWarnings ? this.locate(path, at) : START), path: formatPath(path), message, remedy });
  }

  error(code: ProblemCode, path: Path, message: string, remedy: string, at: At = 'value'): void {
    this.add('error', code, path, message, remedy, at);
  }

  warn(code: ProblemCode, path: Path, message: string, remedy: string, at: At = 'value'): void {
    this.add('warning', code, path, message, remedy, at);
  }

  /** Runs `parse`; a ConfigError becomes a problem at `path`, and the result undefined. */
  attempt<T>(path: Path, parse: () => T): T | undefined {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      if (!error.reported) this.error(error.code, path, error.message, error.remedy);
      return undefined;
    }
  }

  /** All problems, by place in the file. */
  sorted(): Problem[] {
    const sorted = this.list.slice().sort((a, b) => a.line - b.line || a.column - b.column);
    if (this.#leftOut > 0) {
      sorted.push({
        severity: this.#errors > 0 ? 'error' : 'warning', code: 'SLUICE_CONFIG_TOO_MANY_PROBLEMS', file: this.file, line: 1, column: 1, path: '',
        message: `${this.#leftOut} further problems were left out`, remedy: 'repair these first, then check again',
      });
    }
    return sorted;
  }
}

export function formatPath(path: Path): string {
  let text = '';
  for (const segment of path) {
    if (typeof segment === 'number') text += `[${segment}]`;
    else if (/^[A-Za-z_][A-Za-z0-9_-]*$/.test(segment)) text += text === '' ? segment : `.${segment}`;
    else text += `[${JSON.stringify(segment.length > 80 ? `${segment.slice(0, 77)}...` : segment)}]`;
  }
  return text;
}

/** `file:line:col: error: path: message`, and the remedy on a line of its own. */
export function formatProblem(problem: Problem): string {
  const place = problem.path === '' ? '' : `${problem.path}: `;
  const remedy = problem.remedy === '' ? '' : `\n    ${problem.remedy}`;
  return `${problem.file}:${problem.line}:${problem.column}: ${problem.severity}: ${place}${problem.message}${remedy}`;
}

/** Text of a file in a message: short, and without what would play with a terminal. */
export function quote(text: string): string {
  const short = text.length > 60 ? `${text.slice(0, 57)}...` : text;
  return `'${printable(short)}'`;
}

const CANDIDATES_MAX = 2000;

/** The candidate that a person most likely meant, or undefined. */
export function closest(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(name.length / 3)) + 1;
  let seen = 0;
  for (const candidate of candidates) {
    if (++seen > CANDIDATES_MAX) break;
    if (Math.abs(candidate.length - name.length) >= bestDistance || name.length > 64) continue;
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) { best = candidate; bestDistance = distance; }
  }
  return best;
}

/** "did you mean 'untrust'?", or what there is to choose from. */
export function suggest(name: string, candidates: Iterable<string>, kind: string): string {
  const all = [...candidates];
  const near = closest(name, all);
  if (near !== undefined) return `did you mean '${near}'?`;
  if (all.length === 0) return `there is no ${kind} yet`;
  const shown = all.slice(0, 12).map((one) => quote(one).slice(1, -1)).join(', ');
  return `${kind}s are: ${shown}${all.length > 12 ? ', ...' : ''}`;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitution, previous[j]! + 1, current[j - 1]! + 1));
    }
    previous = current;
  }
  return previous[b.length]!;
}
