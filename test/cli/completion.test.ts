// Completion, in real shells on a real terminal: what stands on the line after a press of TAB. The appliance is a real control.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { describeCommand, flatten } from '../../src/cli/completion/model.js';
import { buildProgram, COMMAND_NAMES } from '../../src/cli/program.js';
import { findMissing } from '../../src/control/status.js';
import { CONFIG, startBench, type ControlBench } from '../control/bench.js';
import { makeProgramDirectory, openTerminal, type Terminal } from './terminal.js';

const hasZsh = spawnSync('zsh', ['--version']).status === 0;
const sluice = (...args: string[]): string => execFileSync(process.execPath, ['bin/sluice', ...args], { encoding: 'utf8' });

const SHELLS = {
  bash: {
    start: 'bash --norc --noprofile -i',
    /** No bell, no paging, no brackets around pasted text: the line alone. */
    prepare: (file: string) => `bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; bind 'set page-completions off'; PS1='$ '; source ${file}; printf 'rea%s\\n' dy\r`,
  },
  zsh: {
    start: 'zsh -f -i',
    prepare: (file: string) => `bindkey -e; unset zle_bracketed_paste; unsetopt promptsp promptcr; setopt nobeep; fpath=(${file.replace(/\/[^/]*$/, '')} $fpath); autoload -Uz compinit; compinit -u -d ${file}.dump; PS1='$ '; printf 'rea%s\\n' dy\r`,
  },
} as const;
type Shell = keyof typeof SHELLS;

async function openShell(shell: Shell): Promise<{ terminal: Terminal; directory: string }> {
  const directory = makeProgramDirectory();
  const file = join(directory, '_sluice');
  writeFileSync(file, sluice('completion', shell));
  const terminal = openTerminal(`cd ${directory}; exec ${SHELLS[shell].start}`, { env: { PATH: `${directory}:${process.env['PATH'] ?? ''}`, HOME: directory } });
  terminal.type(SHELLS[shell].prepare(file));
  await terminal.sees(/ready\r?\n/);
  terminal.forget();
  return { terminal, directory };
}

/** Has the shell print the words of the line as it would run them: quoting and escaping are the shell's own affair. */
async function complete(terminal: Terminal, line: string, expected: readonly string[]): Promise<void> {
  terminal.forget();
  terminal.type(`${line}\t`);
  terminal.type('\x01printf "<%s>" \x05; printf "%s\\n" " en"d\r');
  await terminal.sees(/<sluice>.* end\r?\n/);
  const printed = terminal.output().slice(terminal.output().lastIndexOf('<sluice>'));
  expect([...printed.matchAll(/<([^>]*)>/g)].map((match) => match[1])).toEqual(expected);
}

async function startListening(config = CONFIG): Promise<ControlBench> {
  const bench = await startBench(config);
  await bench.api.listen({ path: bench.paths.apiSocket });
  await expect.poll(() => findMissing(bench.control)).toEqual([]);
  return bench;
}

describe('the model', () => {
  test('holds every command that there is, each with --help and --json', async () => {
    const model = describeCommand(await buildProgram());
    expect(model.commands.map((one) => one.path[0])).toEqual([...COMMAND_NAMES.filter((name) => name !== 'completion-names'), 'help']);
    const leaves = flatten(model).filter((one) => one.commands.length === 0 && one.path.at(-1) !== 'help');
    for (const command of leaves) expect(command.options.flatMap((option) => option.names), command.path.join(' ')).toEqual(expect.arrayContaining(['--help', '--json']));
  });

  test('options know what their values are', async () => {
    const model = describeCommand(await buildProgram());
    const value = (path: string, name: string): unknown => flatten(model).find((one) => one.path.join(' ') === path)!.options.find((one) => one.names.includes(name))!.value;
    expect(value('up', '--config')).toEqual({ kind: 'file' });
    expect(value('flows', '--dir')).toEqual({ kind: 'directory' });
    expect(value('flows', '--rule')).toEqual({ kind: 'names', of: 'rules' });
    expect(value('observe', '--verdict')).toEqual({ kind: 'words', words: ['allowed', 'dropped'] });
    expect(value('simulate', '--from')).toEqual({ kind: 'names', of: 'interfaces' });
    expect(value('flows', '--live')).toBeUndefined();
  });

  test('as JSON', () => {
    expect(JSON.parse(sluice('completion', 'zsh', '--json'))).toMatchObject({ shell: 'zsh', program: { commands: expect.arrayContaining([expect.objectContaining({ path: ['status'] })]) as unknown } });
  });

  test('names: none and no noise without an appliance', () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ['bin/sluice', 'completion-names', 'rules', '--dir', '/tmp/sluice-nobody-is-here'], { encoding: 'utf8' });
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
  });
});

