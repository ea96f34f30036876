// How bodies are read: JSON (bounded in depth before it is parsed), YAML and plain text as they are. Who: src/api/server.ts.
// Bounds: BODY_BYTES_MAX unless a route says more, CONFIG_BODY_BYTES_MAX for a whole configuration, JSON_DEPTH_MAX.
import type { FastifyInstance } from 'fastify';
import { ApiError } from './errors.js';

export const BODY_BYTES_MAX = 64 * 1024;
/** One part of the configuration: an object of 65,536 addresses. */
export const ITEM_BODY_BYTES_MAX = 4 * 1024 * 1024;
export const CONFIG_BODY_BYTES_MAX = 64 * 1024 * 1024;
/** The configuration nests 8 deep. */
const JSON_DEPTH_MAX = 32;

export function registerBodies(api: FastifyInstance): void {
  const parse = api.getDefaultJsonParser('error', 'error'); // __proto__ and constructor.prototype are errors
  api.removeAllContentTypeParsers();
  api.addContentTypeParser<Buffer>('application/json', { parseAs: 'buffer' }, (request, bytes, done) => {
    const depth = depthOf(bytes);
    if (depth > JSON_DEPTH_MAX) {
      done(new ApiError(400, 'SLUICE_API_BODY', `JSON nested deeper than ${JSON_DEPTH_MAX} levels; nothing here nests so deep`, ''));
      return;
    }
    if (bytes.length === 0) {
      done(new ApiError(400, 'SLUICE_API_BODY', 'the content type says JSON, and the body is empty; leave the content type out when there is no body', ''));
      return;
    }
    void parse(request, bytes.toString('utf8'), (error, value) => {
      if (error) done(new ApiError(400, 'SLUICE_API_BODY', `not JSON: ${(error as Error).message.slice(0, 200)}`, ''));
      else done(null, value);
    });
  });
  api.addContentTypeParser(['application/yaml', 'text/yaml', 'application/x-yaml', 'text/plain'], { parseAs: 'string' }, (_request, body, done) => done(null, body));
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** How deep brackets nest outside of strings. Needs no more of JSON than that. */
export function depthOf(bytes: Uint8Array): number {
  let depth = 0;
  let deepest = 0;
  let inString = false;
  for (let index = 0; index < bytes.length; index += 1) {
    const byte = bytes[index]!;
    if (inString) {
      if (byte === BACKSLASH) index += 1;
      else if (byte === QUOTE) inString = false;
    } else if (byte === QUOTE) inString = true;
    else if (byte === 0x5b || byte === 0x7b) {
      depth += 1;
      if (depth > deepest) deepest = depth;
    } else if (byte === 0x5d || byte === 0x7d) depth -= 1;
  }
  return deepest;
}
