// The ring of recent records: the newest are kept, a follower misses none that is still there, and is told how many it missed.
import { describe, expect, test } from 'vitest';
import { RecordRing } from '../../src/control/record-ring.js';

const decode = (view: DataView, offset: number): number => view.getUint32(offset, true);
const all = (): boolean => true;

function filled(capacity: number, count: number, batch = 1): RecordRing {
  const ring = new RecordRing(4, capacity);
  for (let first = 1; first <= count; first += batch) ring.push(new Uint8Array(Uint32Array.from({ length: Math.min(batch, count - first + 1) }, (_, index) => first + index).buffer));
  return ring;
}

describe('record ring', () => {
  test.each([[10, 3, 1], [10, 10, 1], [10, 27, 1], [10, 27, 4], [10, 27, 27], [1, 5, 2]])('capacity %i, %i records by %i: the newest, oldest first', (capacity, count, batch) => {
    const kept = Array.from({ length: Math.min(capacity, count) }, (_, index) => count - Math.min(capacity, count) + 1 + index);
    expect(filled(capacity, count, batch).newest(100, decode, all)).toEqual({ records: kept, last: count, missed: 0 });
  });

  test('a limit takes the newest that are accepted', () => {
    expect(filled(10, 10).newest(2, decode, (record) => record % 2 === 1).records).toEqual([7, 9]);
  });

  test('a follower gets what came after, in pages, each once', () => {
    const ring = filled(10, 8);
    const first = ring.since(3, 2, decode, all);
    expect(first).toEqual({ records: [4, 5], last: 5, missed: 0 });
    expect(ring.since(first.last, 100, decode, all)).toEqual({ records: [6, 7, 8], last: 8, missed: 0 });
    expect(ring.since(8, 100, decode, all)).toEqual({ records: [], last: 8, missed: 0 });
  });

  test('a filtered follower moves on past what it does not want', () => {
    expect(filled(10, 8).since(0, 100, decode, () => false)).toEqual({ records: [], last: 8, missed: 0 });
  });

  test('a slow follower is told what it missed', () => {
    expect(filled(10, 25).since(2, 100, decode, all)).toMatchObject({ records: expect.arrayContaining([16, 25]) as number[], missed: 13 });
  });

  test('a number from before a restart starts again', () => {
    expect(filled(10, 3).since(5000, 100, decode, all)).toEqual({ records: [1, 2, 3], last: 3, missed: 0 });
    expect(filled(10, 25).since(5000, 3, decode, all)).toEqual({ records: [16, 17, 18], last: 18, missed: 15 });
  });

  test('a cut record is ignored', () => {
    const ring = new RecordRing(4, 10);
    ring.push(new Uint8Array(7));
    expect(ring.last).toBe(1);
  });
});
