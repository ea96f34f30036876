// From the running configuration and the machine's facts to what the engine takes and what people see of it: one step of control,
// and of `sluice simulate --config`. Who: src/control/control.ts, src/cli/commands/simulate.ts. Pure but for reading the file.
import type { HostFacts } from '../engine/facts.js';
import type { ConfigurePlan } from '../engine/last-applied.js';
import type { Names } from '../engine/records.js';
import type { Problem } from '../config/problem.js';

export interface InterfaceInfo { name: string; device: string; zone: string; vlanId: number | null; addresses: string[] }
export interface RuleInfo { id: number; kind: 'firewall' | 'nat-source' | 'nat-destination' | 'nat-static'; name: string; action: string }
export interface RouteInfo { to: string; nexthops: { via: string | null; interface: string | null; kind: string }[] }

export interface Compiled {
  hostname: string | null;
  snapshot: Uint8Array;
  plan: ConfigurePlan;
  names: Names;
  interfaces: InterfaceInfo[];
  rules: RuleInfo[];
}

export interface CompileResult { problems: Problem[]; compiled?: Compiled }

/** Compiles what stands in the running configuration at the time of the call. */
export type Compile = (facts: HostFacts, generation: number) => CompileResult;
