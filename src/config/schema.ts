// The schema of the configuration file: every key, its type, its bounds. docs/operations/configuration.md explains them.
//
// Called by load.ts (validation) and, for its types, by everything in src/config. What one value alone cannot tell
// (names, subnets, families) is check.ts's. `description` is printed as the remedy when a value is wrong.
import { Type, type Static } from '@sinclair/typebox';
import { SL_INTERFACES_MAX, SL_RULES_MAX } from '../engine/abi.generated.js';
import { ApiSchema } from './schema-api.js';
import { BgpSchema, HaSchema, L7Schema, VxlanSchema } from './schema-later.js';
import { NodesSchema } from './schema-nodes.js';
import { ObservabilitySchema } from './schema-observability.js';
import { choice, flag, integer, LIST_ITEMS_MAX, named, ruleName, strictObject, text, TEXT_CHARACTERS_MAX, textList } from './schema-parts.js';
import { WireguardSchema } from './schema-wireguard.js';

export const ROUTES_MAX = 100_000;
export const NAT_RULES_MAX = 16_384;
export const OBJECTS_MAX = 100_000;
export const NEXT_HOPS_MAX = 16;

const zones = Type.Optional(textList('a zone or a list of zones; any: each zone'));
const addresses = Type.Optional(textList('addresses, prefixes, ranges or names of objects; leave the key out for any'));
const log = Type.Optional(choice(['none', 'start', 'end', 'both'], 'what to record'));

/** A port or a range of them, as number or text. */
const ports = Type.Optional(Type.Unsafe<string | number | (string | number)[]>({
  type: ['string', 'integer', 'array'], minimum: 0, maximum: 65535, minLength: 1, maxLength: 11, minItems: 1, maxItems: 64,
  items: { type: ['string', 'integer'], minimum: 0, maximum: 65535, minLength: 1, maxLength: 11 },
  description: 'a port like 443 or a range like "8000-8080"',
}));

const longService = strictObject({ protocol: text('tcp or udp'), source: ports, destination: ports });
export type LongService = Static<typeof longService>;
export type ServiceItem = string | LongService;
const serviceForm = 'services like tcp/443, udp/53, icmp/echo-request, {protocol, source, destination}, or names of objects; leave the key out for any';
const serviceList = Type.Unsafe<ServiceItem | ServiceItem[]>({
  type: ['string', 'object', 'array'], minLength: 1, maxLength: TEXT_CHARACTERS_MAX,
  properties: longService.properties, required: ['protocol'], additionalProperties: false,
  minItems: 1, maxItems: LIST_ITEMS_MAX,
  items: {
    type: ['string', 'object'], minLength: 1, maxLength: TEXT_CHARACTERS_MAX,
    properties: longService.properties, required: ['protocol'], additionalProperties: false, description: serviceForm,
  },
  description: serviceForm,
});
const services = Type.Optional(serviceList);

const InterfaceSchema = strictObject({
  device: text('the name of a network device, like eth1', '^[^/\\s:]{1,15}$'),
  zone: text('a zone name: letters, digits, dash, dot and underscore', '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$'),
  addresses: Type.Optional(textList('addresses with their length, like 10.0.1.4/24')),
  vlan: Type.Optional(integer(1, 4094, 'a VLAN tag from 1 to 4094; leave the key out for untagged frames')),
  antiSpoofing: Type.Optional(choice(['strict', 'loose', 'off'], 'how source addresses are checked')),
  mtu: Type.Optional(integer(576, 65535, 'an MTU in bytes; leave the key out to follow the device')),
  mssClamp: Type.Optional(Type.Unsafe<boolean | number>({
    type: ['boolean', 'integer'], minimum: 88, maximum: 65495, description: 'false, true (to the path\'s MTU), or a segment size in bytes of at least 88',
  })),
});

