// Times of records as text: those that Date gives, whatever was asked before.
import { expect, test } from 'vitest';
import { isoTime } from '../../src/engine/records.js';

const MS = 1_000_000n;

test.each([0n, 1n, 999n, 59_999n, 60_000n, 951_782_399_999n, 951_782_400_000n, 1_795_297_199_999n, 253_402_300_799_999n, 253_402_300_800_000n, 8_640_000_000_000_000n])('%d ms', (milliseconds) => {
  expect(isoTime(milliseconds * MS)).toBe(new Date(Number(milliseconds)).toISOString());
  expect(isoTime(milliseconds * MS + 999_999n)).toBe(new Date(Number(milliseconds)).toISOString());
});

test('what no Date can be is the epoch', () => expect(isoTime(2n ** 90n)).toBe(new Date(0).toISOString()));

test('more minutes than are kept', () => {
  for (let n = 0; n < 20_000; n += 1) {
    const milliseconds = n * 61_037;
    expect(isoTime(BigInt(milliseconds) * MS)).toBe(new Date(milliseconds).toISOString());
  }
});
