// Defaults of the configuration, and the options that do not travel in the snapshot.
//
// Called by compile.ts (timers, limits) and by the host that opens the engine (engineOptions). Each default is the strict
// one; RFC minimums stand beside the timers, and check.ts warns below them.
import type { Config } from './schema.js';

export interface TimerDefault { readonly seconds: number; readonly requiredSeconds?: number; readonly requirement?: string }
type TimerName = keyof NonNullable<Config['timers']>;

export const TIMERS: Readonly<Record<TimerName, TimerDefault>> = {
  tcpSyn: { seconds: 30, requiredSeconds: 6, requirement: 'RFC 5382 REQ-4' },
  tcpEstablished: { seconds: 7440, requiredSeconds: 7440, requirement: 'RFC 5382 REQ-5' },
  tcpTransitory: { seconds: 240, requiredSeconds: 240, requirement: 'RFC 5382 REQ-5' },
  tcpTimeWait: { seconds: 120 },
  tcpReset: { seconds: 10 },
  udp: { seconds: 300, requiredSeconds: 120, requirement: 'RFC 4787 REQ-5' },
  udpNew: { seconds: 120, requiredSeconds: 120, requirement: 'RFC 4787 REQ-5' },
  icmp: { seconds: 60, requiredSeconds: 60, requirement: 'RFC 5508 REQ-2' },
  other: { seconds: 300 },
  fragment: { seconds: 60, requiredSeconds: 15, requirement: 'RFC 791' },
  natPortReuse: { seconds: 120, requiredSeconds: 120, requirement: 'RFC 6888 REQ-8' },
};

export const LIMITS = { sessions: 1_048_576, sessionsPerSource: 0, fragments: 4096, icmpErrorsPerSecond: 100 } as const;

export function timerSeconds(config: Config, name: TimerName): number {
  return config.timers?.[name] ?? TIMERS[name].seconds;
}

export interface EngineOptions {
  workers: number | 'auto';
  framesPerWorker: number;
  busyPoll: boolean;
  txBudget: number;
  mode: 'auto' | 'native' | 'generic';
  sessionsMax: number;
}

/** What the host passes to the addon's `open` and `addPort`. */
export function engineOptions(config: Config): EngineOptions {
  return {
    workers: config.engine?.workers ?? 'auto',
    framesPerWorker: config.engine?.framesPerWorker ?? 8192,
    busyPoll: config.engine?.busyPoll ?? false,
    txBudget: config.engine?.txBudget ?? 256,
    mode: config.engine?.mode ?? 'auto',
    sessionsMax: config.limits?.sessions ?? LIMITS.sessions,
  };
}
