// Packets as they pass, as a stream of pcapng: `curl … | wireshark -k -i -`. What passes may be secret: operators only.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { prefixOf, protocolOf } from '../../control/filter.js';
import { capture, CAPTURES_MAX, type CaptureFilter } from '../capture.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { oneOf, question } from '../schemas.js';

const SNAP_BYTES_DEFAULT = 256;
const FRAME_BYTES_MAX = 9216;
const MEDIA_TYPE = 'application/x-pcapng';

const Listing = question({
  interface: Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: 'only this interface' })),
  protocol: Type.Optional(Type.String({ maxLength: 20, description: 'tcp, udp, icmp, icmpv6 or a number' })),
  source: Type.Optional(Type.String({ maxLength: 64, description: 'an address or a prefix' })),
  destination: Type.Optional(Type.String({ maxLength: 64, description: 'an address or a prefix' })),
  port: Type.Optional(Type.Integer({ minimum: 0, maximum: 65535, description: 'of either side' })),
  direction: Type.Optional(oneOf(['in', 'out'], 'as received, or as sent')),
  oneWay: Type.Boolean({ default: false, description: 'true: not the answers of what matches' }),
  dropped: Type.Optional(Type.Boolean({ description: 'true: only dropped packets, false: only others' })),
  snapLength: Type.Integer({ minimum: 14, maximum: FRAME_BYTES_MAX, default: SNAP_BYTES_DEFAULT, description: 'bytes of each packet' }),
  packets: Type.Integer({ minimum: 1, maximum: 1_000_000, default: 1000, description: 'at most so many' }),
  bytes: Type.Integer({ minimum: 1024, maximum: 1024 * 1024 * 1024, default: 64 * 1024 * 1024, description: 'at most so many, of the stream' }),
  seconds: Type.Integer({ minimum: 1, maximum: 3600, default: 60, description: 'at most so long' }),
});

export function registerCapture(api: FastifyInstance, { control, capture: source }: ApiContext): void {
  let running = 0;
  api.get<{ Querystring: Static<typeof Listing> }>('/api/v1/capture', {
    config: { role: 'operator', resource: 'capture', audit: true, streams: true },
    schema: {
      operationId: 'capture', summary: 'Packets as they pass, as a stream of pcapng', tags: ['Traffic'], querystring: Listing, produces: { 200: MEDIA_TYPE },
      description: 'Ends at the first of its bounds. While it runs, offloaded flows go through the engine, which costs throughput. What a slow reader did not take in time is left out and counted in the interface statistics at the end.',
    },
  }, async (request, reply) => {
    const { snapLength, packets, bytes, seconds, ...asked } = request.query;
    const interfaces = (control.applied?.compiled.interfaces ?? []).map(({ name }) => name);
    const filter = filterOf(asked, interfaces);
    if (!source) throw new ApiError(501, 'SLUICE_API_NOT_IMPLEMENTED', 'this control has no source of packets; use tcpdump on a neighbour, or `sluice drops` and `sluice flows`');
    if (running >= CAPTURES_MAX) throw new ApiError(503, 'SLUICE_API_BUSY', `${CAPTURES_MAX} captures run already`, undefined, { headers: { 'retry-after': '5' } });
    request.auditDetail = { ...asked, snapLength, packets, seconds };
    running += 1;
    const stream = await capture(source, filter, { packets, bytes, seconds, snapBytes: snapLength }, filter.interfaces.length > 0 ? filter.interfaces : interfaces).catch((error: unknown) => {
      running -= 1;
      throw error;
    });
    stream.once('close', () => { running -= 1; });
    request.raw.socket.setTimeout?.(0); // (an injected request has none) a quiet capture is no stalled caller; `seconds` ends it
    return reply.type(MEDIA_TYPE).header('content-disposition', 'attachment; filename="sluice.pcapng"').send(stream);
  });
}

function filterOf({ interface: name, protocol, source, destination, port, direction, oneWay, dropped }: Omit<Static<typeof Listing>, 'snapLength' | 'packets' | 'bytes' | 'seconds'>, interfaces: readonly string[]): CaptureFilter {
  if (name !== undefined && !interfaces.includes(name)) throw new ApiError(400, 'SLUICE_API_ARGUMENT', `there is no interface '${name}'; interfaces are ${interfaces.join(', ') || 'none'}`, '/interface');
  return {
    interfaces: name === undefined ? [] : [name], bothWays: !oneWay,
    ...(protocol === undefined ? {} : { protocol: protocolOf(protocol) }), ...(port === undefined ? {} : { port }),
    ...(source === undefined ? {} : { source: prefixOf(source, 'source') }), ...(destination === undefined ? {} : { destination: prefixOf(destination, 'destination') }),
    ...(direction === undefined ? {} : { direction }), ...(dropped === undefined ? {} : { dropped }),
  };
}
