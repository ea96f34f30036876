// Records and entries as lines of JSON, written straight from the structs' bytes. The form is docs/operations/logs.md's; redacted members
// are null, dropped ones are not there: neither leaves a trace of the value. Who: streams (file, stdout, syslog), live observers, and the
// API's pages of sessions.
import { asciiJson, Output, readCount, readMilliseconds, snippet, type Snippet } from './output.js';
import { Drop, DROP_REASON_TEXTS, dropEvent, END_REASON_TEXTS, EVENT_TEXTS, Flow, PROTOCOL_TEXTS, STATE_TEXTS, TCP, TCP_FLAG_TEXTS } from './layout.js';
import type { NameTexts } from './names.js';
import { fieldName, planFields, Treatment, type FieldPlan, type Place } from './fields.js';

const NULL = snippet('null');
const FLOW_OPEN = snippet('{"kind":"flow"');
const DROP_OPEN = snippet('{"kind":"drop"');
const ALLOWED = snippet('"allowed"');
const DROPPED = snippet('"dropped"');
const NO_TRANSLATION = snippet(',"translated":null');
const TRANSLATED_OPEN = snippet(',"translated":');
const FROM_OPEN = snippet(',"from":');
const TO_OPEN = snippet(',"to":');
const NO_TO = snippet(',"to":null');
const COMMA = 44;
const QUOTE = 34;
const OPEN = 123;
const CLOSE = 125;
const OPEN_LIST = 91;
const CLOSE_LIST = 93;
const SESSION_LAST = snippet(',"last":"');
const SESSION_EXPIRES = snippet('","expiresSeconds":');

/** The constant pieces of a whole record, joined with what small enums put between them. */
const text = ({ bytes }: Snippet): string => Buffer.from(bytes).toString('latin1');
const WHOLE = {
  open: snippet('{"kind":"flow","time":"'),
  afterTime: EVENT_TEXTS.map((event) => snippet(`","event":${text(event)},"verdict":"allowed","sessionId":"`)),
  afterSessionId: PROTOCOL_TEXTS.map((protocol) => snippet(`","protocol":${text(protocol)},"source":"`)),
  sourcePort: snippet('","sourcePort":'), destination: snippet(',"destination":"'), destinationPort: snippet('","destinationPort":'),
  translated: snippet(',"translated":{"source":"'),
  state: STATE_TEXTS.map((state) => snippet(`,"state":${text(state)}`)),
  endReason: END_REASON_TEXTS.map((reason, value) => snippet(`,"endReason":${value === 0 ? 'null' : text(reason)},"packets":[`)),
  bytes: snippet('],"bytes":['), start: snippet('],"start":"'), duration: snippet('","durationMs":'),
  flags: TCP_FLAG_TEXTS.map((flags) => snippet(`,"tcpFlags":[${text(flags)}`)), flagsBack: TCP_FLAG_TEXTS.map((flags) => snippet(`,${text(flags)}]}`)),
  noFlags: snippet(',"tcpFlags":null}'),
};

type Keys = Record<Place, Snippet>;

const MEMBER_OF_OBJECT: Partial<Record<Place, string>> = {
  translatedSource: 'source', translatedSourcePort: 'sourcePort', translatedDestination: 'destination', translatedDestinationPort: 'destinationPort',
  fromInterface: 'interface', fromZone: 'zone', fromPeer: 'peer', toInterface: 'interface', toZone: 'zone', toPeer: 'peer',
};

const TRANSLATED_PLACES: readonly Place[] = ['translatedSource', 'translatedSourcePort', 'translatedDestination', 'translatedDestinationPort'];

export class JsonFormat {
  private readonly treat: Record<Place, Treatment>;
  private readonly treatDrop: Record<Place, Treatment>;
  private readonly keys: Keys;
  private readonly hasTranslated: boolean;
  private readonly dropHasTranslated: boolean;
  private readonly hasFrom: boolean;
  private readonly hasTo: boolean;
  private readonly isWhole: boolean;

