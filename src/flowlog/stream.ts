// One log stream of the configuration: what it wants (match), what it leaves out (fields), how it writes (format), where to (sink).
// Who: FlowLog makes and feeds them. Thread: control's main thread. A stream never waits and never throws.
import { dirname, resolve } from 'node:path';
import { BUFFER_MEGABYTES_DEFAULT, FILE_BUFFER_MEGABYTES_DEFAULT, ROTATE_FILES_DEFAULT, ROTATE_MEGABYTES_DEFAULT, type LogConfig } from '../config/schema-observability.js';
import { parseEndpoint } from '../config/check-observability.js';
import { asList } from '../config/schema-parts.js';
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES, FlowEvent } from '../engine/abi.generated.js';
import { ConnectionSink } from './connection-sink.js';
import { criteriaOf } from './criteria.js';
import { DatagramSink } from './datagram-sink.js';
import { planFields, type StreamType } from './fields.js';
import { FileSink } from './file-sink.js';
import { IpfixFormat, IpfixSequence, MESSAGE_BYTES_TCP, MESSAGE_BYTES_UDP, TEMPLATE_REPEAT_MS } from './ipfix.js';
import { JsonFormat } from './json.js';
import { Flow } from './layout.js';
import { compileEntryMatch, compileMatch, type EntryMatch, type RecordMatch } from './match.js';
import type { NameTexts } from './names.js';
import { Output, RUN_BYTES } from './output.js';
import type { Run, Sink, SinkLog, SinkStats } from './sink.js';
import { StdoutSink } from './stdout-sink.js';
import { SyslogFormat } from './syslog.js';

const MEGABYTE = 1024 * 1024;
const NEWLINE = 10;

export interface StreamSettings {
  /** Where relative paths stand. */
  directory: string;
  hostName: string;
  interfaces(): readonly { id: number; name: string }[];
  log: SinkLog;
}

/** Records of one batch, one after another. */
export interface RecordSpan { view: DataView; bytes: Uint8Array; offset: number; count: number }

