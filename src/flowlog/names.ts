// What ids in records mean, as JSON text ready to be written: looked up once an id and configuration, not once a record.
// Who: json.ts, match.ts, ipfix.ts through FlowLog, which takes the one of each configuration that comes into force; session-pages.ts. Bound: an entry for each
// id that records carry: the configuration's rules and interfaces, and those that were removed while their sessions lived.
import type { Names } from '../engine/records.js';
import { asciiJson, snippet, type Snippet } from './output.js';

const BLOCKS = 4096; // a power of two
const ANY_ADDRESS = new Uint8Array(16);

/** What every record of a rule's sessions between two interfaces has in common, as text. */
interface Block { rule: number; natSource: number; natDestination: number; from: number; to: number; text: Snippet }

export class NameTexts {
  private readonly rules = new Map<number, Snippet>();
  private readonly natRules = new Map<number, Snippet>();
  private readonly interfaces = new Map<number, Snippet>();
  private readonly interfaceZones = new Map<number, Snippet>();

  private readonly tunnels = new Map<number, boolean>();
  private readonly peers = new Map<string | null, Snippet>();
  private readonly blocks: (Block | undefined)[] = [];

  constructor(readonly names: Names) {}

  /** `,"rule":…,"natSource":…,"natDestination":…,"from":{…},"to":{…}`: looked up as one. */
  flowBlock(rule: number, natSource: number, natDestination: number, from: number, to: number): Snippet {
    const slot = (rule ^ Math.imul(natSource, 3) ^ Math.imul(natDestination, 5) ^ Math.imul(from, 7) ^ Math.imul(to, 11)) & (BLOCKS - 1);
    const known = this.blocks[slot];
    if (known?.rule === rule && known.natSource === natSource && known.natDestination === natDestination && known.from === from && known.to === to) return known.text;
    const text = snippet(`,"rule":${latin(this.rule(rule))},"natSource":${latin(this.natRule(natSource))},"natDestination":${latin(this.natRule(natDestination))}`
      + `,"from":{"interface":${latin(this.interface(from))},"zone":${latin(this.zoneOfInterface(from))}},"to":{"interface":${latin(this.interface(to))},"zone":${latin(this.zoneOfInterface(to))}}`);
    this.blocks[slot] = { rule, natSource, natDestination, from, to, text };
    return text;
  }

  get hasTunnels(): boolean { return this.names.peerOf !== undefined; }
  isTunnel(id: number): boolean {
    if (!this.hasTunnels) return false;
    let known = this.tunnels.get(id);
    if (known === undefined) this.tunnels.set(id, known = this.names.peerOf!(id, ANY_ADDRESS) !== undefined);
    return known;
  }
  peer(id: number, address: Uint8Array): Snippet {
    const name = this.names.peerOf!(id, address) ?? null;
    let text = this.peers.get(name);
    if (text === undefined) this.peers.set(name, text = textOf(name));
    return text;
  }
  rule(id: number): Snippet { return this.rules.get(id) ?? keep(this.rules, id, this.names.rule(id)); }
  natRule(id: number): Snippet { return this.natRules.get(id) ?? keep(this.natRules, id, this.names.natRule(id)); }
  interface(id: number): Snippet { return this.interfaces.get(id) ?? keep(this.interfaces, id, this.names.interfaceById(id)); }
  zoneOfInterface(id: number): Snippet { return this.interfaceZones.get(id) ?? keep(this.interfaceZones, id, this.names.zoneOfInterface(id)); }
}

const made = new WeakMap<Names, NameTexts>();

/** The one of these names. */
export function nameTextsOf(names: Names): NameTexts {
  let texts = made.get(names);
  if (texts === undefined) made.set(names, texts = new NameTexts(names));
  return texts;
}

const latin = ({ bytes }: Snippet): string => Buffer.from(bytes).toString('latin1');
const textOf = (name: string | null): Snippet => snippet(asciiJson(name));

function keep(map: Map<number, Snippet>, id: number, name: string | null): Snippet {
  const text = textOf(name);
  map.set(id, text);
  return text;
}
