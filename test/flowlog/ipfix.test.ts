// RFC 7011: messages, templates, sequence numbers, over UDP and TCP, to a collector written from the RFC. Element numbers are IANA's.
import { describe, expect, onTestFinished, test } from 'vitest';
import type { LogConfig } from '../../src/config/schema-observability.js';
import { DROP_RECORD_BYTES, DropReason, EndReason, FLOW_RECORD_BYTES, FlowEvent, readDropRecord, readFlowRecord } from '../../src/engine/abi.generated.js';
import { viewOf, type Names } from '../../src/engine/records.js';
import { IpfixFormat, IpfixSequence, MESSAGE_BYTES_UDP } from '../../src/flowlog/ipfix.js';
import { planFields } from '../../src/flowlog/fields.js';
import type { Run } from '../../src/flowlog/sink.js';
import { Stream } from '../../src/flowlog/stream.js';
import { makeDrop, makeFlow } from '../control/bench.js';
import { IpfixDecoder, IpfixSplitter, receiveDatagrams, receiveStream, type IpfixMessage, type IpfixRecord, type Receiver } from './receivers.js';
import { NameTexts } from '../../src/flowlog/names.js';
import { names, nameTexts, randomDrops, randomFlows, spanOf } from './support.js';

const INTERFACES = [{ id: 1, name: 'trust' }, { id: 2, name: 'untrust' }];

function open(config: Partial<LogConfig>): Stream {
  const stream = new Stream('test', { type: 'flow', to: 'ipfix', ...config }, { directory: '/nowhere', hostName: 'nva-1', interfaces: () => INTERFACES, log: () => undefined });
  onTestFinished(() => stream.close(0));
  return stream;
}

const dataOf = (messages: readonly IpfixMessage[]): IpfixRecord[] => messages.flatMap(({ records }) => records).filter(({ isOptions }) => !isOptions);
const isIpv4 = (address: Uint8Array): boolean => Buffer.from(address).toString('hex').startsWith('00000000000000000000ffff');
const number = (record: IpfixRecord, element: string): bigint => BigInt(`0x${record.values.get(element)!.toString('hex')}`);
const received = (receiver: Receiver<IpfixMessage>, count: number): Promise<void> => expect.poll(() => dataOf(receiver.messages).length).toBe(count);

/** Section 3.1: the sequence number counts the data records, of options too, sent before in this session and domain. */
function expectSequence(messages: readonly IpfixMessage[]): void {
  let next = 0;
  for (const message of messages) {
    expect(message.sequence).toBe(next);
    next += message.records.length;
  }
}

