// Sections of the configuration that later versions give effect to: tunnels, BGP, high availability, API.
//
// Their shape is checked already (unknown keys are errors), so that a file written for them does not rot; check.ts warns
// that they have no effect. Called by schema.ts.
import { Type } from '@sinclair/typebox';
import { choice, flag, integer, named, port, ruleName, strictObject, text, textList } from './schema-parts.js';

const zone = text('the zone of this tunnel');
const list = Type.Optional(textList('a value or a list of values'));

const vtep = strictObject({ port: Type.Optional(port('a UDP port')), vni: integer(0, 0xffffff, 'a VNI') });

export const VxlanSchema = named(strictObject({
  zone,
  local: text('an address of ours'),
  port: Type.Optional(port('a UDP port')),
  vni: Type.Optional(integer(0, 0xffffff, 'a VNI')),
  mode: choice(['bridged', 'routed', 'gateway-lb'], 'what the tunnel carries'),
  addresses: list,
  mtu: Type.Optional(integer(576, 65535, 'an MTU in bytes')),
  internal: Type.Optional(vtep),
  external: Type.Optional(vtep),
  remotes: Type.Optional(Type.Array(strictObject({
    address: text('an address'),
    priority: Type.Optional(integer(1, 255, '1 is preferred')),
    bfd: Type.Optional(strictObject({
      interval: Type.Optional(integer(10, 60000, 'milliseconds')), multiplier: Type.Optional(integer(1, 255, 'missed packets')),
    })),
  }), { maxItems: 256, description: 'a list of remotes' })),
}), 64, 'VXLAN tunnels by name');

const asn = integer(1, 4294967294, 'an AS number');

export const BgpSchema = strictObject({
  asn,
  routerId: Type.Optional(text('an IPv4 address')),
  neighbors: Type.Optional(Type.Array(strictObject({
    name: ruleName,
    address: text('an address'),
    asn,
    multihop: Type.Optional(integer(1, 255, 'hops')),
    prepend: Type.Optional(integer(0, 10, 'times')),
    asOverride: Type.Optional(flag('replace the neighbour\'s AS number in paths')),
    passwordFile: Type.Optional(text('a path')),
    holdTime: Type.Optional(integer(3, 65535, 'seconds')),
  }), { maxItems: 64, description: 'a list of neighbours' })),
  announce: Type.Optional(Type.Array(strictObject({
    prefix: text('a prefix'), nextHop: Type.Optional(text('an address')), communities: list,
  }), { maxItems: 4000, description: 'a list of announcements' })),
  accept: Type.Optional(strictObject({ maxPrefixes: Type.Optional(integer(1, 1000000, 'prefixes a neighbour')), prefixes: list })),
});

export const HaSchema = strictObject({
  probe: Type.Optional(strictObject({ port: port('a TCP port'), path: Type.Optional(text('a path', '^/')) })),
  peer: Type.Optional(strictObject({ name: text('a host name'), address: text('an address'), interface: Type.Optional(text('an interface')) })),
});

/** What an `l7:` key of a firewall rule may hold. */
export const L7Schema = strictObject({
  http: Type.Optional(Type.Array(strictObject({ method: list, host: list, path: list }), { maxItems: 1024, description: 'a list of matches' })),
  grpc: Type.Optional(Type.Array(strictObject({ service: list, method: list }), { maxItems: 1024, description: 'a list of matches' })),
  kafka: Type.Optional(Type.Array(strictObject({ role: list, topic: list, apiKey: list, clientId: list }), { maxItems: 1024, description: 'a list of matches' })),
});
