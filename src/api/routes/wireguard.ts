// Tunnels: which there are, with which peers, and what goes over them. Read from the engine's process at the request; secrets never come
// this far. What they shall be stands under /api/v1/config/wireguard.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { wireguardViews } from '../../control/wireguard.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { answer, count, counts, nullable, oneOf, question, time } from '../schemas.js';

const text = Type.String();
const maybeText = nullable(text);

const Peer = answer('WireguardPeerState', {
  name: text, node: nullable(Type.String({ description: 'the node whose record says its keys; null: the configuration does' })),
  publicKey: nullable(Type.String({ description: 'null: its node has not told it yet' })), nextPublicKey: nullable(Type.String({ description: 'the key that the peer changes to; null: none' })), presharedKey: Type.Boolean({ description: 'there is one' }),
  endpoint: nullable(Type.String({ description: 'where it was heard of last, else where the configuration says; null: not known' })), allowedIPs: Type.Array(text),
  latestHandshake: nullable(time()), rxBytes: count('of UDP payload'), txBytes: count('of UDP payload'), rxPackets: count(), txPackets: count(), keepalive: nullable(Type.Integer({ minimum: 1, description: 'seconds; null: none' })),
  state: oneOf(['none', 'handshake', 'established'], 'none: no session; handshake: one is under way'),
});
const Tunnel = answer('WireguardState', {
  interface: text, zone: text, addresses: Type.Array(text), mtuBytes: count(), listen: Type.Integer({ description: 'UDP port' }),
  publicKey: nullable(Type.String({ description: 'null: there is no usable key, and `faults` say why' })), nextPublicKey: maybeText,
  rotation: Type.String({ description: 'of the static key' }), faults: Type.Array(text, { description: 'why it does not work, in words' }),
  refused: nullable(counts('handshake messages that were not answered, by reason')), peers: Type.Array(Peer),
});

export function registerWireguard(api: FastifyInstance, { control }: ApiContext): void {
  api.get('/api/v1/wireguard', {
    config: { role: 'viewer', resource: 'wireguard' },
    schema: { operationId: 'listWireguard', summary: 'Tunnels and their peers: keys, endpoints, handshakes, transfer', tags: ['State'], response: { 200: Type.Object({ interfaces: Type.Array(Tunnel) }) } },
  }, async () => ({ interfaces: wireguardViews(control, await control.wireguards()) }));

  api.get<{ Params: { interface: string } }>('/api/v1/wireguard/:interface', {
    config: { role: 'viewer', resource: 'wireguard' },
    schema: { operationId: 'getWireguard', summary: 'One tunnel and its peers', tags: ['State'], params: question({ interface: Type.String({ minLength: 1, maxLength: 63 }) }), response: { 200: Tunnel } },
  }, async ({ params }) => {
    const found = wireguardViews(control, await control.wireguards()).find((one) => one.interface === params.interface);
    if (!found) throw new ApiError(404, 'SLUICE_API_NOT_FOUND', `there is no tunnel '${params.interface}'`, '/interface');
    return found;
  });
}