  constructor(readonly out: Output, private readonly plan: FieldPlan = planFields()) {
    this.treat = plan.places;
    this.treatDrop = plan.ofDrops;
    this.keys = Object.fromEntries(Object.keys(plan.places).map((place) => [place, snippet(`,"${MEMBER_OF_OBJECT[place as Place] ?? place}":`)])) as Keys;
    const { places } = plan;
    this.isWhole = Object.values(places).every((treatment) => treatment === Treatment.KEEP);
    const anyOf = (...list: Place[]): boolean => list.some((place) => places[place] !== Treatment.DROP);
    this.hasTranslated = TRANSLATED_PLACES.some((place) => places[place] !== Treatment.DROP);
    this.dropHasTranslated = TRANSLATED_PLACES.some((place) => plan.ofDrops[place] !== Treatment.DROP);
    // A peer alone makes no object: most records have none.
    this.hasFrom = anyOf('fromInterface', 'fromZone');
    this.hasTo = anyOf('toInterface', 'toZone');
  }

  flow(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const { out, treat } = this;
    out.reserve();
    if (this.isWhole && !isTunnelled(view, offset, names)) {
      this.wholeFlow(view, bytes, offset, names);
      return;
    }
    const protocol = bytes[offset + Flow.PROTOCOL]!;
    const startMs = readMilliseconds(view, offset + Flow.START);
    const lastMs = readMilliseconds(view, offset + Flow.LAST);
    out.text(FLOW_OPEN);
    if (this.open('time', treat.time)) this.time(lastMs > startMs ? lastMs : startMs);
    if (this.open('event', treat.event)) out.text(EVENT_TEXTS[bytes[offset + Flow.EVENT]!]!);
    if (this.open('verdict', treat.verdict)) out.text(ALLOWED);
    if (this.open('sessionId', treat.sessionId)) this.sessionId(view, offset + Flow.SESSION_ID);
    if (this.open('protocol', treat.protocol)) out.text(PROTOCOL_TEXTS[protocol]!);
    if (this.open('source', treat.source)) this.address(view, bytes, offset + Flow.SOURCE);
    if (this.open('sourcePort', treat.sourcePort)) out.decimal(view.getUint16(offset + Flow.SOURCE_PORT, true));
    if (this.open('destination', treat.destination)) this.address(view, bytes, offset + Flow.DESTINATION);
    if (this.open('destinationPort', treat.destinationPort)) out.decimal(view.getUint16(offset + Flow.DESTINATION_PORT, true));
    if (this.hasTranslated) this.translated(Flow, treat, view, bytes, offset);
    if (this.open('rule', treat.rule)) out.text(names.rule(view.getUint32(offset + Flow.RULE, true)));
    if (this.open('natSource', treat.natSource)) out.text(names.natRule(view.getUint32(offset + Flow.NAT_SOURCE_RULE, true)));
    if (this.open('natDestination', treat.natDestination)) out.text(names.natRule(view.getUint32(offset + Flow.NAT_DESTINATION_RULE, true)));
    if (this.hasFrom) {
      out.text(FROM_OPEN);
      const at = out.at;
      if (this.open('fromInterface', treat.fromInterface)) out.text(names.interface(view.getUint32(offset + Flow.FROM_INTERFACE, true)));
      if (this.open('fromZone', treat.fromZone)) out.text(names.zoneOfInterface(view.getUint32(offset + Flow.FROM_INTERFACE, true)));
      this.peer('fromPeer', view.getUint32(offset + Flow.FROM_INTERFACE, true), bytes, offset + Flow.SOURCE, names);
      this.closeObject(at);
    }
    if (this.hasTo) {
      out.text(TO_OPEN);
      const at = out.at;
      if (this.open('toInterface', treat.toInterface)) out.text(names.interface(view.getUint32(offset + Flow.TO_INTERFACE, true)));
      if (this.open('toZone', treat.toZone)) out.text(names.zoneOfInterface(view.getUint32(offset + Flow.TO_INTERFACE, true)));
      this.peer('toPeer', view.getUint32(offset + Flow.TO_INTERFACE, true), bytes, offset + Flow.NAT_DESTINATION, names);
      this.closeObject(at);
    }
    if (this.open('state', treat.state)) out.text(STATE_TEXTS[bytes[offset + Flow.STATE]!]!);
    const endReason = bytes[offset + Flow.END_REASON]!;
    if (this.open('endReason', treat.endReason)) out.text(endReason === 0 ? NULL : END_REASON_TEXTS[endReason]!);
    if (this.open('packets', treat.packets)) this.pair(view, offset + Flow.PACKETS);
    if (this.open('bytes', treat.bytes)) this.pair(view, offset + Flow.BYTES);
    if (this.open('start', treat.start)) this.time(startMs);
    if (this.open('durationMs', treat.durationMs)) out.decimal(lastMs > startMs ? lastMs - startMs : 0);
    if (this.open('tcpFlags', treat.tcpFlags)) {
      if (protocol === TCP) {
        out.byte(OPEN_LIST);
        out.text(TCP_FLAG_TEXTS[bytes[offset + Flow.TCP_FLAGS]!]!);
        out.byte(COMMA);
        out.text(TCP_FLAG_TEXTS[bytes[offset + Flow.TCP_FLAGS + 1]!]!);
        out.byte(CLOSE_LIST);
      } else {
        out.text(NULL);
      }
    }
    out.byte(CLOSE);
  }

