// Key files: made once, closed to others, never over something that is there, each fault by name and without what the file holds.
// A rotation is a rename a step: a crash between any two finds a phase.
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { decodeKey, encodeKey, generatePrivateKey, KeyDirectory, readKeyFile } from '../../src/engine/wireguard-keys.js';

const isRoot = process.getuid?.() === 0;

function makeDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-keys-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

const modeOf = (path: string): number => statSync(path).mode & 0o777;
const text = (key: Uint8Array): string => Buffer.from(key).toString('base64');

describe('base64 of a key', () => {
  test('is what Buffer makes of it, both ways', () => {
    for (let round = 0; round < 200; round += 1) {
      const key = generatePrivateKey();
      expect(Buffer.from(encodeKey(key)).toString()).toBe(`${text(key)}\n`);
      expect(text(decodeKey(encodeKey(key))!)).toBe(text(key));
    }
    expect(decodeKey(Buffer.from(` \r\n${'/'.repeat(42)}8=\t\n`))).toEqual(new Uint8Array(32).fill(0xff));
  });

  test.each([
    { fault: 'nothing', content: '' },
    { fault: 'a character too few', content: `${'A'.repeat(41)}E=` },
    { fault: 'a character too many', content: `${'A'.repeat(43)}E=` },
    { fault: 'no padding', content: `${'A'.repeat(42)}EE` },
    { fault: 'a character of another alphabet', content: `${'A'.repeat(41)}-E=` },
    { fault: 'bits beyond the key', content: `${'A'.repeat(42)}B=` },
    { fault: 'two keys', content: `${'A'.repeat(42)}E=\n${'A'.repeat(42)}E=\n` },
    { fault: 'all zero', content: `${'A'.repeat(43)}=` },
  ])('refuses $fault', ({ content }) => expect(decodeKey(Buffer.from(content))).toBeUndefined());

  test('private keys are clamped, as RFC 7748 section 5 asks', () => {
    const key = generatePrivateKey();
    expect([key[0]! & 7, key[31]! & 0xc0]).toEqual([0, 0x40]);
  });
});

describe('an interface\'s key', () => {
  test('is made once, for the engine alone', () => {
    const directory = join(makeDirectory(), 'wireguard');
    const made = new KeyDirectory(directory).load('wg0');
    expect(made).toMatchObject({ phase: 'none' });
    expect([modeOf(directory), modeOf(join(directory, 'wg0.key'))]).toEqual([0o700, 0o600]);
    expect(readFileSync(join(directory, 'wg0.key'), 'utf8')).toBe(`${text(made.current)}\n`);
    expect(new KeyDirectory(directory).load('wg0').current).toEqual(made.current);
    expect(new KeyDirectory(directory).load('wg1').current).not.toEqual(made.current);
    expect(readdirSync(directory).sort()).toEqual(['wg0.key', 'wg1.key']);
  });

  test('a directory that is open to others is closed', () => {
    const directory = makeDirectory();
    chmodSync(directory, 0o755);
    new KeyDirectory(directory).load('wg0');
    expect(modeOf(directory)).toBe(0o700);
  });

  test.runIf(isRoot)('keys in somebody else\'s directory are not trusted', () => {
    const directory = makeDirectory();
    chownSync(directory, 65534, 65534);
    expect(() => new KeyDirectory(directory).load('wg0')).toThrow(/belongs to user 65534/);
    expect(readdirSync(directory)).toEqual([]);
  });

  const faults: { fault: string; make(file: string): void; says: RegExp }[] = [
    { fault: 'open to others', make: (file) => chmodSync(file, 0o640), says: /wg0\.key is open to others \(mode 0640\); chmod 600/ },
    { fault: 'cut', make: (file) => writeFileSync(file, readFileSync(file).subarray(0, 20)), says: /wg0\.key does not hold a key/ },
    { fault: 'empty', make: (file) => writeFileSync(file, ''), says: /does not hold a key/ },
    { fault: 'long', make: (file) => writeFileSync(file, Buffer.alloc(100_000, 'A')), says: /does not hold a key/ },
    { fault: 'a directory', make: (file) => { rmSync(file); mkdirSync(file); }, says: /no ordinary file/ },
    { fault: 'a FIFO', make: (file) => { rmSync(file); execFileSync('mkfifo', ['-m', '600', file]); }, says: /no ordinary file/ },
    { fault: 'a link to nowhere', make: (file) => { rmSync(file); symlinkSync('/nonexistent/key', file); }, says: /is not there/ },
    ...(isRoot ? [{ fault: 'somebody else\'s', make: (file: string) => chownSync(file, 65534, 65534), says: /belongs to user 65534/ }] : []),
  ];
  test.each(faults)('a file that is $fault is refused and left alone', ({ make, says }) => {
    const directory = makeDirectory();
    const keys = new KeyDirectory(directory);
    const file = join(directory, 'wg0.key');
    const secret = text(keys.load('wg0').current);
    make(file);
    expect(() => keys.load('wg0')).toThrow(expect.objectContaining({ code: 'SLUICE_WIREGUARD_KEY', message: expect.stringMatching(says) as string }));
    expect(() => keys.load('wg0')).not.toThrow(secret.slice(0, 10));
    expect(readdirSync(directory)).toEqual(['wg0.key']);
    expect(keys.load('wg1').phase).toBe('none'); // the others go on
  });

  test.runIf(isRoot)('a full disk is told, and leaves no half of a key', () => {
    const directory = makeDirectory();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=4096,mode=0700', 'tmpfs', directory]);
    onTestFinished(() => void execFileSync('umount', [directory]));
    writeFileSync(join(directory, 'filler'), Buffer.alloc(4096));
    const keys = new KeyDirectory(directory);
    expect(() => keys.load('wg0')).toThrow(/wg0\.key cannot be written: the disk is full/);
    expect(readdirSync(directory)).toEqual(['filler']);
    rmSync(join(directory, 'filler'));
    expect(keys.load('wg0').current).toHaveLength(32);
  });

  test('a file of the operator\'s is read with the same care, and never made', () => {
    const directory = makeDirectory();
    const keys = new KeyDirectory(join(directory, 'wireguard'));
    const file = join(directory, 'own.key');
    expect(() => keys.load('wg0', file)).toThrow(`${file} is not there`);
    const key = generatePrivateKey();
    writeFileSync(file, `${text(key)}\n`, { mode: 0o644 });
    expect(() => keys.load('wg0', file)).toThrow(/open to others/);
    chmodSync(file, 0o400);
    expect(keys.load('wg0', file)).toEqual({ current: key, phase: 'none' });
    expect(readdirSync(directory)).toEqual(['own.key']);
  });

  test('a preshared key is read likewise', () => {
    const file = join(makeDirectory(), 'psk');
    writeFileSync(file, `${text(new Uint8Array(32).fill(7))}\n`, { mode: 0o600 });
    expect(readKeyFile(file)).toEqual(new Uint8Array(32).fill(7));
  });
});

