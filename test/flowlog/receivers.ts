// Receivers that take nothing on trust: syslog messages by the grammar of RFC 5424, octet counting of RFC 6587, IPFIX messages of RFC 7011.
// Written from the RFCs, not from the code that sends.
import { createSocket, type Socket as Datagrams } from 'node:dgram';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import { onTestFinished } from 'vitest';

// ---- syslog -----------------------------------------------------------------------------------------------------------

export interface SyslogMessage { priority: number; facility: number; severity: number; timestamp: string; hostName: string; appName: string; processId: string; messageId: string; structuredData: string; message: string }

const PRINT = '[\\x21-\\x7e]';
const SYSLOG = new RegExp(
  `^<(0|[1-9]\\d{0,2})>1 (-|\\d{4}-\\d{2}-\\d{2}T\\d{2}:\\d{2}:\\d{2}(?:\\.\\d{1,6})?(?:Z|[+-]\\d{2}:\\d{2})) (${PRINT}{1,255}) (${PRINT}{1,48}) (${PRINT}{1,128}) (${PRINT}{1,32}) (-|(?:\\[[^\\]]*\\])+)(?: ([^]*))?$`,
);

/** Throws at what RFC 5424 section 6 does not allow. */
export function parseSyslog(bytes: Buffer): SyslogMessage {
  const text = bytes.toString('latin1');
  const match = SYSLOG.exec(text);
  if (!match) throw new Error(`no syslog message: ${text.slice(0, 200)}`);
  const priority = Number(match[1]);
  if (priority > 191) throw new Error(`priority ${priority}`);
  if (match[2] !== '-' && Number.isNaN(Date.parse(match[2]!))) throw new Error(`timestamp ${match[2]}`);
  const message = match[8] ?? '';
  // Without a byte order mark nothing is said about the character set: then only ASCII is safe.
  if (!/^[\x20-\x7e]*$/.test(message)) throw new Error('message is not plain ASCII');
  return { priority, facility: priority >> 3, severity: priority & 7, timestamp: match[2]!, hostName: match[3]!, appName: match[4]!, processId: match[5]!, messageId: match[6]!, structuredData: match[7]!, message };
}

/** Splits a stream by octet counting: MSG-LEN SP MSG, with no leading zero. Throws at anything else. */
export class OctetCounter {
  private rest = Buffer.alloc(0);
  *push(chunk: Buffer): Generator<Buffer> {
    this.rest = Buffer.concat([this.rest, chunk]);
    for (;;) {
      const blank = this.rest.indexOf(0x20);
      if (blank < 0) {
        if (this.rest.length > 10) throw new Error(`no length in ${this.rest.subarray(0, 20).toString('latin1')}`);
        return;
      }
      const digits = this.rest.toString('latin1', 0, blank);
      if (!/^[1-9]\d{0,5}$/.test(digits)) throw new Error(`length '${digits}'`);
      const end = blank + 1 + Number(digits);
      if (this.rest.length < end) return;
      yield this.rest.subarray(blank + 1, end);
      this.rest = this.rest.subarray(end);
    }
  }
  /** Bytes of a message that is not whole. */
  get pending(): number { return this.rest.length; }
}

export interface Receiver<T> { port: number; messages: T[]; faults: Error[]; connections: number; sockets: Set<Socket>; stop(): Promise<void> }

interface StreamReceiverOptions { tls?: TlsOptions; port?: number; stalled?: boolean }

/** `split`: makes a splitter a connection. */
export async function receiveStream<T>(split: () => { push(chunk: Buffer): Iterable<Buffer> }, parse: (bytes: Buffer) => T, { tls, port = 0, stalled = false }: StreamReceiverOptions = {}): Promise<Receiver<T>> {
  const sockets = new Set<Socket>();
  const receiver: Receiver<T> = { port, messages: [], faults: [], connections: 0, sockets, stop: () => new Promise((resolve) => {
    server.close(() => resolve());
    for (const socket of sockets) socket.destroy();
  }) };
  const accept = (socket: Socket): void => {
    receiver.connections += 1;
    sockets.add(socket);
    const splitter = split();
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const message of splitter.push(chunk)) receiver.messages.push(parse(Buffer.from(message)));
      } catch (error) {
        receiver.faults.push(error as Error);
      }
    });
    if (stalled) socket.pause();
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
  };
  const server: Server = tls ? createTlsServer(tls, accept) : createServer(accept);
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  receiver.port = (server.address() as AddressInfo).port;
  onTestFinished(() => (server.listening ? receiver.stop() : undefined));
  return receiver;
}

export async function receiveDatagrams<T>(parse: (bytes: Buffer) => T, port = 0, address = '127.0.0.1'): Promise<Receiver<T>> {
  const socket: Datagrams = createSocket({ type: address.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 8 * 1024 * 1024 });
  let isOpen = true;
  const receiver: Receiver<T> = { port, messages: [], faults: [], connections: 0, sockets: new Set(), stop: () => new Promise((resolve) => {
    isOpen = false;
    socket.close(() => resolve());
  }) };
  socket.on('message', (bytes) => {
    try {
      receiver.messages.push(parse(bytes));
    } catch (error) {
      receiver.faults.push(error as Error);
    }
  });
  await new Promise<void>((resolve) => socket.bind(port, address, resolve));
  receiver.port = socket.address().port;
  onTestFinished(() => (isOpen ? receiver.stop() : undefined));
  return receiver;
}

