// What the appliance is and does now: status, counters, neighbours, the forwarding table, rules with what they matched. All read from
// the engine at the request.
import { Type } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { readRoutes } from '../../control/routes.js';
import { countersView, statusView } from '../../control/status.js';
import type { ApiContext } from '../context.js';
import { answer, ConfigWarning, count, counts, nullable, oneOf, time } from '../schemas.js';

const text = Type.String();
const maybeText = nullable(text);
const maybeCount = nullable(Type.Integer({ minimum: 0 }));

const Process = answer('Process', { role: oneOf(['supervisor', 'engine', 'control']), pid: maybeCount, state: oneOf(['running', 'away']), uptimeSeconds: nullable(Type.Number()) });
const InterfaceStatus = answer('InterfaceStatus', {
  name: text, kind: oneOf(['port', 'wireguard']), device: text, zone: text, vlanId: maybeCount, addresses: Type.Array(text), mtuBytes: maybeCount,
  link: oneOf(['up', 'down', 'no-carrier', 'missing']), driver: maybeText, queues: maybeCount, xdpMode: nullable(oneOf(['native', 'generic'])),
  steering: nullable(Type.Object({ toEngine: count(), toHost: count(), dropped: count() }, { description: 'of the device: VLANs on it share them' })),
});
const Tunnel = answer('TunnelStatus', {
  interface: text, zone: text, listen: Type.Integer({ description: 'UDP port' }), publicKey: maybeText, peers: count(), established: count('peers with a session now'),
  latestHandshake: nullable(time()), rxBytes: count(), txBytes: count(),
});
export const StatusSchema = answer('Status', {
  version: text, hostname: maybeText, directory: text,
  ready: Type.Boolean({ description: 'the data plane forwards by the configuration' }), missing: Type.Array(text, { description: 'what is not there yet, in words' }),
  generation: maybeCount, appliedAt: nullable(time()), applyMicroseconds: maybeCount, uptimeSeconds: Type.Number(),
  processes: Type.Array(Process), interfaces: Type.Array(InterfaceStatus), tunnels: Type.Array(Tunnel), rules: count(),
  sessions: nullable(Type.Object({ total: count(), max: count(), byState: counts('sessions by state') })),
  natMappings: maybeCount, fragments: maybeCount, buffers: nullable(Type.Object({ free: count(), total: count() })), workers: maybeCount,
  packets: nullable(Type.Object({ received: count(), sent: count(), toHost: count() })), bytes: nullable(Type.Object({ received: count(), sent: count() })),
  drops: counts('packets dropped by reason; reasons without any are left out'),
  failure: nullable(Type.Object({ code: text, message: text, at: time() }, { description: 'why the configuration is not in force' })),
  problems: Type.Array(ConfigWarning), obstacles: Type.Array(Type.Object({ message: text, remedy: text })), warnings: Type.Array(text),
});
const PortCounts = Type.Object({ used: count(), resting: count('released, not to be used again yet'), free: count(), total: count() });
const CountersSchema = answer('Counters', {
  counters: counts('packets and events'), drops: counts('packets dropped by reason, engine and steering programs together'),
  gauges: counts('levels now'), sessions: counts('sessions by state, counted once a second'), sessionsByProtocol: counts('sessions by protocol, counted once a second'),
  natPools: Type.Array(Type.Object({ address: text, protocols: Type.Object({ tcp: PortCounts, udp: PortCounts, icmp: PortCounts }) }), { description: 'ports of outside addresses of NAT' }),
  interfaces: Type.Unsafe<Record<string, unknown>>({
    type: 'object', description: 'what the engine received and sent; not what the XDP program forwards by itself',
    additionalProperties: Type.Object({ rxPackets: count(), rxBytes: count(), txPackets: count(), txBytes: count() }),
  }),
  steering: Type.Unsafe<Record<string, unknown>>({ type: 'object', description: 'by device', additionalProperties: Type.Object({ counters: counts('packets by way'), drops: counts('packets by reason') }) }),
});
const Neighbour = answer('Neighbour', { address: text, interface: maybeText, mac: maybeText, resolved: Type.Boolean(), waiting: count('packets that wait for it') });
const Route = answer('Route', { to: text, nexthops: Type.Array(Type.Object({ via: maybeText, interface: maybeText, kind: oneOf(['forward', 'blackhole', 'reject', 'unencrypted']) })) });
const Rule = answer('Rule', {
  kind: oneOf(['firewall', 'nat-source', 'nat-destination', 'nat-static']), name: text, action: text,
  sessions: nullable(Type.Integer({ minimum: 0, description: 'sessions that it allowed or stopped, since the engine started; null: not counted' })),
});

export function registerStatus(api: FastifyInstance, { control, paths }: ApiContext): void {
  api.get('/api/v1/status', {
    config: { role: 'viewer', resource: 'status' },
    schema: { operationId: 'getStatus', summary: 'Processes, interfaces, sessions, drops: is everything as it should be?', tags: ['State'], response: { 200: StatusSchema } },
  }, () => statusView(control, paths));

  api.get('/api/v1/counters', {
    config: { role: 'viewer', resource: 'counters' },
    schema: { operationId: 'getCounters', summary: 'Exact counters and levels', tags: ['State'], response: { 200: CountersSchema } },
  }, () => countersView(control));

  api.get('/api/v1/neighbours', {
    config: { role: 'viewer', resource: 'neighbours' },
    schema: { operationId: 'listNeighbours', summary: 'Next hops and their link addresses', tags: ['State'], response: { 200: Type.Object({ neighbours: Type.Array(Neighbour) }) } },
  }, async () => ({ neighbours: await control.neighbours() }));

  api.get('/api/v1/routes', {
    config: { role: 'viewer', resource: 'routes' },
    schema: { operationId: 'listRoutes', summary: 'The forwarding table as the engine has it', tags: ['State'], response: { 200: Type.Object({ routes: Type.Array(Route) }) } },
  }, () => ({ routes: control.applied ? readRoutes(control.applied.compiled.snapshot, control.names) : [] }));

  api.get('/api/v1/rules', {
    config: { role: 'viewer', resource: 'rules' },
    schema: { operationId: 'listRules', summary: 'Rules in force, in their order, with what they matched', tags: ['State'], response: { 200: Type.Object({ rules: Type.Array(Rule) }) } },
  }, async () => {
    const hits = await control.ruleHits();
    return { rules: (control.applied?.compiled.rules ?? []).map(({ id, ...rule }) => ({ ...rule, sessions: hits.get(id) ?? (rule.kind === 'firewall' ? 0 : null) })) };
  });
}
