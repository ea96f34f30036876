// `sluice up`: runs the appliance in the foreground. Who: src/cli/program.ts; the work is src/supervisor/up.ts's.
import type { Command } from 'commander';
import { chosenDirectory } from '../../supervisor/run-directory.js';

interface UpOptions { config: string; dir?: string; logJson?: boolean; json?: boolean }

export function addUpCommand(program: Command): void {
  program.command('up').description('run the appliance until Ctrl-C or SIGTERM; SIGHUP reads the configuration again')
    .requiredOption('--config <FILE>', 'the configuration')
    .option('--dir <DIR>', 'run directory (default: $SLUICE_DIR, else /run/sluice)')
    .option('--log-json', 'write logs as JSON lines')
    .option('--json', 'the same as --log-json')
    .addHelpText('after', `
It ends with everything taken away that it set: XDP programs, addresses, mounts, links that were down. One thing stays: the kernel's
own forwarding is switched off on the devices of the configuration, and it is not switched on again.
A killed \`up\` leaves the appliance forwarding; the next one with the same --dir takes it over.`)
    .action(async (options: UpOptions) => {
      const { up } = await import('../../supervisor/up.js');
      const code = await up({ config: options.config, dir: chosenDirectory(options.dir), logJson: options.logJson ?? options.json ?? false });
      process.exit(code);
    });
}
