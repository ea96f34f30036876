// What ids in records mean, as JSON text ready to be written: looked up once an id and configuration, not once a record.
// Who: json.ts, match.ts, ipfix.ts through FlowLog, which makes one when a configuration comes into force. Bound: an entry for each
// id that records carry: the configuration's rules and interfaces, and those that were removed while their sessions lived.
import type { Names } from '../engine/records.js';
import { asciiJson, snippet } from './output.js';

export class NameTexts {
  private readonly rules = new Map<number, Uint8Array>();
  private readonly natRules = new Map<number, Uint8Array>();
  private readonly interfaces = new Map<number, Uint8Array>();
  private readonly zones: Uint8Array[] = [];
  private readonly interfaceZones = new Map<number, Uint8Array>();

  constructor(readonly names: Names) {}

  rule(id: number): Uint8Array { return this.rules.get(id) ?? keep(this.rules, id, this.names.rule(id)); }
  natRule(id: number): Uint8Array { return this.natRules.get(id) ?? keep(this.natRules, id, this.names.natRule(id)); }
  interface(id: number): Uint8Array { return this.interfaces.get(id) ?? keep(this.interfaces, id, this.names.interfaceById(id)); }
  zone(index: number): Uint8Array { return this.zones[index] ??= textOf(this.names.zone(index)); }
  zoneOfInterface(id: number): Uint8Array { return this.interfaceZones.get(id) ?? keep(this.interfaceZones, id, this.names.zoneOfInterface?.(id) ?? null); }
}

const textOf = (name: string | null): Uint8Array => snippet(asciiJson(name));

function keep(map: Map<number, Uint8Array>, id: number, name: string | null): Uint8Array {
  const text = textOf(name);
  map.set(id, text);
  return text;
}
