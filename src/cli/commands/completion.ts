// `sluice completion bash|zsh`: prints the script that completes command lines in that shell. Who: src/cli/program.ts.
// Beside it the hidden `sluice completion-names KIND`, which these scripts ask for names of the running appliance.
import type { Command } from 'commander';
import { bashScript } from '../completion/bash.js';
import { describeCommand, NAME_KINDS, type CommandModel, type NameKind } from '../completion/model.js';
import { readNames, TIME_LIMIT_MS } from '../completion/values.js';
import { zshScript } from '../completion/zsh.js';
import { clientOf, type CommonOptions } from '../options.js';
import { print, printJson } from '../output.js';

const SHELLS = { bash: bashScript, zsh: zshScript } as const satisfies Record<string, (program: CommandModel) => string>;
type Shell = keyof typeof SHELLS;

export function addCompletionCommand(program: Command): void {
  program.command('completion').description('print the script that completes sluice\'s command lines in a shell')
    .addArgument(program.createArgument('<SHELL>', 'the shell').choices(Object.keys(SHELLS)))
    .option('--json', 'print the commands and options that the script is made of, as JSON')
    .addHelpText('after', `
For this shell alone:   source <(sluice completion bash)
For all users, bash:    sluice completion bash >/usr/share/bash-completion/completions/sluice
For all users, zsh:     sluice completion zsh >/usr/share/zsh/vendor-completions/_sluice
packaging/install.sh does the latter two.`)
    .action((shell: Shell, options: { json?: boolean }) => showScript(shell, options.json ?? false));
}

async function showScript(shell: Shell, asJson: boolean): Promise<void> {
  const { buildProgram } = await import('../program.js');
  const model = describeCommand(await buildProgram());
  if (asJson) printJson({ shell, program: model });
  else print(SHELLS[shell](model));
}

export function addCompletionNamesCommand(program: Command): void {
  program.command('completion-names', { hidden: true }).description('names that the running appliance knows, a line each')
    .addArgument(program.createArgument('<KIND>', 'of what').choices(NAME_KINDS))
    .option('--dir <DIR>', 'run directory of the appliance')
    .option('--json', 'print JSON')
    .action((kind: NameKind, options: CommonOptions) => showNames(kind, options));
}

/** No appliance, no rights, too slow: no names, and no noise at a prompt. */
async function showNames(kind: NameKind, options: CommonOptions): Promise<void> {
  const limit = setTimeout(() => process.exit(1), TIME_LIMIT_MS);
  const names = await readNames(clientOf(options), kind).catch(() => []);
  clearTimeout(limit);
  if (options.json) printJson({ names });
  else if (names.length > 0) print(names.join('\n'));
}
