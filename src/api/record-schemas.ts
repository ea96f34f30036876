// Schemas of sessions, of flow and drop records, and of the filters that go over them. Who: src/api/routes/sessions.ts, records.ts, capture.ts.
import { Type } from '@sinclair/typebox';
import { DROP_REASONS, END_REASONS, FLOW_EVENTS, SESSION_STATES, type ListEntry } from '../engine/abi.generated.js';
import { answer, count, nullable, oneOf, time } from './schemas.js';

const namesOf = (list: readonly ListEntry[]): string[] => list.map(({ name }) => name);
/** Of a list that grows: an engine of another version may know more. */
const listed = (list: readonly ListEntry[]) => Type.String({ examples: namesOf(list) });
const text = Type.String();
const maybeText = nullable(text);
const port = Type.Integer({ minimum: 0, maximum: 65535 });
const oneWay = Type.Array(count(), { minItems: 2, maxItems: 2, description: 'from the originator, and back' });

const place = Type.Object({ interface: maybeText, zone: maybeText, peer: Type.Optional(nullable(Type.String({ description: 'of a tunnel: the peer behind which the address is' }))) });

/** As members of a query or of a body. */
export const filterMembers = {
  protocol: Type.Optional(Type.String({ maxLength: 20, description: 'tcp, udp, icmp, icmpv6 or a number' })),
  port: Type.Optional(Type.Integer({ minimum: 0, maximum: 65535, description: 'of either side, before or after translation' })),
  source: Type.Optional(Type.String({ maxLength: 64, description: 'an address or a prefix, before or after translation' })),
  destination: Type.Optional(Type.String({ maxLength: 64, description: 'an address or a prefix, before or after translation' })),
  rule: Type.Optional(Type.String({ maxLength: 128, description: 'the name of a firewall or NAT rule' })),
  from: Type.Optional(Type.String({ maxLength: 64, description: 'a zone or an interface' })),
  to: Type.Optional(Type.String({ maxLength: 64, description: 'a zone or an interface' })),
  verdict: Type.Optional(oneOf(['allowed', 'dropped'])),
  reason: Type.Optional(oneOf(namesOf(DROP_REASONS), 'why it was dropped')),
  state: Type.Optional(oneOf(namesOf(SESSION_STATES))),
};

const translated = (description: string) => nullable(Type.Object({ source: text, sourcePort: port, destination: text, destinationPort: port }, { description }));

export const FlowRecord = answer('FlowRecord', {
  kind: Type.Literal('flow'), time: time(), event: listed(FLOW_EVENTS), sessionId: Type.String({ description: 'a 64-bit number as text' }),
  protocol: text, source: text, sourcePort: port, destination: text, destinationPort: port,
  translated: translated('as it leaves; null: not translated'),
  rule: maybeText, natSource: maybeText, natDestination: maybeText,
  from: place, to: place,
  state: listed(SESSION_STATES), endReason: nullable(listed(END_REASONS)),
  packets: oneWay, bytes: oneWay, start: time(), last: time(), durationMs: count('from the first to the last packet'), tcpFlags: nullable(Type.Array(Type.String(), { minItems: 2, maxItems: 2, description: 'flags that each direction carried, like FSPA; null: not TCP' })), expiresSeconds: count('until the idle timeout'), verdict: Type.Literal('allowed'),
});

export const DropRecord = answer('DropRecord', {
  kind: Type.Literal('drop'), time: time(), event: oneOf(['denied', 'dropped']), reason: oneOf(namesOf(DROP_REASONS)), help: text,
  protocol: text, source: text, sourcePort: port, destination: text, destinationPort: port,
  translated: translated('as it would have left, as far as that was decided; null: not translated, or not decided'),
  rule: maybeText, natSource: maybeText, natDestination: maybeText,
  from: place, to: nullable(place), bytes: count(), tcpFlags: nullable(Type.String({ description: 'like S; null: not TCP, or its header is not in the packet' })), verdict: Type.Literal('dropped'),
});
