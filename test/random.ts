// Random numbers for tests: the same everywhere from the same seed (xorshift32), and no secret is made of them.

/** What fuzz tests begin with; SLUICE_FUZZ_SEED takes another one. Tests print it. */
export const fuzzSeed = Number(process.env.SLUICE_FUZZ_SEED ?? 20261121);

/** From 0 to below what it is asked for. */
export type Random = (below: number) => number;

export function generator(from: number): Random {
  let state = from | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export const oneOf = <T>(random: Random, values: readonly T[]): T => values[random(values.length)]!;
