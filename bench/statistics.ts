// Medians and spreads of rounds.

export interface Spread {
  median: number;
  min: number;
  max: number;
}

export function spreadOf(values: readonly number[]): Spread {
  if (!values.length) throw new Error("no values to take a median of");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0]!, max: sorted.at(-1)! };
}

/** Slope of y over x by least squares. */
export function slopeOf(points: readonly (readonly [number, number])[]): number {
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / points.length;
  const square = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  return square ? points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) / square : 0;
}

/** The generator must be able to make so many times what a device under test passes on. */
export const CEILING_FACTOR = 1.3;

/** Why a result says more about the generator than about the device; undefined when it does not. */
export function ceilingObjection(title: string, ceilingPps: number, pps: number): string | undefined {
  if (!(pps > 0)) return `nothing came through ${title}`;
  return ceilingPps >= CEILING_FACTOR * pps ? undefined : `the generator's ceiling (${Math.round(ceilingPps)} pps) is below ${CEILING_FACTOR} × ${title}`;
}
