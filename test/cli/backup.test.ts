// The passphrase of `sluice backup`, asked for on a real terminal: nobody reads it from the screen, and the terminal is given back.
import { expect, test } from 'vitest';
import { makeRunDirectory } from '../engine/fake-addon.js';
import { makeProgramDirectory, openTerminal, type Terminal } from './terminal.js';

const PASSPHRASE = 'correct horse battery';

function ask(): Terminal {
  const directory = makeProgramDirectory();
  return openTerminal(`PATH=${directory}:$PATH; sluice backup ${directory}/file --dir ${makeRunDirectory().dir}; echo code $?; stty -a | grep -o '[ -]echo ' `);
}

test('is not shown, and has to be the same twice', async () => {
  const terminal = ask();
  await terminal.sees('Passphrase: ');
  terminal.type(`${PASSPHRASE}\n`);
  await terminal.sees('Once more: ');
  terminal.type('another one, not it\n');
  await terminal.sees('the two are not the same');
  await terminal.sees('code 1');
  await terminal.sees(/[^-]echo /);
  expect(terminal.output()).not.toMatch(/horse|another/);
});

test('pasted at once, it goes on to ask the appliance', async () => {
  const terminal = ask();
  await terminal.sees('Passphrase: ');
  terminal.type(`${PASSPHRASE}\n${PASSPHRASE}\n`);
  await terminal.sees('no appliance runs');
  expect(terminal.output()).not.toContain('horse');
});

test.each([['Ctrl-C', '\u0003'], ['Ctrl-D', '\u0004']])('%s gives the terminal back', async (_name, key) => {
  const terminal = ask();
  await terminal.sees('Passphrase: ');
  terminal.type(key);
  await terminal.sees('code 1');
  await terminal.sees(/[^-]echo /);
});
