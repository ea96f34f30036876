// Waiting for a condition with a deadline: what the lab, the tests and the benches do instead of sleeping.

export const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

export interface UntilOptions {
  deadlineMs?: number;
  intervalMs?: number;
}

/**
 * Calls `probe` until it answers something truthy, and answers that. A probe that throws counts as "not yet"; what it
 * last threw or answered stands in the error when the deadline passes.
 */
export async function until<T>(what: string, probe: () => T | Promise<T>, options: UntilOptions = {}): Promise<NonNullable<T>> {
  const { deadlineMs = 30_000, intervalMs = 50 } = options;
  const end = Date.now() + deadlineMs;
  let last: unknown;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (Date.now() >= end) {
      const seen = last instanceof Error ? last.message : JSON.stringify(last);
      throw new Error(`not within ${deadlineMs / 1000} s: ${what} (last seen: ${seen})`);
    }
    await pause(intervalMs);
  }
}
