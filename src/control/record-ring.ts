// The most recent records of one kind, as the bytes in which they came; decoded when somebody asks. Who: src/control/control.ts.
// Bounds: `capacity` records of `recordBytes` each, allocated once; the oldest are overwritten. Each record has a sequence number
// from 1 on, so a follower asks for what came after the last one it saw.

export interface RingPage<T> { records: T[]; last: number; missed: number }

export class RecordRing {
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private written = 0;

  constructor(private readonly recordBytes: number, readonly capacity: number) {
    this.bytes = new Uint8Array(recordBytes * capacity);
    this.view = new DataView(this.bytes.buffer);
  }

  /** Sequence number of the newest record; 0: none yet. */
  get last(): number { return this.written; }

  /** Takes whole records; a cut one at the end is ignored. */
  push(records: Uint8Array): void {
    const count = Math.floor(records.length / this.recordBytes);
    for (let index = Math.max(0, count - this.capacity); index < count;) {
      const slot = (this.written + index) % this.capacity;
      const run = Math.min(count - index, this.capacity - slot); // to the ring's end at once
      this.bytes.set(records.subarray(index * this.recordBytes, (index + run) * this.recordBytes), slot * this.recordBytes);
      index += run;
    }
    this.written += count;
  }

  /** The newest `limit` records that `accept` takes, oldest first. */
  newest<T>(limit: number, decode: (view: DataView, offset: number) => T, accept: (record: T) => boolean): RingPage<T> {
    const records: T[] = [];
    const first = Math.max(0, this.written - this.capacity);
    for (let sequence = this.written - 1; sequence >= first && records.length < limit; sequence -= 1) {
      const record = decode(this.view, (sequence % this.capacity) * this.recordBytes);
      if (accept(record)) records.push(record);
    }
    return { records: records.reverse(), last: this.written, missed: 0 };
  }

  /** What came after sequence number `after`, oldest first; `missed`: overwritten before anybody asked. */
  since<T>(after: number, limit: number, decode: (view: DataView, offset: number) => T, accept: (record: T) => boolean): RingPage<T> {
    const records: T[] = [];
    const oldest = Math.max(0, this.written - this.capacity);
    // A number from before control's restart may be larger than any of ours: then all of ours are news.
    const start = after > this.written ? oldest : Math.max(after, oldest);
    let sequence = start;
    for (; sequence < this.written && records.length < limit; sequence += 1) {
      const record = decode(this.view, (sequence % this.capacity) * this.recordBytes);
      if (accept(record)) records.push(record);
    }
    return { records, last: sequence, missed: after > this.written ? oldest : start - after };
  }
}
