// Messages of RFC 5424 around a record's JSON line: `<PRI>1 TIME HOST sluice - MSGID - JSON`. Over TCP and TLS each is preceded by its length
// (RFC 6587 section 3.4.1, RFC 5425 section 4.3); over UDP each is a datagram. MSG is plain ASCII, so it needs no byte order mark.
// Who: stream.ts. The header repeats nothing that was redacted: its time is the record's unless that is, its MSGID the event unless that is,
// its severity a log line's level unless that is.
import { Treatment, type FieldPlan } from './fields.js';
import { JsonFormat } from './json.js';
import { Drop, dropEvent, Flow, RECORD_EVENTS } from './layout.js';
import type { NameTexts } from './names.js';
import { asciiJson, readMilliseconds, snippet, type Output, type Snippet } from './output.js';
import type { StreamType } from './fields.js';

const SEVERITY = { EMERGENCY: 0, ALERT: 1, CRITICAL: 2, ERROR: 3, WARNING: 4, NOTICE: 5, INFO: 6, DEBUG: 7 } as const;
const OF_LEVEL: Record<string, number> = { fatal: SEVERITY.CRITICAL, error: SEVERITY.ERROR, warn: SEVERITY.WARNING, info: SEVERITY.INFO, debug: SEVERITY.DEBUG, trace: SEVERITY.DEBUG };
const FACILITY: Record<StreamType, number> = { flow: 16, firewall: 16, audit: 13, system: 3 }; // local0, log audit, system daemons

const VERSION = snippet('>1 ');
const NIL = snippet('-');
const SPACE = 32;
const LESS_THAN = 60;
/** Most messages have a length of three digits: the place that is kept for it, with its blank. */
const PREFIX_BYTES = 4;

export class SyslogFormat {
  private readonly json: JsonFormat;
  private readonly facility: number;
  private readonly beforeMessageId: Snippet;
  private readonly afterMessageId = snippet(' - ');
  private readonly eventIds: readonly Snippet[];
  private readonly hidesTime: boolean;
  private readonly hidesLevel: boolean;
  /** Where each message ends in what was written since the last take. */
  ends: number[] = [];

  constructor(private readonly out: Output, plan: FieldPlan, private readonly type: StreamType, hostName: string, facility: number | undefined, private readonly isCounted: boolean) {
    this.json = new JsonFormat(out, plan);
    this.facility = facility ?? FACILITY[type];
    this.beforeMessageId = snippet(` ${printable(hostName, 255)} sluice - `);
    this.hidesTime = plan.places.time !== Treatment.KEEP;
    this.hidesLevel = plan.members.has('level');
    this.eventIds = RECORD_EVENTS.map((event) => (plan.places.event === Treatment.KEEP ? snippet(event) : snippet(type)));
  }

  flow(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const start = readMilliseconds(view, offset + Flow.START);
    const last = readMilliseconds(view, offset + Flow.LAST);
    const at = this.open(SEVERITY.INFO, this.hidesTime ? undefined : Math.max(start, last), this.eventIds[bytes[offset + Flow.EVENT]!] ?? NIL);
    this.json.flow(view, bytes, offset, names);
    this.close(at);
  }

  drop(view: DataView, bytes: Uint8Array, offset: number, names: NameTexts): void {
    const at = this.open(SEVERITY.NOTICE, this.hidesTime ? undefined : readMilliseconds(view, offset + Drop.TIME), this.eventIds[dropEvent(bytes[offset + Drop.REASON]!)]!);
    this.json.drop(view, bytes, offset, names);
    this.close(at);
  }

  entry(entry: Readonly<Record<string, unknown>>): void {
    const time = this.hidesTime ? NaN : Date.parse(String(entry['time']));
    const severity = this.type === 'system' && !this.hidesLevel ? OF_LEVEL[String(entry['level'])] ?? SEVERITY.INFO : this.type === 'system' ? SEVERITY.INFO : SEVERITY.NOTICE;
    // An entry has no bound but its writer's: make room before it.
    this.out.reserve(asciiJson(entry).length + 1024);
    const at = this.open(severity, Number.isNaN(time) ? undefined : time, snippet(this.type));
    this.json.entry(entry);
    this.close(at);
  }

  private open(severity: number, timeMs: number | undefined, messageId: Snippet): number {
    const { out } = this;
    out.reserve();
    const at = out.at;
    if (this.isCounted) out.at += PREFIX_BYTES;
    out.byte(LESS_THAN);
    out.decimal(this.facility * 8 + severity);
    out.text(VERSION);
    if (timeMs === undefined) out.text(NIL);
    else out.time(timeMs);
    out.text(this.beforeMessageId);
    out.text(messageId);
    out.text(this.afterMessageId);
    return at;
  }

  private close(at: number): void {
    const { out, isCounted } = this;
    if (isCounted) {
      const end = out.at;
      const length = end - at - PREFIX_BYTES;
      const digits = length < 100 ? 2 : length < 1000 ? 3 : length < 10_000 ? 4 : String(length).length;
      const shift = digits + 1 - PREFIX_BYTES;
      if (shift !== 0) {
        out.reserve(16);
        out.bytes.copyWithin(at + digits + 1, at + PREFIX_BYTES, end);
      }
      out.at = at;
      out.decimal(length);
      out.byte(SPACE);
      out.at = end + shift;
    }
    this.ends.push(out.at);
  }
}

/** HOSTNAME is printable ASCII without blanks. */
function printable(text: string, bytesMax: number): string {
  return text.replace(/[^\x21-\x7e]/g, '-').slice(0, bytesMax) || '-';
}