describe.each(['udp', 'tcp'] as const)('over %s', (transport) => {
  test('every flow and drop, each value where IANA puts it', async () => {
    let decoder = new IpfixDecoder();
    const receiver = transport === 'udp' ? await receiveDatagrams((bytes) => decoder.decode(bytes))
      : await receiveStream(() => {
        decoder = new IpfixDecoder();
        return new IpfixSplitter();
      }, (bytes) => decoder.decode(bytes));
    const stream = open({ address: `127.0.0.1:${receiver.port}`, transport, observationDomain: 42, enterprise: 55_555 });
    await expect.poll(() => receiver.messages.length).toBeGreaterThan(0);
    const flows = randomFlows(400, 31);
    const drops = randomDrops(200, 32);
    const withTunnel: Names = { ...names, peerOf: (id, bytes) => (id === 3 ? `peer-${bytes[15]}` : undefined) };
    stream.flows(spanOf(flows, FLOW_RECORD_BYTES), new NameTexts(withTunnel));
    stream.drops(spanOf(drops, DROP_RECORD_BYTES), new NameTexts(withTunnel));
    stream.flush();
    await received(receiver, 600);
    expect(receiver.faults).toEqual([]);
    expect(receiver.messages[0]).toMatchObject({ domain: 42, templates: [256, 257, 258, 259, 260] });
    expect(receiver.messages[0]!.records.map(({ values }) => [values.get('10')!.readUInt32BE(), values.get('82')!.toString()])).toEqual([[1, 'trust'], [2, 'untrust']]);
    expectSequence(receiver.messages);
    for (const { exportTime, bytes } of receiver.messages) {
      expect(Math.abs(exportTime - Date.now() / 1000)).toBeLessThan(60);
      if (transport === 'udp') expect(bytes).toBeLessThanOrEqual(MESSAGE_BYTES_UDP);
    }
    const records = dataOf(receiver.messages);
    records.slice(0, 400).forEach((record, index) => {
      const flow = readFlowRecord(viewOf(flows), index * FLOW_RECORD_BYTES);
      const v4 = isIpv4(flow.src);
      const address = (bytes: Uint8Array): string => Buffer.from(v4 ? bytes.subarray(12) : bytes).toString('hex');
      expect(record.template).toBe(v4 ? 256 : 257);
      const hex = (element: number): string => record.values.get(String(element))!.toString('hex');
      expect([hex(v4 ? 8 : 27), hex(v4 ? 12 : 28), hex(v4 ? 225 : 281), hex(v4 ? 226 : 282)]).toEqual([flow.src, flow.dst, flow.natSrc, flow.natDst].map(address));
      const isTranslated = Buffer.compare(flow.src, flow.natSrc) !== 0 || Buffer.compare(flow.dst, flow.natDst) !== 0 || flow.srcPort !== flow.natSrcPort;
      const expected: Record<string, bigint> = {
        148: flow.sessionId, 152: flow.startNs / 1_000_000n, 153: flow.lastNs / 1_000_000n, 7: BigInt(flow.srcPort), 11: BigInt(flow.dstPort), 227: BigInt(flow.natSrcPort), 228: BigInt(flow.natDstPort),
        4: BigInt(flow.protocol), 85: flow.bytes[0]!, '29305/85': flow.bytes[1]!, 86: flow.packets[0]!, '29305/86': flow.packets[1]!, 231: flow.bytes[0]!, 232: flow.bytes[1]!, 298: flow.packets[0]!, 299: flow.packets[1]!, 6: flow.protocol === 6 ? BigInt(flow.tcpFlags[0]! | flow.tcpFlags[1]!) : 0n,
        10: BigInt(flow.fromInterface), 14: BigInt(flow.toInterface),
        233: flow.event === FlowEvent.START ? 1n : flow.event === FlowEvent.END ? 2n : 5n,
        230: !isTranslated ? 0n : flow.event === FlowEvent.START ? 4n : flow.event === FlowEvent.END ? 5n : 0n,
      };
      for (const [element, value] of Object.entries(expected)) expect([element, number(record, element)]).toEqual([element, value]);
      expect([1, 2, 3].map((element) => record.values.get(`55555/${element}`)!.toString())).toEqual([names.rule(flow.ruleId) ?? '', names.zoneOfInterface(flow.fromInterface) ?? '', names.zoneOfInterface(flow.toInterface) ?? '']);
      expect([5, 6].map((element) => record.values.get(`55555/${element}`)!.toString())).toEqual([flow.fromInterface === 3 ? `peer-${flow.src[15]}` : '', flow.toInterface === 3 ? `peer-${flow.natDst[15]}` : '']);
    });
    records.slice(400).forEach((record, index) => {
      const drop = readDropRecord(viewOf(drops), index * DROP_RECORD_BYTES);
      const isDenied = drop.reason === DropReason.POLICY_DENY || drop.reason === DropReason.POLICY_REJECT;
      expect([number(record, '323'), number(record, '352'), number(record, '233'), number(record, '89'), number(record, '10')]).toEqual([drop.timeNs / 1_000_000n, BigInt(drop.bytes), isDenied ? 3n : 4n, isDenied ? 129n : 128n, BigInt(drop.interface)]);
      expect([3, 5, 6].map((element) => record.values.get(`55555/${element}`)!.toString())).toEqual([
        names.zoneOfInterface(drop.toInterface) ?? '', drop.interface === 3 ? `peer-${drop.src[15]}` : '', drop.toInterface === 3 ? `peer-${drop.natDst[15]}` : '']);
      const v4 = isIpv4(drop.src) && isIpv4(drop.dst) && isIpv4(drop.natSrc) && isIpv4(drop.natDst);
      expect(record.template).toBe(v4 ? 258 : 259);
      const hex = (bytes: Uint8Array): string => Buffer.from(v4 ? bytes.subarray(12) : bytes).toString('hex');
      expect((v4 ? [8, 12, 225, 226] : [27, 28, 281, 282]).map((element) => record.values.get(String(element))!.toString('hex'))).toEqual([drop.src, drop.dst, drop.natSrc, drop.natDst].map(hex));
      expect([7, 11, 227, 228, 6, 14].map((element) => number(record, String(element)))).toEqual(
        [drop.srcPort, drop.dstPort, drop.natSrcPort, drop.natDstPort, drop.tcpFlagsKnown === 0 ? 0 : drop.tcpFlags, drop.toInterface].map(BigInt));
    });
  });
});

