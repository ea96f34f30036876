// `sluice backup` and `sluice restore`: configuration and keys as one file, encrypted with a passphrase. Who: src/cli/program.ts.
// The passphrase comes from a file, from SLUICE_PASSPHRASE or from the terminal, never from the command line, which others can read.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import type { CommitResult } from '../../control/transaction-types.js';
import { replaceFile } from '../../supervisor/run-directory.js';
import { whyUnread } from '../../lib/text.js';
import { addCommon, clientOf, type CommonOptions } from '../options.js';
import { CliError, ExitCode, formatBytes, print, printJson } from '../output.js';
import { settle } from './config.js';

interface BackupOptions extends CommonOptions { passphraseFile?: string; force?: boolean; dryRun?: boolean }
interface Restored { made: string; hostname: string; revision: number; keys: number; commit: CommitResult }

const PASSPHRASE_CHARACTERS_MIN = 12;

export function addBackupCommand(program: Command): void {
  addOptions(program.command('backup').description('configuration and keys as one encrypted file').argument('<FILE>', 'where to write it'))
    .option('--force', 'replace a file that is there')
    .action((file: string, options: BackupOptions) => backup(file, options));
}

export function addRestoreCommand(program: Command): void {
  addOptions(program.command('restore').description('put a backup in force: its configuration as a new revision, its keys').argument('<FILE>', 'the backup'))
    .option('--dry-run', 'open and check it, restore nothing')
    .action((file: string, options: BackupOptions) => restore(file, options));
}

function addOptions(command: Command): Command {
  return addCommon(command).option('--passphrase-file <FILE>', 'its first line is the passphrase (default: $SLUICE_PASSPHRASE, else asked for)');
}

async function backup(file: string, options: BackupOptions): Promise<void> {
  if (existsSync(file) && !options.force) throw new CliError(`${file} is there already`, 'choose another name, or --force');
  const passphrase = await passphraseOf(options, true);
  if (passphrase.length < PASSPHRASE_CHARACTERS_MIN) throw new CliError(`the passphrase has fewer than ${PASSPHRASE_CHARACTERS_MIN} characters`, 'take a longer one: it alone protects the keys in the file');
  const client = clientOf(options);
  const made = await settle<{ data: string; revision: number; keys: number }>(client, await client.post('/api/v1/backup', { passphrase }));
  const bytes = Buffer.from(made.data, 'base64');
  replaceFile(file, bytes, 0o600);
  if (options.json) printJson({ file, bytes: bytes.length, revision: made.revision, keys: made.keys });
  else print(`${file}: revision ${made.revision} and ${made.keys} files of keys, ${formatBytes(bytes.length)}. Without the passphrase nobody opens it.`);
}

async function restore(file: string, options: BackupOptions): Promise<void> {
  let data: string;
  try {
    data = readFileSync(file).toString('base64');
  } catch (error) {
    throw new CliError(`${file}: ${whyUnread(error)}`, 'name a backup that this user may read');
  }
  const { dryRun } = options;
  const client = clientOf(options);
  const restored = await settle<Restored>(client, await client.post('/api/v1/restore', { data, passphrase: await passphraseOf(options, false), dryRun }));
  if (options.json) return printJson(restored);
  const what = `backup of ${restored.hostname}, made ${restored.made}: ${restored.commit.changeCount} changes to what runs, ${restored.keys} files of keys`;
  if (dryRun) print(`Good: ${what}. Nothing was restored.`);
  else print(`Restored as revision ${restored.commit.revision}: ${what}.`);
}

async function passphraseOf(options: BackupOptions, isNew: boolean): Promise<string> {
  const { passphraseFile } = options;
  if (passphraseFile !== undefined) {
    try {
      return readFileSync(passphraseFile, 'utf8').split(/\r?\n/, 1)[0]!;
    } catch (error) {
      throw new CliError(`${passphraseFile}: ${whyUnread(error)}`, 'name a file that this user may read');
    }
  }
  const given = process.env['SLUICE_PASSPHRASE'];
  if (given) return given;
  if (!process.stdin.isTTY) throw new CliError('there is no passphrase', 'use --passphrase-file FILE, or SLUICE_PASSPHRASE');
  return askUnseen(isNew ? ['Passphrase: ', 'Once more: '] : ['Passphrase: ']);
}

/** From the terminal, which shows nothing of it and is given back as it was, also after Ctrl-C. Not readline's own terminal: that echoes what stty does not. */
async function askUnseen(prompts: readonly string[]): Promise<string> {
  const echo = (word: 'echo' | '-echo'): void => void spawnSync('stty', [word], { stdio: ['inherit', 'ignore', 'ignore'] });
  const leave = (): never => {
    echo('echo');
    process.stderr.write('\n');
    process.exit(ExitCode.REFUSED);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, leave);
  echo('-echo');
  const reader = createInterface({ input: process.stdin, terminal: false });
  const lines = reader[Symbol.asyncIterator]();
  const answers: string[] = [];
  try {
    for (const prompt of prompts) {
      process.stderr.write(prompt);
      const { value, done } = await lines.next();
      process.stderr.write('\n');
      if (done) throw new CliError('there is no passphrase');
      answers.push(value);
    }
  } finally {
    echo('echo');
    reader.close();
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.removeListener(signal, leave);
  }
  if (answers.some((answer) => answer !== answers[0])) throw new CliError('the two are not the same');
  return answers[0]!;
}
