// Nodes that trust one another: who they are, what each has of the other, and the rotation of static keys. What shall be trusted stands under
// /api/v1/config. A rotation takes as long as the other nodes take: it goes on whether or not its caller waits.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { OVERLAP_MS_MAX, OVERLAP_MS_MIN } from '../../config/schema-nodes.js';
import type { Control } from '../../control/control.js';
import type { Nodes } from '../../nodes/nodes.js';
import { authorOf } from '../access.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { answer, Author, count, nullable, OperationSchema, question, time } from '../schemas.js';

const text = Type.String();
const maybeText = nullable(text);
const maybeTime = nullable(time());

const RecordSchema = Type.Object({
  sequence: count('grows with each record'), issuedAt: time(), expiresAt: time('from then on it counts no more'),
  wireguard: Type.Array(Type.Object({
    interface: Type.String({ description: 'as the node calls it' }), publicKey: text, nextPublicKey: maybeText, endpoint: maybeText, port: Type.Integer(), allowedIPs: Type.Array(text),
  }), { description: 'its tunnels' }),
});
const maybeRecord = nullable(RecordSchema);
const Node = answer('Node', {
  name: text, id: Type.String({ description: 'its public key: ed25519: and 43 characters' }), url: nullable(Type.String({ description: 'null: it calls this one' })),
  lastExchange: maybeTime, exchanges: count('since control started'), failures: count('since control started'), problem: nullable(Type.String({ description: 'why the last call failed; null: it did not' })),
  record: maybeRecord, inForce: Type.Boolean({ description: 'its record is in force here' }), hasOurs: Type.Boolean({ description: 'this node\'s newest record is in force there' }),
  have: nullable(Type.Integer({ minimum: 0, description: 'the sequence of this node\'s record that is in force there' })),
  refused: nullable(Type.String({ description: 'why its last record was not taken here' })), theyRefused: nullable(Type.String({ description: 'why this node\'s record was not taken there' })),
  notes: Type.Array(text, { description: 'what of its record does not count, and why' }), tunnels: Type.Array(text, { description: 'tunnels here of which it is a peer' }),
});
const Rotation = answer('Rotation', {
  interface: text, phase: Type.String({ description: 'preparing, announcing, switching, moving, settling or finishing' }), startedAt: time(), by: Author,
  waitingFor: Type.Array(text, { description: 'peers' }), left: Type.Array(text, { description: 'peers that were not waited for any longer' }),
});
const NodesSchema = answer('Nodes', {
  name: text, id: nullable(Type.String({ description: 'what other nodes name under nodes.peers; null: `problem` says why' })), listen: maybeText, problem: maybeText,
  record: maybeRecord, strangers: count('callers that no configured node is, since control started'), peers: Type.Array(Node),
  rotations: Type.Array(Rotation, { description: 'under way' }),
  lastRotations: Type.Unsafe<Record<string, string>>({ type: 'object', additionalProperties: { type: 'string', format: 'date-time' }, description: 'by tunnel; of one that never rotated, when it was first seen' }),
});

const RotateBody = question({
  overlapS: Type.Optional(Type.Number({ minimum: OVERLAP_MS_MIN / 1000, maximum: OVERLAP_MS_MAX / 1000, description: 'seconds that a step waits for peers that do not answer; left out: nodes.rotate.overlap' })),
  force: Type.Optional(Type.Boolean({ description: 'true: also when peers that are no nodes will be cut off' })),
}, { title: 'RotateBody', examples: [{ overlapS: 600 }] });
const Rotated = answer('Rotated', {
  interface: text, publicKey: text, previousPublicKey: Type.String({ description: 'its private key is wiped' }), milliseconds: count(),
  left: Type.Array(text, { description: 'peers that did not learn the new key in time' }),
});

export function registerNodes(api: FastifyInstance, { control, operations }: ApiContext): void {
  api.get('/api/v1/nodes', {
    config: { role: 'viewer', resource: 'nodes' },
    schema: { operationId: 'listNodes', summary: 'This node, the nodes that it trusts, and rotations under way', tags: ['State'], response: { 200: NodesSchema } },
  }, () => nodesOf(control).view());

  api.post<{ Params: { interface: string }; Body: Static<typeof RotateBody> }>('/api/v1/wireguard/:interface/rotate', {
    config: { role: 'operator', resource: 'wireguard' },
    schema: {
      operationId: 'rotateWireguard', summary: 'Replace a tunnel\'s static key without losing a packet', tags: ['Operations'],
      description: 'The next key is announced to all nodes and both are answered to; then sessions move to it; then the old one is wiped. Refused when a peer is no node, unless forced.',
      params: question({ interface: Type.String({ minLength: 1, maxLength: 63 }) }), body: RotateBody, response: { 200: Rotated, 202: OperationSchema },
    },
  }, (request, reply) => {
    const { overlapS, force } = request.body;
    const { name, via } = authorOf(request);
    const nodes = nodesOf(control);
    return operations.answer(request, reply, 'rotate-wireguard', (progress) => nodes.rotate(request.params.interface, {
      by: { name, via }, overlapMs: overlapS === undefined ? undefined : overlapS * 1000, ...(force === undefined ? {} : { force }),
    }, progress));
  });
}

function nodesOf({ nodes }: Control): Nodes {
  if (nodes) return nodes;
  throw new ApiError(501, 'SLUICE_API_NOT_IMPLEMENTED', 'this control has no nodes');
}
