// Whoever follows records live: each with criteria of its own and a bounded buffer. A slow reader loses records, is told how many, and
// holds up nobody. Who: src/api/routes/observe.ts adds one a connection; FlowLog feeds them. Bounds: OBSERVERS_MAX, UNSENT_BYTES_MAX each.
import { DROP_RECORD_BYTES, FLOW_RECORD_BYTES } from '../engine/abi.generated.js';
import { JsonFormat } from './json.js';
import { compileMatch, type Criteria, type RecordMatch } from './match.js';
import type { NameTexts } from './names.js';
import { Output } from './output.js';
import type { RecordSpan } from './stream.js';

export const OBSERVERS_MAX = 32;
const UNSENT_BYTES_MAX = 4 * 1024 * 1024;
const NEWLINE = 10;

/** Where lines go: a response. */
export interface LineWriter { write(bytes: Buffer): boolean; readonly writableLength: number }

export class Observer {
  private readonly match: RecordMatch;
  private readonly out = new Output(64 * 1024);
  private readonly format = new JsonFormat(this.out);
  private records = 0;
  private lostSince = 0;
  lost = 0;

  /** `from`: the first record, counted from the start of all, that is live for it. Throws CriteriaError. */
  constructor(criteria: Criteria, private readonly to: LineWriter, readonly from: number) { this.match = compileMatch(criteria, undefined); }

  flows({ view, bytes, offset, count }: RecordSpan, names: NameTexts): void {
    for (let at = offset, end = offset + count * FLOW_RECORD_BYTES; at < end; at += FLOW_RECORD_BYTES) {
      if (!this.match.flow(view, bytes, at, names)) continue;
      this.format.flow(view, bytes, at, names);
      this.line();
    }
  }

  drops({ view, bytes, offset, count }: RecordSpan, names: NameTexts): void {
    for (let at = offset, end = offset + count * DROP_RECORD_BYTES; at < end; at += DROP_RECORD_BYTES) {
      if (!this.match.drop(view, bytes, at, names)) continue;
      this.format.drop(view, bytes, at, names);
      this.line();
    }
  }

  /** Also told when nothing more comes: how many a slow reader did not get. */
  flush(): void {
    if (this.records === 0 && this.lostSince === 0) return;
    if (this.to.writableLength > UNSENT_BYTES_MAX) {
      this.lost += this.records;
      this.lostSince += this.records;
      this.records = 0;
      this.out.at = 0;
      return;
    }
    if (this.lostSince > 0) this.to.write(Buffer.from(`{"kind":"lost","records":${this.lostSince}}\n`));
    this.lostSince = 0;
    if (this.records > 0) this.to.write(this.out.take());
    this.records = 0;
  }

  private line(): void {
    this.out.byte(NEWLINE);
    this.records += 1;
  }
}

export class Observers {
  private readonly list = new Set<Observer>();
  lost = 0;

  get count(): number { return this.list.size; }
  get isFull(): boolean { return this.list.size >= OBSERVERS_MAX; }

  /** Answers how to end it. */
  add(criteria: Criteria, to: LineWriter, from = 0): () => void {
    const observer = new Observer(criteria, to, from);
    this.list.add(observer);
    return () => {
      if (this.list.delete(observer)) this.lost += observer.lost;
    };
  }

  get lostInAll(): number { return [...this.list].reduce((sum, { lost }) => sum + lost, this.lost); }

  /** `nth`: which of all records is the span's first. A span is of one batch, and somebody joins between batches. */
  flows(span: RecordSpan, names: NameTexts, nth = 0): void { for (const one of this.list) if (nth >= one.from) one.flows(span, names); }
  drops(span: RecordSpan, names: NameTexts, nth = 0): void { for (const one of this.list) if (nth >= one.from) one.drops(span, names); }
  flush(): void { for (const one of this.list) one.flush(); }
}