  /** What flow() writes when nothing is left out: the common case, in as few pieces as there are values. */
  private wholeFlow(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const { out } = this;
    const startMs = readMilliseconds(view, offset + Flow.START);
    const lastMs = readMilliseconds(view, offset + Flow.LAST);
    const protocol = bytes[offset + Flow.PROTOCOL]!;
    out.text(WHOLE.open);
    out.time(lastMs > startMs ? lastMs : startMs);
    out.text(WHOLE.afterTime[bytes[offset + Flow.EVENT]!]!);
    this.sessionIdDigits(view, offset + Flow.SESSION_ID);
    out.text(WHOLE.afterSessionId[protocol]!);
    out.address(view, bytes, offset + Flow.SOURCE);
    out.text(WHOLE.sourcePort);
    out.decimal(view.getUint16(offset + Flow.SOURCE_PORT, true));
    out.text(WHOLE.destination);
    out.address(view, bytes, offset + Flow.DESTINATION);
    out.text(WHOLE.destinationPort);
    out.decimal(view.getUint16(offset + Flow.DESTINATION_PORT, true));
    if (isTranslated(Flow, view, offset)) {
      out.text(WHOLE.translated);
      out.address(view, bytes, offset + Flow.NAT_SOURCE);
      out.text(WHOLE.sourcePort);
      out.decimal(view.getUint16(offset + Flow.NAT_SOURCE_PORT, true));
      out.text(WHOLE.destination);
      out.address(view, bytes, offset + Flow.NAT_DESTINATION);
      out.text(WHOLE.destinationPort);
      out.decimal(view.getUint16(offset + Flow.NAT_DESTINATION_PORT, true));
      out.byte(CLOSE);
    } else {
      out.text(NO_TRANSLATION);
    }
    out.text(names.flowBlock(
      view.getUint32(offset + Flow.RULE, true), view.getUint32(offset + Flow.NAT_SOURCE_RULE, true), view.getUint32(offset + Flow.NAT_DESTINATION_RULE, true),
      view.getUint32(offset + Flow.FROM_INTERFACE, true), view.getUint32(offset + Flow.TO_INTERFACE, true),
    ));
    out.text(WHOLE.state[bytes[offset + Flow.STATE]!]!);
    out.text(WHOLE.endReason[bytes[offset + Flow.END_REASON]!]!);
    out.decimal(readCount(view, offset + Flow.PACKETS));
    out.byte(COMMA);
    out.decimal(readCount(view, offset + Flow.PACKETS + 8));
    out.text(WHOLE.bytes);
    out.decimal(readCount(view, offset + Flow.BYTES));
    out.byte(COMMA);
    out.decimal(readCount(view, offset + Flow.BYTES + 8));
    out.text(WHOLE.start);
    out.time(startMs);
    out.text(WHOLE.duration);
    out.decimal(lastMs > startMs ? lastMs - startMs : 0);
    if (protocol === TCP) {
      out.text(WHOLE.flags[bytes[offset + Flow.TCP_FLAGS]!]!);
      out.text(WHOLE.flagsBack[bytes[offset + Flow.TCP_FLAGS + 1]!]!);
    } else {
      out.text(WHOLE.noFlags);
    }
  }

