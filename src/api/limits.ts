// How much is worked on at once: requests of one caller, of all callers, and heavy ones (a whole configuration, a scan of sessions). How
// often a caller may ask is access-limits.ts's. Who: src/api/server.ts registers it after access, before bodies are read.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ITEM_BODY_BYTES_MAX } from './bodies.js';
import { ApiError } from './errors.js';

export interface Limits { perCaller: number; all: number; heavyPerCaller: number; heavy: number }

/** 6 heavy requests: up to 64 MiB of body each, and what it becomes. Nobody can take all of them. */
export const LIMITS: Limits = { perCaller: 32, all: 128, heavyPerCaller: 3, heavy: 6 };

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Costs much memory or time: few of them at once. Routes that take large bodies are. */
    heavy?: boolean;
    /** Its answer goes on for minutes, and has a bound of its own: it must not take the places of short requests. */
    streams?: boolean;
  }
}

export class Throttle {
  /** Requests refused because too much was being done. */
  refused = 0;
  private readonly callers = new Map<string, { active: number; heavy: number }>();
  private active = 0;
  private heavy = 0;

  constructor(private readonly limits: Limits = LIMITS) {}

  /** Takes a place, and gives back how to leave it. Throws ApiError 429 or 503. */
  enter(caller: string, isHeavy: boolean): () => void {
    const mine = this.callers.get(caller) ?? { active: 0, heavy: 0 };
    if (mine.active >= this.limits.perCaller) this.refuse(429, `${mine.active} requests of yours are being worked on; wait for their answers`);
    if (isHeavy && mine.heavy >= this.limits.heavyPerCaller) this.refuse(429, `${mine.heavy} requests of yours as large as this are being worked on; wait for their answers`);
    if (this.active >= this.limits.all) this.refuse(503, `${this.active} requests are being worked on; try again`);
    if (isHeavy && this.heavy >= this.limits.heavy) this.refuse(503, `${this.heavy} requests as large as this are being worked on; try again`);
    this.callers.set(caller, mine);
    const add = (one: 1 | -1): void => {
      mine.active += one;
      this.active += one;
      if (isHeavy) mine.heavy += one;
      if (isHeavy) this.heavy += one;
    };
    add(1);
    let left = false;
    return () => {
      if (left) return;
      left = true;
      add(-1);
      if (mine.active === 0) this.callers.delete(caller);
    };
  }

  private refuse(status: number, message: string): never {
    this.refused += 1;
    throw new ApiError(status, 'SLUICE_API_BUSY', message, undefined, { headers: { 'retry-after': '1' } });
  }
}

export function registerLimits(api: FastifyInstance, throttle: Throttle): void {
  const places = new WeakMap<FastifyRequest, () => void>();
  api.addHook('onRequest', (request, reply, done) => {
    if (!request.principal || request.routeOptions.config.streams === true) { // public: a constant answer
      done();
      return;
    }
    const { config, bodyLimit } = request.routeOptions;
    const leave = throttle.enter(request.principal.id, config.heavy === true || bodyLimit > ITEM_BODY_BYTES_MAX);
    places.set(request, leave);
    reply.raw.once('close', leave); // also when the caller goes away before the answer
    done();
  });
  api.addHook('onResponse', (request, _reply, done) => {
    places.get(request)?.();
    done();
  });
}
