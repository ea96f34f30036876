// Would this packet pass, and by which rule, route and translation? The engine decides; nothing is sent.
// `parseQuestion` is also what `sluice simulate --config` takes its words through.
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import type { Control } from '../../control/control.js';
import { protocolNumber, type SimulateQuestion } from '../../engine/records.js';
import { AddressError, bytesOf, familyOf, parseAddress } from '../../lib/address.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { answer, nullable, oneOf, question } from '../schemas.js';

const name = (description: string) => Type.String({ minLength: 1, maxLength: 64, description });
const port = Type.Integer({ minimum: 0, maximum: 65535 });
const maybeText = nullable(Type.String());

const Question = question({
  from: name('the interface at which the packet arrives'), source: name('an address'), destination: name('an address'),
  protocol: Type.String({ minLength: 1, maxLength: 20, description: 'tcp, udp, icmp, icmpv6 or a number' }),
  sourcePort: Type.Optional(port), port: Type.Optional(port),
  icmpType: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })), icmpCode: Type.Optional(Type.Integer({ minimum: 0, maximum: 255 })),
}, { title: 'SimulateQuestion', examples: [{ from: 'trust', source: '10.0.1.10', destination: '198.51.100.7', protocol: 'tcp', port: 443 }] });
export type SimulateBody = Static<typeof Question>;

const Answer = answer('SimulateAnswer', {
  verdict: oneOf(['allow', 'deny', 'reject']), reason: nullable(Type.String({ description: 'why it is dropped' })), help: maybeText,
  host: Type.Boolean({ description: 'it is for the appliance itself' }), rule: maybeText, natSource: maybeText, natDestination: maybeText,
  from: Type.Object({ zone: maybeText }), to: Type.Object({ interface: maybeText, zone: maybeText }),
  translated: Type.Object({ source: Type.String(), sourcePorts: Type.Array(port, { minItems: 2, maxItems: 2 }), destination: Type.String(), destinationPort: port }),
  nextHop: maybeText, peer: nullable(Type.String({ description: 'into a tunnel: the peer that has the destination among its allowed IPs' })),
});

export function registerSimulate(api: FastifyInstance, { control }: ApiContext): void {
  api.post<{ Body: SimulateBody }>('/api/v1/simulate', {
    config: { role: 'viewer', resource: 'simulate', audit: false },
    schema: {
      operationId: 'simulate', summary: 'Would this packet pass, and by which rule, route and translation?', tags: ['State'], body: Question,
      response: { 200: Type.Object({ question: Question, answer: Answer }) },
    },
  }, (request) => simulate(control, request.body));
}

async function simulate(control: Control, body: SimulateBody): Promise<object> {
  if (!control.applied) throw new ApiError(503, 'SLUICE_NOT_READY', 'no configuration is in force yet; wait for `sluice status --wait 30`');
  const asked = parseQuestion(body, control.applied.compiled.interfaces.map((one) => one.name));
  return { question: body, answer: await control.simulate(asked) };
}

const ICMP = 1;
const ICMPV6 = 58;
const ECHO_REQUEST = { [ICMP]: 8, [ICMPV6]: 128 } as const;

/** Throws ApiError. */
export function parseQuestion(body: SimulateBody, interfaces: readonly string[]): SimulateQuestion {
  const bad = (pointer: string, message: string): ApiError => new ApiError(400, 'SLUICE_API_ARGUMENT', message, pointer);
  const interfaceIndex = interfaces.indexOf(body.from);
  if (interfaceIndex < 0) throw bad('/from', `there is no interface '${body.from}'; interfaces are ${interfaces.join(', ') || 'none'}`);
  const address = (member: 'source' | 'destination'): bigint => {
    try {
      return parseAddress(body[member]);
    } catch (error) {
      if (error instanceof AddressError) throw bad(`/${member}`, `${error.message}; ${error.remedy}`);
      throw error;
    }
  };
  const source = address('source');
  const destination = address('destination');
  if (familyOf(source) !== familyOf(destination)) throw bad('/destination', 'source and destination are of two families');
  let protocol = protocolNumber(body.protocol);
  if (protocol === undefined) throw bad('/protocol', `'${body.protocol}' is no protocol; write tcp, udp, icmp, icmpv6 or a number from 0 to 255`);
  if (protocol === ICMP && familyOf(source) === 'ipv6') protocol = ICMPV6;
  const isIcmp = protocol === ICMP || protocol === ICMPV6;
  if (!isIcmp && (body.icmpType !== undefined || body.icmpCode !== undefined)) throw bad('/icmpType', `${body.protocol} has no ICMP type`);
  if ((body.protocol === 'tcp' || body.protocol === 'udp') && body.port === undefined) throw bad('/port', `${body.protocol} needs a destination port`);
  const type = isIcmp ? body.icmpType ?? ECHO_REQUEST[protocol as keyof typeof ECHO_REQUEST] : 0;
  return {
    interfaceIndex, source: bytesOf(source), destination: bytesOf(destination), protocol,
    sourcePort: body.sourcePort ?? (isIcmp ? 1 : 50000),
    destinationPort: isIcmp ? (type << 8) | (body.icmpCode ?? 0) : body.port ?? 0,
  };
}
