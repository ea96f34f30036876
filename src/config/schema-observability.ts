// `observability:` — log streams, what metrics include, records of long sessions. docs/operations/logs.md and metrics.md explain the keys.
// Called by schema.ts; check-observability.ts examines what one value alone cannot tell.
import { Type, type Static } from '@sinclair/typebox';
import { STREAM_TYPES } from '../flowlog/fields.js';
import { choice, flag, integer, strictObject, text, textList } from './schema-parts.js';

export const LOG_STREAMS_MAX = 16;
export const METRIC_FILTERS_MAX = 256;
export const SERIES_MAX_DEFAULT = 10_000;
export const UPDATE_SECONDS_DEFAULT = 300;
export const BUFFER_MEGABYTES_DEFAULT = 16;
export const FILE_BUFFER_MEGABYTES_DEFAULT = 64; // a second of 100,000 records: disks pause while they write back
export const ROTATE_MEGABYTES_DEFAULT = 100;
export const ROTATE_FILES_DEFAULT = 10;

const list = Type.Optional(textList('a value or a list of values'));

/** Members must all fit; of a member's list one. Which members a type of stream has, check-observability.ts knows. */
export const CriteriaSchema = strictObject({
  event: list, verdict: list, reason: list, rule: list, protocol: list,
  source: list, destination: list, zone: list, interface: list, from: list, to: list,
  port: Type.Optional(Type.Unsafe<number | string | (number | string)[]>({
    type: ['integer', 'string', 'array'], minimum: 0, maximum: 65535, minLength: 1, maxLength: 5, minItems: 1, maxItems: 256,
    items: { type: ['integer', 'string'], minimum: 0, maximum: 65535, minLength: 1, maxLength: 5 }, description: 'a port or a list of ports',
  })),
  by: list, method: list, resource: list, code: list, status: Type.Optional(Type.Unsafe<number | string | (number | string)[]>({
    type: ['integer', 'string', 'array'], minimum: 100, maximum: 599, minLength: 3, maxLength: 3, minItems: 1, maxItems: 64,
    items: { type: ['integer', 'string'], minimum: 100, maximum: 599, minLength: 3, maxLength: 3 }, description: 'an HTTP status or a list of them',
  })),
  level: list, process: list,
  device: list, way: list, state: list, kind: list, pool: list, stream: list, place: list, stage: list, result: list,
}, 'what records must have, like {verdict: [dropped]}');
export type CriteriaConfig = Static<typeof CriteriaSchema>;
const criteria = Type.Optional(CriteriaSchema);

const file = text('a path that starts with a slash: control has no directory of its own', '^/');
const TlsSchema = Type.Unsafe<boolean | { caFile?: string; certificateFile?: string; keyFile?: string; serverName?: string }>({
  type: ['boolean', 'object'],
  properties: { caFile: file, certificateFile: file, keyFile: file, serverName: text('a host name') },
  additionalProperties: false,
  description: 'true, or {caFile, certificateFile, keyFile, serverName}',
});

const LogSchema = strictObject({
  name: Type.Optional(text('a name of letters, digits and dashes', '^[A-Za-z0-9][A-Za-z0-9-]{0,31}$')),
  type: choice(STREAM_TYPES, 'flow, firewall, audit or system'),
  to: choice(['file', 'stdout', 'syslog', 'ipfix'] as const, 'file, stdout, syslog or ipfix'),
  address: Type.Optional(text('address:port')),
  transport: Type.Optional(choice(['udp', 'tcp'] as const, 'udp or tcp')),
  tls: Type.Optional(TlsSchema),
  path: Type.Optional(text('a path; without a leading slash it stands in the state directory')),
  rotate: Type.Optional(strictObject({
    megabytes: Type.Optional(integer(1, 102_400, 'megabytes, from 1 to 102,400')),
    hours: Type.Optional(integer(1, 8760, 'hours, from 1 to 8,760')),
    files: Type.Optional(integer(1, 1000, 'files kept, from 1 to 1,000')),
    gzip: Type.Optional(flag('true or false')),
  })),
  facility: Type.Optional(integer(0, 23, 'a facility of RFC 5424, from 0 to 23')),
  observationDomain: Type.Optional(integer(0, 0xffffffff, 'a number')),
  enterprise: Type.Optional(integer(1, 0xffffffff, 'your private enterprise number')),
  bufferMegabytes: Type.Optional(integer(1, 1024, 'megabytes, from 1 to 1,024')),
  drop: Type.Optional(textList('names of fields')),
  redact: Type.Optional(textList('names of fields')),
  include: criteria, exclude: criteria,
});
export type LogConfig = Static<typeof LogSchema>;

const MetricFilterSchema = strictObject({ metric: text('a metric, like flow or drops'), include: criteria, exclude: criteria });
export type MetricFilterConfig = Static<typeof MetricFilterSchema>;

export const ObservabilitySchema = strictObject({
  flows: Type.Optional(strictObject({ updateSeconds: Type.Optional(integer(0, 86_400, 'seconds; 0: no updates')) })),
  metrics: Type.Optional(strictObject({
    seriesMax: Type.Optional(integer(100, 1_000_000, 'series, from 100 to 1,000,000')),
    platformConnections: Type.Optional(integer(1, 100_000_000, 'connections')),
    filters: Type.Optional(Type.Array(MetricFilterSchema, { maxItems: METRIC_FILTERS_MAX, description: 'a list of filters' })),
  })),
  logs: Type.Optional(Type.Array(LogSchema, { maxItems: LOG_STREAMS_MAX, description: 'a list of log streams' })),
});
export type ObservabilityConfig = Static<typeof ObservabilitySchema>;