describe.each([['bash', true], ['zsh', hasZsh]] as const)('%s', (shell, isHere) => {
  test.skipIf(!isHere)('commands, options, choices and files', async () => {
    const { terminal, directory } = await openShell(shell);
    writeFileSync(join(directory, 'appliance one.yaml'), '');
    await complete(terminal, 'sluice stat', ['sluice', 'status']);
    await complete(terminal, 'sluice flows --foll', ['sluice', 'flows', '--follow']);
    await complete(terminal, 'sluice observe --verdict drop', ['sluice', 'observe', '--verdict', 'dropped']);
    await complete(terminal, 'sluice observe --verdict=drop', ['sluice', 'observe', '--verdict=dropped']);
    await complete(terminal, 'sluice observe --follow --protocol icmpv', ['sluice', 'observe', '--follow', '--protocol', 'icmpv6']);
    await complete(terminal, 'sluice check app', ['sluice', 'check', 'appliance one.yaml']);
    await complete(terminal, 'sluice completion ba', ['sluice', 'completion', 'bash']);
    await complete(terminal, 'sluice help sim', ['sluice', 'help', 'simulate']);
    await complete(terminal, 'sluice config help hist', ['sluice', 'config', 'help', 'history']);
    await complete(terminal, 'sluice nothing --fo', ['sluice', 'nothing', '--fo']);
  });

  test.skipIf(!isHere)('names of the running appliance, whatever they hold; none of them is run', async () => {
    const { terminal, directory } = await openShell(shell);
    const names = ['web:https', 'zwei Worte', '$(touch fallen)', '`touch fallen`;x', 'that\'s "it"'];
    const rules = names.map((name) => `    - { name: ${JSON.stringify(name)}, from: [trust], to: [untrust], service: [tcp/443], action: allow }\n`).join('');
    const bench = await startListening(CONFIG.replace('  rules:\n', `  rules:\n${rules}`));
    const dir = bench.paths.dir;
    await complete(terminal, `sluice flows --dir ${dir} --rule outb`, ['sluice', 'flows', '--dir', dir, '--rule', 'outbound']);
    await complete(terminal, `sluice flows --dir=${dir} --rule outb`, ['sluice', 'flows', `--dir=${dir}`, '--rule', 'outbound']);
    await complete(terminal, 'sluice config conf', ['sluice', 'config', 'confirm']);
    await complete(terminal, `sluice config rollback --dir ${dir} `, ['sluice', 'config', 'rollback', '--dir', dir, '1']);
    await complete(terminal, `sluice simulate --dir ${dir} --from un`, ['sluice', 'simulate', '--dir', dir, '--from', 'untrust']);
    await complete(terminal, `sluice flows --dir ${dir} --rule web:h`, ['sluice', 'flows', '--dir', dir, '--rule', 'web:https']);
    await complete(terminal, `sluice flows --dir ${dir} --rule web`, ['sluice', 'flows', '--dir', dir, '--rule', 'web:https']);
    await complete(terminal, `sluice flows --dir ${dir} --rule zw`, ['sluice', 'flows', '--dir', dir, '--rule', 'zwei Worte']);
    await complete(terminal, `sluice flows --dir ${dir} --rule zwei\\ W`, ['sluice', 'flows', '--dir', dir, '--rule', 'zwei Worte']);
    await complete(terminal, `sluice flows --dir ${dir} --rule that`, ['sluice', 'flows', '--dir', dir, '--rule', 'that\'s "it"']);
    await complete(terminal, `sluice flows --dir ${dir} --rule \\$`, ['sluice', 'flows', '--dir', dir, '--rule', '$(touch fallen)']);
    await complete(terminal, `sluice flows --dir ${dir} --rule \\\``, ['sluice', 'flows', '--dir', dir, '--rule', '`touch fallen`;x']);
    expect(existsSync(join(directory, 'fallen'))).toBe(false);
  });
});