  /** A session that lives: its record, with what says how long it does. */
  session(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    this.flow(view, bytes, offset, names);
    const { out } = this;
    out.at -= 1; // its brace
    out.text(SESSION_LAST);
    out.time(readMilliseconds(view, offset + Flow.LAST));
    out.text(SESSION_EXPIRES);
    out.decimal(view.getUint32(offset + Flow.EXPIRES, true));
    out.byte(CLOSE);
  }

  drop(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const { out, treatDrop: treat } = this;
    out.reserve();
    const reason = bytes[offset + Drop.REASON]!;
    out.text(DROP_OPEN);
    if (this.open('time', treat.time)) this.time(readMilliseconds(view, offset + Drop.TIME));
    if (this.open('event', treat.event)) out.text(EVENT_TEXTS[dropEvent(reason)]!);
    if (this.open('verdict', treat.verdict)) out.text(DROPPED);
    if (this.open('reason', treat.reason)) out.text(DROP_REASON_TEXTS[reason]!);
    if (this.open('protocol', treat.protocol)) out.text(PROTOCOL_TEXTS[bytes[offset + Drop.PROTOCOL]!]!);
    if (this.open('source', treat.source)) this.address(view, bytes, offset + Drop.SOURCE);
    if (this.open('sourcePort', treat.sourcePort)) out.decimal(view.getUint16(offset + Drop.SOURCE_PORT, true));
    if (this.open('destination', treat.destination)) this.address(view, bytes, offset + Drop.DESTINATION);
    if (this.open('destinationPort', treat.destinationPort)) out.decimal(view.getUint16(offset + Drop.DESTINATION_PORT, true));
    if (this.dropHasTranslated) this.translated(Drop, treat, view, bytes, offset);
    if (this.open('rule', treat.rule)) out.text(names.rule(view.getUint32(offset + Drop.RULE, true)));
    if (this.open('natSource', treat.natSource)) out.text(names.natRule(view.getUint32(offset + Drop.NAT_SOURCE_RULE, true)));
    if (this.open('natDestination', treat.natDestination)) out.text(names.natRule(view.getUint32(offset + Drop.NAT_DESTINATION_RULE, true)));
    if (this.hasFrom) {
      const id = view.getUint32(offset + Drop.INTERFACE, true);
      out.text(FROM_OPEN);
      const at = out.at;
      if (this.open('fromInterface', treat.fromInterface)) out.text(names.interface(id));
      if (this.open('fromZone', treat.fromZone)) out.text(names.zoneOfInterface(id));
      this.peer('fromPeer', id, bytes, offset + Drop.SOURCE, names);
      this.closeObject(at);
    }
    const to = view.getUint32(offset + Drop.TO_INTERFACE, true);
    if (this.hasTo && to === 0) {
      out.text(NO_TO);
    } else if (this.hasTo) {
      out.text(TO_OPEN);
      const at = out.at;
      if (this.open('toInterface', treat.toInterface)) out.text(names.interface(to));
      if (this.open('toZone', treat.toZone)) out.text(names.zoneOfInterface(to));
      this.peer('toPeer', to, bytes, offset + Drop.NAT_DESTINATION, names);
      this.closeObject(at);
    }
    if (this.open('bytes', treat.bytes)) out.decimal(view.getUint16(offset + Drop.BYTES, true));
    if (this.open('tcpFlags', treat.tcpFlags)) out.text(bytes[offset + Drop.TCP_FLAGS_KNOWN] === 0 ? NULL : TCP_FLAG_TEXTS[bytes[offset + Drop.TCP_FLAGS]!]!);
    out.byte(CLOSE);
  }

  /** An entry of the audit log or of the processes' logs. */
  entry(entry: object): void {
    const { members } = this.plan;
    this.out.ascii(asciiJson(members.size === 0 ? entry : treatMembers(entry, members)));
  }

  /** Of a tunnel, the peer behind which the address is; other interfaces have no such member. */
  private peer(place: 'fromPeer' | 'toPeer', interfaceId: number, bytes: Uint8Array, addressAt: number, names: NameTexts): void {
    if (!names.isTunnel(interfaceId)) return;
    if (this.open(place, this.treat[place])) this.out.text(names.peer(interfaceId, bytes.subarray(addressAt, addressAt + 16)));
  }