interface Format {
  flow(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void;
  drop(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void;
  entry(entry: Readonly<Record<string, unknown>>): void;
}

export class Stream {
  readonly type: StreamType;
  private readonly sink: Sink;
  private readonly match: RecordMatch;
  private readonly entryMatch: EntryMatch;
  private readonly out = new Output();
  private readonly format: Format;
  private readonly syslog: SyslogFormat | undefined;
  private readonly ipfix: IpfixFormat | undefined;
  private readonly endsLines: boolean;
  private readonly onlyDecisions: boolean;
  private records = 0;

  /** `config` has passed check-observability.ts. */
  constructor(readonly name: string, readonly config: LogConfig, settings: StreamSettings) {
    this.type = config.type;
    this.onlyDecisions = config.type === 'firewall';
    const include = criteriaOf(config.include);
    const exclude = criteriaOf(config.exclude);
    const isRecords = config.type === 'flow' || config.type === 'firewall';
    this.match = isRecords ? compileMatch(include, exclude) : compileMatch(undefined, undefined);
    this.entryMatch = isRecords ? () => false : compileEntryMatch(include, exclude);
    const plan = planFields(asList<string>(config.drop), asList<string>(config.redact));
    const bufferBytes = (config.bufferMegabytes ?? (config.to === 'file' ? FILE_BUFFER_MEGABYTES_DEFAULT : BUFFER_MEGABYTES_DEFAULT)) * MEGABYTE;
    const { host, port } = parseEndpoint(config.address ?? '') ?? { host: '', port: 0 };
    const isTls = config.tls !== undefined && config.tls !== false;
    const isTcp = isTls || config.transport === 'tcp';
    this.endsLines = config.to === 'file' || config.to === 'stdout';
    switch (config.to) {
      case 'file': {
        this.format = new JsonFormat(this.out, plan);
        const { rotate } = config;
        this.sink = new FileSink(logPath(settings.directory, config.path ?? `${name}.jsonl`), {
          bytes: (rotate?.megabytes ?? ROTATE_MEGABYTES_DEFAULT) * MEGABYTE, files: rotate?.files ?? ROTATE_FILES_DEFAULT, gzip: rotate?.gzip ?? false,
          ...(rotate?.hours === undefined ? {} : { hours: rotate.hours }),
        }, bufferBytes, settings.log);
        break;
      }
      case 'stdout':
        this.format = new JsonFormat(this.out, plan);
        this.sink = new StdoutSink(bufferBytes, settings.log);
        break;
      case 'syslog':
        this.syslog = new SyslogFormat(this.out, plan, config.type, settings.hostName, config.facility, isTcp);
        this.format = this.syslog;
        this.sink = isTcp
          ? new ConnectionSink({ host, port, bufferBytes, ...(isTls ? { tls: typeof config.tls === 'object' ? config.tls : {} } : {}) }, settings.log)
          : new DatagramSink({ host, port, bufferBytes }, settings.log);
        break;
      case 'ipfix': {
        const sequence = new IpfixSequence();
        const options = {
          observationDomain: config.observationDomain ?? 1, messageBytesMax: isTcp ? MESSAGE_BYTES_TCP : MESSAGE_BYTES_UDP,
          ...(config.enterprise === undefined ? {} : { enterprise: config.enterprise }),
        };
        const ipfix = new IpfixFormat(options, plan, sequence, (run) => this.sink.push(run));
        this.ipfix = ipfix;
        this.format = { flow: (...args) => ipfix.flow(...args), drop: (...args) => ipfix.drop(...args), entry: () => undefined };
        const greet = (): Buffer => {
          sequence.next = 0; // numbers belong to a transport session
          return ipfix.templateMessage(Date.now(), settings.interfaces());
        };
        this.sink = isTcp
          ? new ConnectionSink({ host, port, bufferBytes, greet }, settings.log)
          : new DatagramSink({ host, port, bufferBytes, repeat: { everyMs: TEMPLATE_REPEAT_MS, message: (nowMs) => ipfix.templateMessage(nowMs, settings.interfaces()) } }, settings.log);
      }
    }
  }

  get stats(): SinkStats { return this.sink.stats; }

  flows({ view, bytes, offset, count }: RecordSpan, names: NameTexts): void {
    const { match, format, onlyDecisions, endsLines } = this;
    for (let at = offset, end = offset + count * FLOW_RECORD_BYTES; at < end; at += FLOW_RECORD_BYTES) {
      // Of a session's events its start is the rule's decision.
      if (onlyDecisions && bytes[at + Flow.EVENT] !== FlowEvent.START) continue;
      if (!match.flow(view, bytes, at, names)) continue;
      format.flow(view, bytes, at, names);
      if (endsLines) this.out.byte(NEWLINE);
      this.wrote();
    }
  }

  drops({ view, bytes, offset, count }: RecordSpan, names: NameTexts): void {
    const { match, format, endsLines } = this;
    for (let at = offset, end = offset + count * DROP_RECORD_BYTES; at < end; at += DROP_RECORD_BYTES) {
      if (!match.drop(view, bytes, at, names)) continue;
      format.drop(view, bytes, at, names);
      if (endsLines) this.out.byte(NEWLINE);
      this.wrote();
    }
  }

  entry(entry: Readonly<Record<string, unknown>>): void {
    if (!this.entryMatch(entry)) return;
    this.format.entry(entry);
    if (this.endsLines) {
      this.out.reserve(1);
      this.out.byte(NEWLINE);
    }
    this.wrote();
  }

  /** Interfaces were named anew. Over UDP it is repeated anyway, a connection begins with it, and one that is away begins again. */
  nameInterfaces(interfaces: readonly { id: number; name: string }[]): void {
    if (!this.ipfix || !(this.sink instanceof ConnectionSink) || !this.stats.connected) return;
    const run = this.ipfix.namesRun(interfaces);
    if (run) this.sink.push(run);
  }

  private wrote(): void {
    if (this.ipfix) return; // it flushes full messages itself
    this.records += 1;
    if (this.out.at >= RUN_BYTES) this.flush();
  }

  /** Hands over what was written: at the end of each batch. */
  flush(): void {
    if (this.ipfix) {
      this.ipfix.flush();
      return;
    }
    if (this.records === 0) return;
    const { records } = this;
    this.records = 0;
    const bytes = this.out.take();
    const run: Run = { bytes, records, done: () => this.out.giveBack(bytes) };
    if (this.syslog) {
      run.ends = this.syslog.ends;
      this.syslog.ends = [];
    }
    this.sink.push(run);
  }

  async close(graceMs: number): Promise<void> {
    this.flush();
    await this.sink.close(graceMs);
  }
}

/** A log must not write into, or rotate, what else the appliance keeps: its configurations, its audit log. */
function logPath(directory: string, path: string): string {
  const state = dirname(directory);
  const to = resolve(directory, path);
  if (isWithin(state, to) && !isWithin(directory, to)) throw new Error(`${to} is a place of the appliance's own files; choose one under ${directory}, or outside ${state}`);
  return to;
}

const isWithin = (directory: string, path: string): boolean => path.startsWith(`${directory}/`);
