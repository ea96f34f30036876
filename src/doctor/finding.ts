// What `sluice doctor` says of one thing. Who: the checks make them, src/cli/commands/doctor.ts prints them.

/** skipped: it could not be looked at, and `detail` says why. */
export const LEVELS = ['ok', 'skipped', 'warn', 'fail'] as const;
export type Level = typeof LEVELS[number];

export interface Finding {
  check: string;      // what was looked at: a name that stays the same, for scripts
  level: Level;
  detail: string;     // what was found
  meaning?: string;   // what follows from it, when it is not good
  remedy?: string;    // what to do then
}

/** A fact that could not be had, and why. */
export class Unknown {
  constructor(readonly reason: string) {}
}
export type Known<T> = T | Unknown;
export const isKnown = <T>(fact: Known<T>): fact is T => !(fact instanceof Unknown);

export const ok = (check: string, detail: string): Finding => ({ check, level: 'ok', detail });
export const warn = (check: string, detail: string, meaning: string, remedy: string): Finding => ({ check, level: 'warn', detail, meaning, remedy });
export const fail = (check: string, detail: string, meaning: string, remedy: string): Finding => ({ check, level: 'fail', detail, meaning, remedy });
export const skipped = (check: string, { reason }: Unknown): Finding => ({ check, level: 'skipped', detail: `not looked at: ${reason}` });

/** Judges a fact, or says that it is not known. */
export function judge<T>(check: string, fact: Known<T>, verdict: (fact: T) => Finding | Finding[]): Finding[] {
  return isKnown(fact) ? [verdict(fact)].flat() : [skipped(check, fact)];
}