const RouteSchema = strictObject({
  to: text('a prefix, like 10.0.0.0/8 or ::/0'),
  via: Type.Optional(Type.Unsafe<string | string[] | { interface: string; address?: string }>({
    type: ['string', 'array', 'object'], minLength: 1, minItems: 1, maxItems: NEXT_HOPS_MAX, items: { type: 'string', minLength: 1 },
    properties: { interface: text('an interface'), address: text('a next hop on it') }, required: ['interface'], additionalProperties: false,
    description: 'a next hop, a list of up to 16, {interface: NAME}, or {interface: NAME, address: ADDRESS}',
  })),
  blackhole: Type.Optional(Type.Literal(true, { description: 'true, or leave the key out' })),
  reject: Type.Optional(Type.Literal(true, { description: 'true, or leave the key out' })),
  encrypt: Type.Optional(choice(['required'], 'must it leave through a tunnel')),
});

const RuleSchema = strictObject({
  name: ruleName,
  description: Type.Optional(Type.String({ maxLength: TEXT_CHARACTERS_MAX, description: 'text' })),
  disabled: Type.Optional(flag('true: the rule is left out')),
  from: zones, to: zones, source: addresses, destination: addresses, service: services,
  action: choice(['allow', 'deny', 'reject'], 'what to do with what matches'),
  log,
  maxSessions: Type.Optional(integer(1, 0xffffffff, 'sessions at a time')),
  offload: Type.Optional(choice(['auto', 'never'], 'may established flows leave the engine')),
  l7: Type.Optional(L7Schema),
});

const SourceNatSchema = strictObject({
  name: ruleName, description: Type.Optional(Type.String({ maxLength: TEXT_CHARACTERS_MAX })), disabled: Type.Optional(flag('true: the rule is left out')),
  from: zones, to: zones, source: addresses, destination: addresses, service: services,
  translate: Type.Unsafe<'none' | { interface?: true; pool?: string | string[] }>({
    type: ['string', 'object'], pattern: '^none$',
    properties: { interface: Type.Literal(true, { description: 'true' }), pool: textList('addresses, ranges or prefixes to translate to') },
    minProperties: 1, maxProperties: 1, additionalProperties: false,
    description: '{interface: true}, {pool: [addresses, ranges or prefixes]}, or none (exemption)',
  }),
  filtering: Type.Optional(choice(['endpoint-independent', 'address-dependent', 'address-and-port-dependent'], 'who may answer through a mapping')),
  mapping: Type.Optional(choice(['endpoint-independent', 'endpoint-dependent'], 'is a mapping shared by destinations')),
  families: Type.Optional(Type.Unsafe<string | string[]>({
    type: ['string', 'array'], minItems: 1, maxItems: 2, uniqueItems: true, pattern: '^ipv[46]$', items: { type: 'string', enum: ['ipv4', 'ipv6'], description: 'ipv4, ipv6' },
    description: '[ipv4], [ipv6], or both',
  })),
  ports: Type.Optional(text('a range of ports, like "1024-65535"', '^[0-9]{1,5}-[0-9]{1,5}$')),
});

const DestinationNatSchema = strictObject({
  name: ruleName, description: Type.Optional(Type.String({ maxLength: TEXT_CHARACTERS_MAX })), disabled: Type.Optional(flag('true: the rule is left out')),
  from: zones, source: addresses,
  destination: textList('the outside address, or a list'),
  service: services,
  translate: strictObject({
    address: text('one address'),
    port: Type.Optional(Type.Unsafe<number | string>({
      type: ['integer', 'string'], minimum: 1, maximum: 65535, pattern: '^[0-9]{1,5}(-[0-9]{1,5})?$', description: 'a port, or a range as long as the service\'s',
    })),
  }, '{address: ADDRESS} or {address: ADDRESS, port: PORT}'),
});

const StaticNatSchema = strictObject({
  name: ruleName, description: Type.Optional(Type.String({ maxLength: TEXT_CHARACTERS_MAX })), disabled: Type.Optional(flag('true: the rule is left out')),
  from: zones,
  outside: text('an address or a prefix'),
  inside: text('an address or a prefix as long as the outside one'),
});

const seconds = (description: string) => Type.Optional(integer(1, 1_000_000, description));

