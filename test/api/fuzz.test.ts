// Some thousand random requests made from the OpenAPI document; test/tools/api-fuzz.sh says how many more, and with which seed.
import { expect, onTestFinished, test } from 'vitest';
import { fuzzApi } from '../tools/api-fuzz.js';

const byHand = process.env['SLUICE_API_FUZZ_REQUESTS'];
const requests = Number(byHand ?? 2000);
const seeds = byHand === undefined ? [1, 20_261_121] : [Number(process.env['SLUICE_API_FUZZ_SEED'] ?? 1)];
const log = byHand === undefined ? undefined : (line: string): void => void process.stdout.write(`${line}\n`);

test.each(seeds)('no 500, no answer beside the document, no change by a viewer; seed %d', async (seed) => {
  const result = await fuzzApi({ requests, seed, ...(log ? { log } : {}) }, (stop) => onTestFinished(stop));
  log?.(JSON.stringify(result, null, 2));
  // It must get through to what it tests: many operations answered well, and each kind of refusal met.
  expect(Object.keys(result.operations).length).toBeGreaterThan(35);
  expect(Object.keys(result.statuses)).toEqual(expect.arrayContaining(['200', '400', '403', '404', '405', '412']));
}, byHand === undefined ? 120_000 : 24 * 3600_000);