// ---- IPFIX ------------------------------------------------------------------------------------------------------------

export interface IpfixField { element: number; enterprise: number; length: number }
interface Template { fields: IpfixField[]; scopes: number }
export type IpfixValue = Buffer;
export interface IpfixRecord { template: number; isOptions: boolean; values: Map<string, IpfixValue> }
export interface IpfixMessage { bytes: number; exportTime: number; sequence: number; domain: number; templates: number[]; records: IpfixRecord[] }

/** Messages of a TCP session: each says its own length (RFC 7011 section 3.1). */
export class IpfixSplitter {
  private rest = Buffer.alloc(0);
  *push(chunk: Buffer): Generator<Buffer> {
    this.rest = Buffer.concat([this.rest, chunk]);
    while (this.rest.length >= 4) {
      if (this.rest.readUInt16BE(0) !== 10) throw new Error(`version ${this.rest.readUInt16BE(0)}`);
      const length = this.rest.readUInt16BE(2);
      if (length < 16) throw new Error(`length ${length}`);
      if (this.rest.length < length) return;
      yield this.rest.subarray(0, length);
      this.rest = this.rest.subarray(length);
    }
  }
}

/** A collecting process: keeps templates of one transport session. Throws at what RFC 7011 does not allow, and at data without a template. */
export class IpfixDecoder {
  private readonly templates = new Map<number, Template>();

  decode(bytes: Buffer): IpfixMessage {
    if (bytes.length < 16 || bytes.readUInt16BE(0) !== 10) throw new Error('no IPFIX message');
    if (bytes.readUInt16BE(2) !== bytes.length) throw new Error(`length ${bytes.readUInt16BE(2)} of ${bytes.length} bytes`);
    const message: IpfixMessage = { bytes: bytes.length, exportTime: bytes.readUInt32BE(4), sequence: bytes.readUInt32BE(8), domain: bytes.readUInt32BE(12), templates: [], records: [] };
    let at = 16;
    while (at < bytes.length) {
      if (at + 4 > bytes.length) throw new Error('a set header is cut');
      const id = bytes.readUInt16BE(at);
      const length = bytes.readUInt16BE(at + 2);
      if (length < 4 || at + length > bytes.length) throw new Error(`set ${id} of ${length} bytes at ${at} of ${bytes.length}`);
      const set = bytes.subarray(at + 4, at + length);
      if (id === 2 || id === 3) this.templateSet(set, id === 3, message);
      else if (id >= 256) this.dataSet(id, set, message);
      else throw new Error(`set id ${id} is reserved`);
      at += length;
    }
    return message;
  }

  private templateSet(set: Buffer, isOptions: boolean, message: IpfixMessage): void {
    let at = 0;
    while (set.length - at >= 4) { // less is padding
      const id = set.readUInt16BE(at);
      const count = set.readUInt16BE(at + 2);
      at += 4;
      if (id < 256) throw new Error(`template id ${id}`);
      if (count === 0) throw new Error('a template withdrawal');
      let scopes = 0;
      if (isOptions) {
        scopes = set.readUInt16BE(at);
        at += 2;
        if (scopes === 0 || scopes > count) throw new Error(`${scopes} scope fields of ${count}`);
      }
      const fields: IpfixField[] = [];
      for (let n = 0; n < count; n += 1) {
        const element = set.readUInt16BE(at);
        const length = set.readUInt16BE(at + 2);
        at += 4;
        let enterprise = 0;
        if (element & 0x8000) {
          enterprise = set.readUInt32BE(at);
          at += 4;
        }
        fields.push({ element: element & 0x7fff, enterprise, length });
      }
      this.templates.set(id, { fields, scopes });
      message.templates.push(id);
    }
  }

  private dataSet(id: number, set: Buffer, message: IpfixMessage): void {
    const template = this.templates.get(id);
    if (!template) throw new Error(`data for template ${id}, which was not sent`);
    const bytesMin = template.fields.reduce((sum, { length }) => sum + (length === 0xffff ? 1 : length), 0);
    let at = 0;
    while (set.length - at >= bytesMin) {
      const values = new Map<string, IpfixValue>();
      for (const { element, enterprise, length } of template.fields) {
        let size = length;
        if (length === 0xffff) {
          size = set.readUInt8(at);
          at += 1;
          if (size === 255) {
            size = set.readUInt16BE(at);
            at += 2;
          }
        }
        if (at + size > set.length) throw new Error('a record is cut');
        values.set(enterprise === 0 ? String(element) : `${enterprise}/${element}`, set.subarray(at, at + size));
        at += size;
      }
      message.records.push({ template: id, isOptions: template.scopes > 0, values });
    }
    if (set.subarray(at).some((byte) => byte !== 0) || set.length - at >= 4) throw new Error(`${set.length - at} bytes are left in a set`);
  }
}
