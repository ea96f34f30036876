// Small things that every file here needs: secret memory, comparison, text as bytes.
//
// Secrets stand in memory of their own: an array made by `new Uint8Array(32)` lives in the JavaScript heap, where the garbage
// collector moves it and leaves copies behind that nobody wipes; one over an ArrayBuffer of its own stays where it is.

export function secretBytes(count: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(count));
}

export function secretCopy(of: Uint8Array): Uint8Array {
  const copy = secretBytes(of.length);
  copy.set(of);
  return copy;
}

/** Overwrites with zeros; undefined is nothing to do. */
export function wipe(...secrets: readonly (Uint8Array | undefined)[]): void {
  for (const secret of secrets) secret?.fill(0);
}

/** Takes as long for equal arrays as for others. */
export function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let index = 0; index < a.length; index += 1) difference |= a[index]! ^ b[index]!;
  return difference === 0;
}

export function isZero(bytes: Uint8Array): boolean {
  let any = 0;
  for (const byte of bytes) any |= byte;
  return any === 0;
}

/** As memcmp: negative, zero, positive. For what is public. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  for (let index = 0; index < a.length && index < b.length; index += 1) if (a[index] !== b[index]) return a[index]! - b[index]!;
  return a.length - b.length;
}

export function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}
