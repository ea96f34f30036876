// `sluice check FILE`: names each problem with file, line, path and remedy. Who: src/cli/program.ts. Touches nothing. Without --machine it
// judges the file alone, so that it works on a laptop or in CI; `sluice up` always judges it against the machine.
// Here and in its neighbours: what takes long to load is imported when it is needed, so that other commands start at once.
import type { Command } from 'commander';
import { findObstacles } from '../../engine/conflicts.js';
import { readFacts } from '../../engine/facts.js';
import { CliError, print, printJson } from '../output.js';

interface CheckOptions { json?: boolean; machine?: boolean; dir?: string }

export function addCheckCommand(program: Command): void {
  program.command('check').description('check a configuration; exit 1 when it has errors')
    .argument('<FILE>', 'the configuration')
    .option('--machine', 'also against the devices of this machine, as `sluice up` does')
    .option('--dir <DIR>', 'accepted as everywhere; check needs no appliance')
    .option('--json', 'print JSON')
    .action((file: string, options: CheckOptions) => check(file, options));
}

async function check(file: string, options: CheckOptions): Promise<void> {
  const [{ checkFile }, { formatProblem }] = await Promise.all([import('../../config/check.js'), import('../../config/problem.js')]);
  const facts = options.machine ? await readFacts() : undefined;
  const { problems, config } = checkFile(file, facts);
  const devices = Object.values(config?.interfaces ?? {}).map((one) => one.device);
  const obstacles = facts && config ? findObstacles(facts, devices, () => false) : [];
  const errors = problems.filter((problem) => problem.severity === 'error').length + obstacles.length;
  const warnings = problems.length + obstacles.length - errors;
  if (options.json) printJson({ file, valid: errors === 0, errors, warnings, problems, obstacles });
  else {
    for (const problem of problems) print(formatProblem(problem));
    for (const { message, remedy } of obstacles) print(`error: ${message}\n    ${remedy}`);
    const count = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`;
    if (errors === 0) print(`${file}: good${warnings > 0 ? `, with ${count(warnings, 'warning')}` : ''}${facts ? '' : ' (the devices of this machine were not looked at; --machine does)'}`);
    else throw new CliError(`${file}: ${count(errors, 'error')}, ${count(warnings, 'warning')}`);
  }
  if (errors > 0) process.exitCode = 1;
}
