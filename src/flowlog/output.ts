// A buffer that records are written into byte by byte: what makes a hundred thousand lines a second cheap. No strings, no objects.
// Who: the formats. Thread: control's main thread. Bound: the buffer grows to the largest run between two take() calls; a format takes
// at RUN_BYTES, so it stays near that. Everything written is ASCII.

export const RUN_BYTES = 256 * 1024;
/** No record's text is longer: names have 64 characters (six bytes each when escaped), eight of them stand in a record. */
export const RECORD_BYTES_MAX = 8192;

const BUFFER_BYTES = RUN_BYTES + RECORD_BYTES_MAX;
const FREE_BUFFERS_MAX = 8;

const ZERO = 48;
const COLON = 58;
const DOT = 46;

const HEX = Uint8Array.from(Buffer.from('0123456789abcdef'));
const DIGITS_2 = Uint8Array.from(Buffer.from(Array.from({ length: 100 }, (_, n) => String(n).padStart(2, '0')).join('')));

/** Longer ones the runtime copies faster than a loop of words. */
const COPY_BYTES = 64;
const SECONDS_KEPT = 256; // a power of two: times of one run lie near each other, starts of long sessions do not

/** Text that is written again and again: as bytes, and as words, whose last one reaches up to three bytes beyond it. */
export interface Snippet { readonly length: number; readonly bytes: Uint8Array; readonly words: Int32Array }

export class Output {
  bytes!: Buffer;
  private view!: DataView;
  at = 0;
  private readonly free: Buffer[] = [];
  private readonly secondOf = new Float64Array(SECONDS_KEPT).fill(-1);
  private readonly secondText: Snippet[] = [];

  constructor(size = BUFFER_BYTES) { this.use(Buffer.allocUnsafeSlow(size)); }

