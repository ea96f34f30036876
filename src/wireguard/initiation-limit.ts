// How many initiations a device makes: a bucket of tokens. Who: device.ts. Times: milliseconds of CLOCK_MONOTONIC.

/** Curve operations are the main thread's: after a restart ten thousand peers want a session at once, and other work goes on. */
const INITIATIONS_PER_SECOND_MAX = 100;
const INITIATIONS_BURST = 50;

export class InitiationLimit {
  private tokens = INITIATIONS_BURST;
  private tokensMs = 0;

  take(nowMs: number): boolean {
    this.tokens = Math.min(INITIATIONS_BURST, this.tokens + Math.max(0, nowMs - this.tokensMs) * INITIATIONS_PER_SECOND_MAX / 1000);
    this.tokensMs = nowMs;
    if (this.tokens < 1) return false;
    this.tokens -= 1;
    return true;
  }
}
