// Following records over restarts of control: it goes on, says that it was away, and gives up only when nobody answers for long.
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ClientError, type ApiClient } from '../../src/api/client.js';
import { followRecords } from '../../src/cli/follow.js';

vi.mock('node:timers/promises', () => ({ setTimeout: (ms: number) => new Promise((resolve) => globalThis.setTimeout(resolve, ms)) })); // on the clock of the test

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'performance'] }));
afterEach(() => void vi.useRealTimers());

const NOBODY = new ClientError('NOT_RUNNING', 'nobody answers');
const LAST_WORD = new ClientError('SLUICE_TEST', 'enough');

/** Each connection: what it does. */
async function follow(connections: ((say: (line: string) => void) => Promise<void>)[]): Promise<{ shown: string[]; missed: number[]; away: number; error: unknown; queries: unknown[] }> {
  const seen = { shown: [] as string[], missed: [] as number[], away: 0, error: undefined as unknown, queries: [] as unknown[] };
  const client = { socket: '/run/x', lines: (_path: string, query: { last: number }, onLine: (line: string) => void) => {
    seen.queries.push(query.last);
    return (connections.shift() ?? (() => Promise.reject(LAST_WORD)))(onLine);
  } } as unknown as ApiClient;
  const followed = followRecords(client, {}, 7, (line) => seen.shown.push(line), (count) => seen.missed.push(count), () => { seen.away += 1; }).catch((error: unknown) => { seen.error = error; });
  while (seen.error === undefined) await vi.advanceTimersByTimeAsync(100);
  await followed;
  return seen;
}
const there = (seconds: number, ...lines: string[]) => async (say: (line: string) => void): Promise<void> => {
  lines.forEach(say);
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
};
const gone = (): Promise<void> => Promise.reject(NOBODY);

test('control is restarted twice, with an hour in between in which nothing happened', async () => {
  const seen = await follow([there(10, 'a', '{"kind":"lost","records":3}'), gone, there(3600), gone, gone, there(1, 'b')]);
  expect(seen).toEqual({ shown: ['a', 'b'], missed: [3], away: 3, error: LAST_WORD, queries: [7, 0, 0, 0, 0, 0, 0] });
});

test('nobody comes back', async () => {
  const seen = await follow([there(1), ...Array.from({ length: 1000 }, () => gone)]);
  expect(seen.error).toMatchObject({ code: 'NOT_RUNNING' });
  expect(seen.queries.length).toBeGreaterThan(100);
  expect(seen.away).toBe(1);
});

test('nobody was there to begin with', async () => {
  expect(await follow([gone])).toMatchObject({ error: NOBODY, away: 0 });
});