describe('sessions', () => {
  test('a new TCP connection starts with templates and counts from 0', async () => {
    const perConnection: IpfixMessage[][] = [];
    const make = (port?: number): Promise<Receiver<IpfixMessage>> => {
      const decoder = new IpfixDecoder();
      const messages: IpfixMessage[] = [];
      perConnection.push(messages);
      return receiveStream(() => new IpfixSplitter(), (bytes) => {
        const message = decoder.decode(bytes);
        messages.push(message);
        return message;
      }, port === undefined ? {} : { port });
    };
    const first = await make();
    const stream = open({ address: `127.0.0.1:${first.port}`, transport: 'tcp' });
    const send = (): void => {
      stream.flows(spanOf(randomFlows(50, 2), FLOW_RECORD_BYTES), nameTexts());
      stream.flush();
    };
    send();
    await received(first, 50);
    await first.stop();
    await expect.poll(() => stream.stats.connected).toBe(false);
    const second = await make(first.port);
    send();
    await received(second, 50);
    for (const messages of perConnection) {
      expect(messages[0]!.templates).toHaveLength(5);
      expectSequence(messages);
    }
  });

  test('interfaces that a commit named anew are told on a connection that is there, in its sequence', async () => {
    const decoder = new IpfixDecoder();
    const receiver = await receiveStream(() => new IpfixSplitter(), (bytes) => decoder.decode(bytes));
    const stream = open({ address: `127.0.0.1:${receiver.port}`, transport: 'tcp' });
    const send = (): void => {
      stream.flows(spanOf(randomFlows(50, 2), FLOW_RECORD_BYTES), nameTexts());
      stream.flush();
    };
    await expect.poll(() => stream.stats.connected).toBe(true);
    send();
    stream.nameInterfaces([...INTERFACES, { id: 3, name: 'dmz' }]);
    send();
    await received(receiver, 100);
    expect(receiver.faults).toEqual([]);
    const named = receiver.messages.map(({ records }) => records.filter(({ isOptions }) => isOptions).map(({ values }) => values.get('82')!.toString())).filter(({ length }) => length > 0);
    expect(named).toEqual([['trust', 'untrust'], ['trust', 'untrust', 'dmz']]);
    expectSequence(receiver.messages);
    expect(stream.stats.sent).toBe(100);
  });

  test('a message holds as much as its bound allows, and no record is cut', () => {
    const runs: Run[] = [];
    const format = new IpfixFormat({ observationDomain: 1, messageBytesMax: 600, enterprise: 9 }, planFields(), new IpfixSequence(), (run) => void runs.push(run));
    const decoder = new IpfixDecoder();
    decoder.decode(format.templateMessage(0, []));
    const flows = randomFlows(200, 5);
    const drops = randomDrops(200, 6);
    const texts = nameTexts();
    for (let index = 0; index < 200; index += 1) {
      format.flow(viewOf(flows), flows, index * FLOW_RECORD_BYTES, texts);
      format.drop(viewOf(drops), drops, index * DROP_RECORD_BYTES, texts);
    }
    format.flush();
    const messages = runs.map((run) => {
      run.stamp!(1_700_000_000_000);
      return decoder.decode(Buffer.from(run.bytes));
    });
    expect(messages.flatMap(({ records }) => records)).toHaveLength(400);
    expectSequence(messages);
    expect(messages.every(({ bytes, exportTime }) => bytes <= 600 && exportTime === 1_700_000_000)).toBe(true);
    expect(runs.every((run, index) => run.records === messages[index]!.records.length)).toBe(true);
  });
});

test('what is redacted or dropped is in no template and no record', () => {
  const runs: Run[] = [];
  const format = new IpfixFormat({ observationDomain: 1, messageBytesMax: 1400 }, planFields(['destination'], ['source', 'interface', 'bytes']), new IpfixSequence(), (run) => void runs.push(run));
  const templates = format.templateMessage(0, [{ id: 1, name: 'secret-name' }]);
  const flow = makeFlow({ source: '11.22.33.44', destination: '55.66.77.88', natSource: '99.111.122.133', endReason: EndReason.TCP_FIN, event: 2, fromInterface: 0x11223355, bytes: [0x66778899n, 0x66778899n] });
  format.flow(viewOf(flow), flow, 0, nameTexts());
  const drop = makeDrop({ source: '11.22.33.44' });
  format.drop(viewOf(drop), drop, 0, nameTexts());
  format.flush();
  const decoder = new IpfixDecoder();
  expect(decoder.decode(templates).templates).toEqual([256, 257, 258, 259]);
  const { records } = decoder.decode(Buffer.from(runs[0]!.bytes));
  for (const { values } of records) for (const element of ['8', '12', '225', '226', '10', '14', '231', '352']) expect(values.has(element)).toBe(false);
  expect(number(records[0]!, '136')).toBe(3n);
  const hex = templates.toString('hex') + runs[0]!.bytes.toString('hex');
  for (const secret of ['0b16212c', '37424d58', '636f7a85', '11223355', '66778899', Buffer.from('secret-name').toString('hex')]) expect(hex).not.toContain(secret);
});
