// `sluice doctor`: examines machine, configuration and appliance, and says what to do. Who: src/cli/program.ts. Changes nothing; works
// without an appliance and without rights, and says then what it could not look at. Exit 1 when something fails.
import type { Command } from 'commander';
import { addCommon, directoryOf, type CommonOptions } from '../options.js';
import { ExitCode, print, printJson } from '../output.js';
import type { Report } from '../../doctor/checks.js';
import { printable } from '../../lib/text.js';

interface DoctorOptions extends CommonOptions { config?: string; verbose?: boolean }

export function addDoctorCommand(program: Command): void {
  addCommon(program.command('doctor').description('examine machine, configuration and appliance; exit 1 when something fails'))
    .option('--config <FILE>', 'judge the machine for this configuration (default: that of the running appliance)')
    .option('--verbose', 'also what is good, one by one')
    .action((options: DoctorOptions) => doctor(options));
}

async function doctor(options: DoctorOptions): Promise<void> {
  const [{ examine }, { gatherFacts }] = await Promise.all([import('../../doctor/checks.js'), import('../../doctor/facts.js')]);
  const report = examine(await gatherFacts(directoryOf(options), options.config));
  if (options.json) printJson({ healthy: report.counts.fail === 0, ...report });
  else print(formatReport(report, options.verbose ?? false));
  if (report.counts.fail > 0) process.exitCode = ExitCode.REFUSED;
}

const MARKS = { ok: 'ok', skipped: '--', warn: 'warn', fail: 'FAIL' } as const;

export function formatReport({ findings, counts }: Report, verbose: boolean): string {
  const lines: string[] = [];
  for (const section of new Set(findings.map((finding) => finding.section))) {
    const own = findings.filter((finding) => finding.section === section);
    const shown = own.filter((finding) => verbose || finding.level !== 'ok');
    if (shown.length === 0) {
      lines.push(`ok    ${section}: ${own.length === 1 ? own[0]!.detail : `${own.length} checks`}`);
      continue;
    }
    lines.push(`      ${section}:`);
    for (const { level, check, detail, meaning, remedy } of shown) {
      lines.push(`${MARKS[level].padEnd(5)} ${check}: ${printable(detail)}`);
      if (meaning !== undefined) lines.push(`        ${printable(meaning)}`);
      if (remedy !== undefined) lines.push(`        → ${printable(remedy)}`);
    }
  }
  const count = (number: number, word: string): string => `${number} ${word}`;
  lines.push('', [count(counts.ok, 'good'), count(counts.warn, counts.warn === 1 ? 'warning' : 'warnings'), count(counts.fail, counts.fail === 1 ? 'failure' : 'failures'), ...(counts.skipped > 0 ? [count(counts.skipped, 'not looked at')] : [])].join(', '));
  return lines.join('\n');
}