  private use(bytes: Buffer): void {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Call before each record. */
  reserve(bytes = RECORD_BYTES_MAX): void {
    if (this.at + bytes <= this.bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(this.bytes.length * 2, this.at + bytes));
    larger.set(this.bytes.subarray(0, this.at));
    this.use(larger);
  }

  /** What was written since the last take. A run that fills the buffer is handed over, a short one copied. */
  take(): Buffer {
    const { at } = this;
    this.at = 0;
    if (at < this.bytes.length / 4) return Buffer.from(this.bytes.subarray(0, at));
    const taken = this.bytes.subarray(0, at);
    this.use(this.free.pop() ?? Buffer.allocUnsafeSlow(BUFFER_BYTES));
    return taken;
  }

  /** A run that was taken is of no use any more: its buffer serves again, instead of making the garbage collector work at tens of MB a second. */
  giveBack(run: Buffer): void {
    if (run.buffer.byteLength === BUFFER_BYTES && this.free.length < FREE_BUFFERS_MAX) this.free.push(Buffer.from(run.buffer));
  }

  byte(value: number): void { this.bytes[this.at++] = value; }

  /** The room that reserve() made covers what a last word writes beyond: something follows, or it is not looked at. */
  text({ length, bytes, words }: Snippet): void {
    const { view, at } = this;
    if (length > COPY_BYTES) this.bytes.set(bytes, at);
    else for (let index = 0, to = at; index < words.length; index += 1, to += 4) view.setInt32(to, words[index]!, true);
    this.at = at + length;
  }

  ascii(text: string): void {
    this.reserve(text.length);
    this.at += this.bytes.write(text, this.at, 'latin1');
  }

  decimal(value: number): void {
    const { bytes, at } = this;
    if (value < 10) {
      bytes[at] = ZERO + value;
      this.at = at + 1;
      return;
    }
    if (value < 100) {
      bytes[at] = DIGITS_2[value * 2]!;
      bytes[at + 1] = DIGITS_2[value * 2 + 1]!;
      this.at = at + 2;
      return;
    }
    if (value > 0x7fffffff) {
      this.at = at + bytes.write(String(value), at, 'latin1');
      return;
    }
    let rest = value | 0;
    let length = rest < 1000 ? 3 : rest < 10_000 ? 4 : rest < 100_000 ? 5 : rest < 1_000_000 ? 6 : rest < 10_000_000 ? 7 : rest < 100_000_000 ? 8 : rest < 1_000_000_000 ? 9 : 10;
    let end = at + length;
    this.at = end;
    for (; length >= 2; length -= 2) {
      const quotient = (rest / 100) | 0;
      const pair = (rest - quotient * 100) * 2;
      bytes[end - 1] = DIGITS_2[pair + 1]!;
      bytes[end - 2] = DIGITS_2[pair]!;
      end -= 2;
      rest = quotient;
    }
    if (length === 1) bytes[end - 1] = ZERO + rest;
  }

  /** RFC 5952 for IPv6, dotted for ::ffff:a.b.c.d. */
  address(view: DataView, from: Uint8Array, offset: number): void {
    if (isMapped(view, offset)) {
      this.ipv4(from, offset + 12);
      return;
    }
    // The longest run of at least two zero groups, the first of equals, becomes "::".
    let bestAt = -1;
    let bestLength = 1;
    for (let group = 0; group < 8;) {
      let end = group;
      while (end < 8 && from[offset + 2 * end] === 0 && from[offset + 2 * end + 1] === 0) end += 1;
      if (end - group > bestLength) {
        bestAt = group;
        bestLength = end - group;
      }
      group = end + 1;
    }
    for (let group = 0; group < 8; group += 1) {
      if (group === bestAt) {
        this.bytes[this.at++] = COLON;
        this.bytes[this.at++] = COLON;
        group += bestLength - 1;
        continue;
      }
      if (group > 0 && group !== bestAt + bestLength) this.bytes[this.at++] = COLON;
      const high = from[offset + 2 * group]!;
      const low = from[offset + 2 * group + 1]!;
      if (high > 15) this.bytes[this.at++] = HEX[high >> 4]!;
      if (high > 0) this.bytes[this.at++] = HEX[high & 15]!;
      if (high > 0 || low > 15) this.bytes[this.at++] = HEX[low >> 4]!;
      this.bytes[this.at++] = HEX[low & 15]!;
    }
  }

  private ipv4(from: Uint8Array, offset: number): void {
    const { bytes } = this;
    let { at } = this;
    for (let index = offset; index < offset + 4; index += 1) {
      const octet = from[index]!;
      if (octet >= 100) {
        const hundreds = octet >= 200 ? 2 : 1;
        const pair = (octet - hundreds * 100) * 2;
        bytes[at] = ZERO + hundreds;
        bytes[at + 1] = DIGITS_2[pair]!;
        bytes[at + 2] = DIGITS_2[pair + 1]!;
        bytes[at + 3] = DOT;
        at += 4;
      } else if (octet >= 10) {
        bytes[at] = DIGITS_2[octet * 2]!;
        bytes[at + 1] = DIGITS_2[octet * 2 + 1]!;
        bytes[at + 2] = DOT;
        at += 3;
      } else {
        bytes[at] = ZERO + octet;
        bytes[at + 1] = DOT;
        at += 2;
      }
    }
    this.at = at - 1; // without the last dot
  }

  /** Milliseconds since the epoch as 2026-11-21T16:41:24.123Z. */
  time(milliseconds: number): void {
    const second = Math.floor(milliseconds / 1000);
    const slot = second & (SECONDS_KEPT - 1);
    if (this.secondOf[slot] !== second) {
      this.secondOf[slot] = second;
      this.secondText[slot] = snippet(new Date(second * 1000).toISOString().slice(0, 20));
    }
    this.text(this.secondText[slot]!);
    const { bytes, at } = this;
    const rest = milliseconds - second * 1000;
    const hundreds = (rest / 100) | 0;
    const pair = (rest - hundreds * 100) * 2;
    bytes[at] = ZERO + hundreds;
    bytes[at + 1] = DIGITS_2[pair]!;
    bytes[at + 2] = DIGITS_2[pair + 1]!;
    bytes[at + 3] = 90; // Z
    this.at = at + 4;
  }
}

export function isMapped(view: DataView, offset: number): boolean {
  return view.getUint32(offset + 8) === 0xffff && view.getUint32(offset + 4) === 0 && view.getUint32(offset) === 0;
}

/** A u64 of nanoseconds at `offset`, as whole milliseconds: exact, without a bigint. 2^32 ns are 4294.967296 ms. */
export function readMilliseconds(view: DataView, offset: number): number {
  const high = view.getUint32(offset + 4, true);
  return high * 4294 + Math.floor((high * 967296 + view.getUint32(offset, true)) / 1_000_000);
}

/** A u64 as a number; counts stay below 2^53. */
export function readCount(view: DataView, offset: number): number {
  return view.getUint32(offset + 4, true) * 4294967296 + view.getUint32(offset, true);
}

const ESCAPED = /[\u007f-\uffff]/g;

/** JSON with nothing but ASCII in it: fit for syslog without a word on character sets. */
export function asciiJson(value: unknown): string {
  return (JSON.stringify(value) ?? 'null').replace(ESCAPED, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

export function snippet(text: string): Snippet {
  const padded = new Uint8Array(Math.ceil(text.length / 4) * 4);
  padded.set(Buffer.from(text, 'latin1'));
  return { length: text.length, bytes: padded.subarray(0, text.length), words: new Int32Array(padded.buffer) };
}
