// Addresses: text ↔ the 128-bit space, and what is refused.
import { expect, test } from 'vitest';
import { addressOfBytes, bytesOf, formatAddress, formatPrefix, matchedRanges, parseAddress, parsePrefix, parseRange, rangeOf, rangeToPrefixes } from '../../src/lib/address.js';
import { random } from './support.js';

test.each(['0.0.0.0', '10.0.1.4', '255.255.255.255', '::', '::1', '2001:db8::1', 'fe80::1:2:3:4', '1:2:3:4:5:6:7:8'])('%s survives the round trip', (text) => {
  const address = parseAddress(text);
  expect(formatAddress(address)).toBe(text);
  expect(addressOfBytes(bytesOf(address))).toBe(address);
  expect(formatAddress(bytesOf(address))).toBe(text);
});

test.each(['', '10.1', '010.0.0.1', '10.0.0.256', '1.2.3.4.5', '::ffff:10.0.0.1', 'fe80::1%eth0', ':::', '0x0a000001', '167772161', ' 10.0.0.1', 'any'])('%j is refused', (text) => {
  expect(() => parseAddress(text)).toThrow();
});

test.each([['10.0.0.0/16', '10.0.0.0/16', 112], ['10.0.0.1', '10.0.0.1/32', 128], ['0.0.0.0/0', '0.0.0.0/0', 96], ['::/0', '::/0', 0], ['2001:db8::/32', '2001:db8::/32', 32]])('prefix %s', (text, shown, length) => {
  const prefix = parsePrefix(text);
  expect(formatPrefix(prefix)).toBe(shown);
  expect(prefix.length).toBe(length);
});

test.each(['10.0.0.0/33', '10.0.0.0/', '10.0.0.0/-1', '10.0.0.0/08', '10.0.0.0/255.0.0.0', '10.0.0.1/8', '2001:db8::1/64', '::/129'])('prefix %s is refused', (text) => {
  expect(() => parsePrefix(text)).toThrow();
});

test('a range becomes prefixes that hold exactly it', () => {
  const next = random(5);
  for (let i = 0; i < 200; i++) {
    const [a, b] = [0, 1].map(() => parseAddress('10.0.0.0') + BigInt(Math.floor(next() * 5000)));
    const [lo, hi] = a! < b! ? [a!, b!] : [b!, a!];
    let expected = lo;
    for (const prefix of rangeToPrefixes({ lo, hi })) {
      const range = rangeOf(prefix);
      expect(range.lo).toBe(expected);
      expected = range.hi + 1n;
    }
    expect(expected).toBe(hi + 1n);
  }
  expect(rangeToPrefixes(parseRange('::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'))).toEqual([{ address: 0n, length: 0 }]);
});

test('::/0 matches no IPv4 address', () => {
  for (const { lo, hi } of matchedRanges(parsePrefix('::/0'))) expect(parseAddress('10.0.0.1') < lo || parseAddress('10.0.0.1') > hi).toBe(true);
});
