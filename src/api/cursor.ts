// Cursors of pages: opaque to callers, so that what they hold may change. Who: src/api/routes/. A cursor names the listing it belongs to;
// one that we did not make is an error of the caller. Not a secret, and not signed: it says where to go on, and grants nothing.
import { ApiError } from './errors.js';

export type Position = string | number;

export function encodeCursor(listing: string, position: Position): string {
  return Buffer.from(JSON.stringify([listing, position])).toString('base64url');
}

/** Throws ApiError. */
export function decodeCursor<T extends Position>(listing: string, text: string, isPosition: (value: unknown) => value is T): T {
  try {
    const [made, position] = JSON.parse(Buffer.from(text, 'base64url').toString('utf8')) as unknown[];
    if (made === listing && isPosition(position)) return position;
  } catch {
    // said below
  }
  throw new ApiError(400, 'SLUICE_API_ARGUMENT', 'this is no cursor of this listing; give back the `cursor` of the page before, or leave it out for the first page', '/cursor');
}

export const isPlace = (value: unknown): value is number => Number.isInteger(value) && (value as number) > 0 && (value as number) <= 0xffff_ffff;
export const isName = (value: unknown): value is string => typeof value === 'string' && value.length > 0;