describe('rotation', () => {
  test('goes through its phases, each of which may be repeated and found again after a crash', () => {
    const directory = makeDirectory();
    const fresh = (): KeyDirectory => new KeyDirectory(directory); // as after a crash
    const old = fresh().load('wg0').current;
    expect(() => fresh().switch('wg0')).toThrow(/there is no next key/);

    fresh().prepare('wg0');
    const next = fresh().load('wg0').next!;
    expect(next).not.toEqual(old);
    fresh().prepare('wg0');
    expect(fresh().load('wg0')).toEqual({ current: old, next, phase: 'prepared' });
    expect(() => fresh().finish('wg0')).toThrow(/switch first/);

    fresh().switch('wg0');
    fresh().switch('wg0');
    expect(fresh().load('wg0')).toEqual({ current: old, next, phase: 'switched' });
    expect(() => fresh().prepare('wg0')).toThrow(/under way already/);

    fresh().finish('wg0');
    fresh().finish('wg0');
    expect(fresh().load('wg0')).toEqual({ current: next, phase: 'none' });
    expect(readdirSync(directory)).toEqual(['wg0.key']);
    expect(modeOf(join(directory, 'wg0.key'))).toBe(0o600);
  });

  test('what a crash left half written is not taken for a key, and goes away', () => {
    const directory = makeDirectory();
    const keys = new KeyDirectory(directory);
    const { current } = keys.load('wg0');
    writeFileSync(join(directory, 'wg0.key.tmp'), 'half');
    writeFileSync(join(directory, 'wg0.key.next.tmp'), 'half');
    expect(keys.load('wg0')).toEqual({ current, phase: 'none' });
    expect(readdirSync(directory)).toEqual(['wg0.key']);
  });

  test('a next key that is damaged is told; the interface goes on with its key', () => {
    const directory = makeDirectory();
    const keys = new KeyDirectory(directory);
    const { current } = keys.load('wg0');
    keys.prepare('wg0');
    writeFileSync(join(directory, 'wg0.key.next'), 'damaged');
    const damaged = { current, phase: 'none', damage: expect.stringMatching(/does not hold a key/) as string };
    expect(keys.load('wg0')).toEqual(damaged);
    keys.switch('wg0');
    expect(keys.load('wg0')).toEqual(damaged);
    expect(() => keys.finish('wg0')).toThrow(/does not hold a key/);
    expect(keys.load('wg0').current).toEqual(current);
    keys.prepare('wg0');
    expect(keys.load('wg0')).toMatchObject({ current, phase: 'prepared' });
  });

  test('interfaces whose names look like each other\'s files do not meet', () => {
    const directory = makeDirectory();
    const keys = new KeyDirectory(directory);
    keys.load('wg0');
    keys.prepare('wg0');
    const { next } = keys.load('wg0');
    for (const name of ['wg0.key', 'wg0.next', 'wg0.key.next']) {
      keys.load(name);
      keys.prepare(name);
    }
    expect(keys.load('wg0').next).toEqual(next);
    expect(existsSync(join(directory, 'wg0.key.key'))).toBe(true);
  });
});