export const ConfigSchema = strictObject({
  version: Type.Literal(1, { description: 'version: 1' }),
  hostname: Type.Optional(text('a host name', '^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$')),
  interfaces: Type.Optional(named(InterfaceSchema, SL_INTERFACES_MAX, 'interfaces by name')),
  routes: Type.Optional(Type.Array(RouteSchema, { maxItems: ROUTES_MAX, description: 'a list of routes' })),
  objects: Type.Optional(strictObject({
    addresses: Type.Optional(named(textList('addresses, prefixes, ranges or names of objects'), OBJECTS_MAX, 'address objects by name')),
    services: Type.Optional(named(serviceList, OBJECTS_MAX, 'service objects by name')),
  })),
  firewall: Type.Optional(strictObject({
    default: Type.Optional(choice(['deny', 'reject'], 'what happens to what no rule matches')),
    log,
    rules: Type.Optional(Type.Array(RuleSchema, { maxItems: SL_RULES_MAX, description: 'a list of rules' })),
  })),
  nat: Type.Optional(strictObject({
    source: Type.Optional(Type.Array(SourceNatSchema, { maxItems: NAT_RULES_MAX, description: 'a list of rules' })),
    destination: Type.Optional(Type.Array(DestinationNatSchema, { maxItems: NAT_RULES_MAX, description: 'a list of rules' })),
    static: Type.Optional(Type.Array(StaticNatSchema, { maxItems: NAT_RULES_MAX, description: 'a list of rules' })),
  })),
  limits: Type.Optional(strictObject({
    sessions: Type.Optional(integer(1024, 67_108_864, 'sessions from 1,024 to 67,108,864')),
    sessionsPerSource: Type.Optional(integer(0, 0xffffffff, 'sessions of one source address; 0: no limit')),
    fragments: Type.Optional(integer(16, 1_048_576, 'fragmented datagrams at a time')),
    icmpErrorsPerSecond: Type.Optional(integer(1, 1_000_000, 'ICMP errors a second and worker')),
  })),
  timers: Type.Optional(strictObject({
    tcpSyn: seconds('seconds'), tcpEstablished: seconds('seconds'), tcpTransitory: seconds('seconds'), tcpTimeWait: seconds('seconds'), tcpReset: seconds('seconds'),
    udp: seconds('seconds'), udpNew: seconds('seconds'), icmp: seconds('seconds'), other: seconds('seconds'), fragment: seconds('seconds'), natPortReuse: seconds('seconds'),
  })),
  engine: Type.Optional(strictObject({
    workers: Type.Optional(Type.Unsafe<'auto' | number>({ type: ['string', 'integer'], pattern: '^auto$', minimum: 1, maximum: 64, description: 'auto, or a number from 1 to 64' })),
    framesPerWorker: Type.Optional(integer(512, 1_048_576, 'packet buffers of a worker, from 512 to 1,048,576')),
    busyPoll: Type.Optional(flag('true or false')),
    txBudget: Type.Optional(integer(1, 4096, 'frames a transmit call may send, from 1 to 4,096')),
    mode: Type.Optional(choice(['auto', 'native', 'generic'], 'how XDP is attached')),
  })),
  wireguard: Type.Optional(WireguardSchema), nodes: Type.Optional(NodesSchema), vxlan: Type.Optional(VxlanSchema), bgp: Type.Optional(BgpSchema),
  ha: Type.Optional(HaSchema), observability: Type.Optional(ObservabilitySchema), api: Type.Optional(ApiSchema),
});

export type Config = Static<typeof ConfigSchema>;
export type InterfaceConfig = Static<typeof InterfaceSchema>;
export type RouteConfig = Static<typeof RouteSchema>;
export type FirewallRule = Static<typeof RuleSchema>;
export type SourceNatRule = Static<typeof SourceNatSchema>;
export type DestinationNatRule = Static<typeof DestinationNatSchema>;
export type StaticNatRule = Static<typeof StaticNatSchema>;
/** Sections that are accepted but have no effect yet. */
export const INERT_SECTIONS = ['vxlan', 'bgp', 'ha'] as const;
