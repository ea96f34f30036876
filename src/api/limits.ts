// How much is worked on at once: requests of one caller, of all callers, and heavy ones (a whole configuration, a scan of sessions). How
// often a caller may ask is access-limits.ts's. Who: src/api/server.ts registers it after access, before bodies are read.
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { ApiError } from './errors.js';

export interface Limits { perCaller: number; all: number; heavy: number }

/** 4 heavy requests: 64 MiB of body each, and what it becomes. */
export const LIMITS: Limits = { perCaller: 32, all: 128, heavy: 4 };

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Costs much memory or time: few of them at once. */
    heavy?: boolean;
  }
}

export class Throttle {
  /** Requests refused because too much was being done. */
  refused = 0;
  private readonly callers = new Map<string, number>();
  private active = 0;
  private heavy = 0;

  constructor(private readonly limits: Limits = LIMITS) {}

  /** Takes a place, and gives back how to leave it. Throws ApiError 429 or 503. */
  enter(caller: string, isHeavy: boolean): () => void {
    const mine = this.callers.get(caller) ?? 0;
    if (mine >= this.limits.perCaller) this.refuse(429, `${mine} requests of yours are being worked on; wait for their answers`);
    if (this.active >= this.limits.all) this.refuse(503, `${this.active} requests are being worked on; try again`);
    if (isHeavy && this.heavy >= this.limits.heavy) this.refuse(503, `${this.heavy} requests as large as this are being worked on; try again`);
    this.callers.set(caller, mine + 1);
    this.active += 1;
    if (isHeavy) this.heavy += 1;
    let left = false;
    return () => {
      if (left) return;
      left = true;
      const now = (this.callers.get(caller) ?? 1) - 1;
      if (now > 0) this.callers.set(caller, now);
      else this.callers.delete(caller);
      this.active -= 1;
      if (isHeavy) this.heavy -= 1;
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
    if (!request.principal) { // public: a constant answer
      done();
      return;
    }
    const leave = throttle.enter(request.principal.id, request.routeOptions.config.heavy === true);
    places.set(request, leave);
    reply.raw.once('close', leave); // also when the caller goes away before the answer
    done();
  });
  api.addHook('onResponse', (request, _reply, done) => {
    places.get(request)?.();
    done();
  });
}
