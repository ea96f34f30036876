// Reads the pcapng that /api/v1/capture writes (src/api/pcapng.ts), as it comes. Who: src/cli/commands/capture.ts. Pure; a block is whole
// before it is given. Bounds: BLOCK_BYTES_MAX a block. What breaks the format ends the reading: both ends are ours.

const BLOCK_BYTES_MAX = 128 * 1024;
const SECTION_HEADER = 0x0a0d0d0a;
const INTERFACE_DESCRIPTION = 1;
const INTERFACE_STATISTICS = 5;
const ENHANCED_PACKET = 6;
const OPTION_COMMENT = 1;
const OPTION_IF_NAME = 2;
const OPTION_EPB_FLAGS = 2;
const OPTION_ISB_IFDROP = 5;
const OPTION_ISB_OSDROP = 7;

export interface ReadPacket { kind: 'packet'; interface: string; timeNs: bigint; bytes: Buffer; originalBytes: number; direction: 'in' | 'out' | null; comment: string | null }
/** So far, of one interface: packets that were left out of the stream, and a remark about its end. */
export interface ReadStatistics { kind: 'statistics'; interface: string; lost: number; comment: string | null }
/** `raw`: the block as it stands in the stream. */
export type ReadBlock = { raw: Buffer } & (ReadPacket | ReadStatistics | { kind: 'other' });

export class PcapngReader {
  private readonly interfaces: string[] = [];
  private rest: Buffer = Buffer.alloc(0);

  *push(chunk: Buffer): Generator<ReadBlock> {
    const all = this.rest.length > 0 ? Buffer.concat([this.rest, chunk]) : chunk;
    let at = 0;
    while (all.length - at >= 8) {
      const length = all.readUInt32LE(at + 4);
      if (length < 12 || length % 4 !== 0 || length > BLOCK_BYTES_MAX) throw new Error(`the stream is no pcapng: a block of ${length} bytes`);
      if (all.length - at < length) break;
      const raw = all.subarray(at, at + length);
      at += length;
      this.rest = all.subarray(at);
      yield this.read(raw);
    }
    this.rest = all.subarray(at);
  }

  private read(raw: Buffer): ReadBlock {
    if (raw.readUInt32LE(raw.length - 4) !== raw.length) throw new Error('the stream is no pcapng: a block whose two lengths differ');
    const body = raw.subarray(8, raw.length - 4);
    switch (raw.readUInt32LE(0)) {
      case SECTION_HEADER:
        this.interfaces.length = 0;
        return { raw, kind: 'other' };
      case INTERFACE_DESCRIPTION:
        this.interfaces.push(optionsAt(body, 8).get(OPTION_IF_NAME)?.toString('utf8') ?? String(this.interfaces.length));
        return { raw, kind: 'other' };
      case ENHANCED_PACKET: {
        const captured = body.readUInt32LE(12);
        const options = optionsAt(body, 20 + ((captured + 3) & ~3));
        const direction = (options.get(OPTION_EPB_FLAGS)?.readUInt32LE(0) ?? 0) & 3;
        return {
          raw, kind: 'packet', interface: this.interfaces[body.readUInt32LE(0)] ?? '?', timeNs: timeAt(body), bytes: body.subarray(20, 20 + captured), originalBytes: body.readUInt32LE(16),
          direction: direction === 1 ? 'in' : direction === 2 ? 'out' : null, comment: options.get(OPTION_COMMENT)?.toString('utf8') ?? null,
        };
      }
      case INTERFACE_STATISTICS: {
        const options = optionsAt(body, 12);
        const count = (code: number): number => Number(options.get(code)?.readBigUInt64LE(0) ?? 0n);
        return { raw, kind: 'statistics', interface: this.interfaces[body.readUInt32LE(0)] ?? '?', lost: count(OPTION_ISB_IFDROP) + count(OPTION_ISB_OSDROP), comment: options.get(OPTION_COMMENT)?.toString('utf8') ?? null };
      }
      default:
        return { raw, kind: 'other' };
    }
  }
}

const timeAt = (body: Buffer): bigint => (BigInt(body.readUInt32LE(4)) << 32n) | BigInt(body.readUInt32LE(8));

function optionsAt(body: Buffer, start: number): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = start; at + 4 <= body.length;) {
    const code = body.readUInt16LE(at);
    const length = body.readUInt16LE(at + 2);
    if (code === 0) break;
    options.set(code, body.subarray(at + 4, at + 4 + length));
    at += 4 + ((length + 3) & ~3);
  }
  return options;
}