  private open(place: Place, treatment: Treatment): boolean {
    if (treatment === Treatment.DROP) return false;
    this.out.text(this.keys[place]);
    if (treatment === Treatment.KEEP) return true;
    this.out.text(NULL);
    return false;
  }

  /** Keys bring a comma; the first one of an object becomes its brace. */
  private closeObject(at: number): void {
    this.out.bytes[at] = OPEN;
    this.out.byte(CLOSE);
  }

  private translated(at: AddressLayout, treat: Record<Place, Treatment>, view: DataView, bytes: Uint8Array, offset: number): void {
    const { out } = this;
    if (!isTranslated(at, view, offset)) {
      out.text(NO_TRANSLATION);
      return;
    }
    out.text(TRANSLATED_OPEN);
    const begin = out.at;
    if (this.open('translatedSource', treat.translatedSource)) this.address(view, bytes, offset + at.NAT_SOURCE);
    if (this.open('translatedSourcePort', treat.translatedSourcePort)) out.decimal(view.getUint16(offset + at.NAT_SOURCE_PORT, true));
    if (this.open('translatedDestination', treat.translatedDestination)) this.address(view, bytes, offset + at.NAT_DESTINATION);
    if (this.open('translatedDestinationPort', treat.translatedDestinationPort)) out.decimal(view.getUint16(offset + at.NAT_DESTINATION_PORT, true));
    this.closeObject(begin);
  }

  private address(view: DataView, bytes: Uint8Array, offset: number): void {
    this.out.byte(QUOTE);
    this.out.address(view, bytes, offset);
    this.out.byte(QUOTE);
  }

  private time(milliseconds: number): void {
    this.out.byte(QUOTE);
    this.out.time(milliseconds);
    this.out.byte(QUOTE);
  }

  private pair(view: DataView, offset: number): void {
    this.out.byte(OPEN_LIST);
    this.out.decimal(readCount(view, offset));
    this.out.byte(COMMA);
    this.out.decimal(readCount(view, offset + 8));
    this.out.byte(CLOSE_LIST);
  }

  /** Text, for a number of JSON has 53 bits. */
  private sessionId(view: DataView, offset: number): void {
    this.out.byte(QUOTE);
    this.sessionIdDigits(view, offset);
    this.out.byte(QUOTE);
  }

  private sessionIdDigits(view: DataView, offset: number): void {
    if (view.getUint32(offset + 4, true) < 0x200000) this.out.decimal(readCount(view, offset));
    else this.out.ascii(view.getBigUint64(offset, true).toString());
  }
}

const isTunnelled = (view: DataView, offset: number, names: NameTexts): boolean =>
  names.hasTunnels && (names.isTunnel(view.getUint32(offset + Flow.FROM_INTERFACE, true)) || names.isTunnel(view.getUint32(offset + Flow.TO_INTERFACE, true)));

/** What flow and drop records have in common. Source and destination stand side by side, before and after translation; so do the four ports. */
export type AddressLayout = Pick<typeof Flow | typeof Drop, 'SOURCE' | 'SOURCE_PORT' | 'NAT_SOURCE' | 'NAT_SOURCE_PORT' | 'NAT_DESTINATION' | 'NAT_DESTINATION_PORT'>;

export function isTranslated(at: AddressLayout, view: DataView, offset: number): boolean {
  for (let index = 0; index < 32; index += 4) {
    if (view.getUint32(offset + at.SOURCE + index) !== view.getUint32(offset + at.NAT_SOURCE + index)) return true;
  }
  return view.getUint32(offset + at.SOURCE_PORT) !== view.getUint32(offset + at.NAT_SOURCE_PORT);
}

const DEPTH_MAX = 16;

function treatMembers(value: unknown, members: ReadonlyMap<string, Treatment>, depth = 0): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (depth === DEPTH_MAX) return null;
  if (Array.isArray(value)) return value.map((one) => treatMembers(one, members, depth + 1));
  return Object.fromEntries(Object.entries(value).flatMap(([key, inner]): [string, unknown][] => {
    const treatment = members.get(fieldName(key)) ?? Treatment.KEEP;
    if (treatment === Treatment.DROP) return [];
    return [[key, treatment === Treatment.REDACT ? null : treatMembers(inner, members, depth + 1)]];
  }));
}
