// The members of records and log entries that people can name, to leave them out (`drop`) or to empty them (`redact`) before they go anywhere.
// Who: src/config/check-observability.ts (is it a field?), the formats (json.ts, ipfix.ts). Pure; one list, so that a name means one thing.
// A name covers every place where the value stands: `source` is the originator's address and, after NAT, the translated one too,
// for a translation of the destination alone leaves the source as it was. A dropped packet may be an answer, and who is asked and who asks
// change places in it: there each of source and destination covers both translated addresses.

export const STREAM_TYPES = ['flow', 'firewall', 'audit', 'system'] as const;
export type StreamType = (typeof STREAM_TYPES)[number];

/** Places in a flow or drop record. */
export const PLACES = [
  'time', 'event', 'verdict', 'sessionId', 'protocol', 'source', 'sourcePort', 'destination', 'destinationPort',
  'translatedSource', 'translatedSourcePort', 'translatedDestination', 'translatedDestinationPort',
  'rule', 'natSource', 'natDestination', 'fromInterface', 'fromZone', 'fromPeer', 'toInterface', 'toZone', 'toPeer',
  'state', 'endReason', 'reason', 'packets', 'bytes', 'start', 'durationMs', 'tcpFlags',
] as const;
export type Place = (typeof PLACES)[number];

const COVERED: Record<string, readonly Place[]> = {
  ...Object.fromEntries(PLACES.map((place) => [place, [place]])),
  time: ['time', 'start'], // of a session's start they are one
  source: ['source', 'translatedSource'],
  destination: ['destination', 'translatedDestination'],
  sourcePort: ['sourcePort', 'translatedSourcePort'],
  destinationPort: ['destinationPort', 'translatedDestinationPort'],
  translated: ['translatedSource', 'translatedSourcePort', 'translatedDestination', 'translatedDestinationPort'],
  from: ['fromInterface', 'fromZone', 'fromPeer'],
  to: ['toInterface', 'toZone', 'toPeer'],
  interface: ['fromInterface', 'toInterface'],
  zone: ['fromZone', 'toZone'],
  peer: ['fromPeer', 'toPeer'],
};

/** Of the application layer: no record carries them yet, so they are gone already. */
const LATER = new Set(['userAgent', 'method', 'path', 'host', 'query', 'header', 'headers', 'referer', 'cookie', 'authorization', 'dnsName', 'serverName', 'clientId', 'topic']);

const AUDIT_AND_SYSTEM = /^[A-Za-z][A-Za-z0-9]{0,63}$/;
/** What tells an entry's place in its log: without it there is no log. */
const AUDIT_KEPT = new Set(['time', 'kind']);

/** `user-agent`, `user_agent`, `translated.source` and `userAgent` are one way of writing each. */
export function fieldName(written: string): string {
  return written.replace(/[-_.]+([A-Za-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

export const FIELD_NAMES: readonly string[] = Object.keys(COVERED);

export type FieldKnown = 'known' | 'later' | 'unknown';

export function knowField(type: StreamType, written: string): FieldKnown {
  const name = fieldName(written);
  if (type === 'flow' || type === 'firewall') return Object.hasOwn(COVERED, name) ? 'known' : LATER.has(name) ? 'later' : 'unknown';
  return AUDIT_AND_SYSTEM.test(name) && !AUDIT_KEPT.has(name) ? 'known' : 'unknown';
}

export const Treatment = { KEEP: 0, DROP: 1, REDACT: 2 } as const;
export type Treatment = (typeof Treatment)[keyof typeof Treatment];

/** What becomes of each place of a record, and of each member (at any depth) of an entry. */
export interface FieldPlan {
  places: Record<Place, Treatment>;
  ofDrops: Record<Place, Treatment>;
  members: ReadonlyMap<string, Treatment>;
}

/** What is both dropped and redacted is dropped: the stricter one. */
export function planFields(drop: readonly string[] = [], redact: readonly string[] = []): FieldPlan {
  const places = Object.fromEntries(PLACES.map((place) => [place, Treatment.KEEP])) as Record<Place, Treatment>;
  const members = new Map<string, Treatment>();
  for (const [list, treatment] of [[redact, Treatment.REDACT], [drop, Treatment.DROP]] as const) {
    for (const written of list) {
      const name = fieldName(written);
      members.set(name, treatment);
      for (const place of COVERED[name] ?? []) places[place] = treatment;
    }
  }
  return { places, ofDrops: placesOfDrops(places), members };
}

function placesOfDrops(places: Record<Place, Treatment>): Record<Place, Treatment> {
  const strictest = (...of: Place[]): Treatment => [Treatment.DROP, Treatment.REDACT].find((treatment) => of.some((place) => places[place] === treatment)) ?? Treatment.KEEP;
  return {
    ...places,
    translatedSource: strictest('translatedSource', 'source', 'destination'), translatedDestination: strictest('translatedDestination', 'source', 'destination'),
    translatedSourcePort: strictest('translatedSourcePort', 'sourcePort', 'destinationPort'), translatedDestinationPort: strictest('translatedDestinationPort', 'sourcePort', 'destinationPort'),
  };
}
