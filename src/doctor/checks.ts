// All that `sluice doctor` looks at, in the order in which it says so. Who: src/cli/commands/doctor.ts; tests inject facts. Pure.
import { checkClockAndNames, checkDirectories, checkInstallation, checkKernel, checkResources, checkRights } from './checks-machine.js';
import { checkAppliance, checkConfiguration, checkDevices, checkPorts } from './checks-network.js';
import type { DoctorFacts } from './facts.js';
import type { Finding, Level } from './finding.js';

export const SECTIONS: readonly { title: string; check(facts: DoctorFacts): Finding[] }[] = [
  { title: 'installation', check: checkInstallation },
  { title: 'kernel', check: checkKernel },
  { title: 'rights', check: checkRights },
  { title: 'memory and processors', check: checkResources },
  { title: 'directories', check: checkDirectories },
  { title: 'clock and names', check: checkClockAndNames },
  { title: 'configuration', check: checkConfiguration },
  { title: 'devices', check: checkDevices },
  { title: 'ports', check: checkPorts },
  { title: 'running appliance', check: checkAppliance },
];

export interface Report { findings: (Finding & { section: string })[]; counts: Record<Level, number> }

export function examine(facts: DoctorFacts): Report {
  const findings = SECTIONS.flatMap(({ title, check }) => check(facts).map((finding) => ({ section: title, ...finding })));
  const counts: Record<Level, number> = { ok: 0, skipped: 0, warn: 0, fail: 0 };
  for (const { level } of findings) counts[level] += 1;
  return { findings, counts };
}
