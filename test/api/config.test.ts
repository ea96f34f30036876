// The configuration as a whole over the API: preconditions, commits, confirmation, rollback, history, differences, candidate.
import { describe, expect, test } from 'vitest';
import { findMissing } from '../../src/control/status.js';
import { CONFIG, startBench, type ControlBench } from '../control/bench.js';

const RENAMED = CONFIG.replace('telnet', 'old-telnet');
const PREFIX = '/api/v1/config';

interface Answer { status: number; body: Record<string, unknown>; headers: Record<string, unknown>; text: string }
type Method = 'GET' | 'PUT' | 'POST' | 'DELETE';

async function bench(): Promise<{ control: ControlBench; ask(method: Method, path: string, payload?: object | string, headers?: Record<string, string>): Promise<Answer> }> {
  const control = await startBench();
  await expect.poll(() => findMissing(control.control)).toEqual([]);
  return {
    control,
    async ask(method, path, payload, headers = {}) {
      const answer = await control.api.inject({ method, url: `${PREFIX}${path}`, headers, ...(payload === undefined ? {} : { payload }) });
      const text = answer.body;
      return { status: answer.statusCode, headers: answer.headers, text, body: text.startsWith('{') ? JSON.parse(text) as Record<string, unknown> : {} };
    },
  };
}

describe('the whole', () => {
  test('read as JSON and as the text that was committed; known already', async () => {
    const { ask } = await bench();
    const json = await ask('GET', '');
    expect(json).toMatchObject({ status: 200, body: { version: 1, hostname: 'nva-test' }, headers: { 'sluice-revision': '1' } });
    expect(await ask('GET', '', undefined, { accept: 'application/yaml' })).toMatchObject({ status: 200, text: CONFIG });
    expect(await ask('GET', '', undefined, { 'if-none-match': json.headers['etag'] as string })).toMatchObject({ status: 304 });
  });

  test('put needs If-Match; the same again changes nothing; an outdated one gets the difference', async () => {
    const { ask } = await bench();
    const { headers: { etag } } = await ask('GET', '');
    const yaml = { 'content-type': 'application/yaml' };
    expect(await ask('PUT', '', RENAMED, yaml)).toMatchObject({ status: 428, body: { code: 'SLUICE_API_PRECONDITION_REQUIRED' } });
    const put = await ask('PUT', '?comment=renamed', RENAMED, { ...yaml, 'if-match': etag as string });
    expect(put).toMatchObject({ status: 200, body: { revision: 2, changeCount: 2 } });
    expect(await ask('PUT', '', RENAMED, { ...yaml, 'if-match': put.headers['etag'] as string })).toMatchObject({ status: 200, body: { revision: 2, changes: [] } });
    expect(await ask('PUT', '', CONFIG, { ...yaml, 'if-match': etag as string })).toMatchObject({ status: 412, body: { code: 'SLUICE_CONFIG_CONFLICT', changeCount: 2, difference: expect.stringContaining('old-telnet') as string } });
    const config = JSON.parse((await ask('GET', '')).text) as object;
    expect(await ask('PUT', '', { ...config, hostname: 'nva-9' }, { 'if-match': '*' })).toMatchObject({ status: 200, body: { revision: 3, changes: [{ path: 'hostname', kind: 'changed' }] } });
  });

  test.each<[string, object | string, Record<string, string>, number, string]>([
    ['YAML that is none', 'a: [', { 'content-type': 'application/yaml', 'if-match': '*' }, 422, 'SLUICE_CONFIG_INVALID'],
    ['a value of no shape', { version: 2 }, { 'if-match': '*' }, 422, 'SLUICE_CONFIG_INVALID'],
    ['a list', [1] as unknown as object, { 'if-match': '*' }, 422, 'SLUICE_CONFIG_INVALID'],
    ['nothing', '', { 'content-type': 'application/yaml', 'if-match': '*' }, 422, 'SLUICE_CONFIG_INVALID'],
    ['a tag that is none', CONFIG, { 'content-type': 'application/yaml', 'if-match': 'abc' }, 428, 'SLUICE_API_PRECONDITION_REQUIRED'],
  ])('%s', async (_name, payload, headers, status, code) => {
    const { ask, control } = await bench();
    expect(await ask('PUT', '', payload, headers)).toMatchObject({ status, body: { code } });
    expect(control.transactions.running.revision).toBe(1);
  });
});

describe('transactions', () => {
  test('commit, confirm, rollback, history, differences', async () => {
    const { ask } = await bench();
    expect(await ask('POST', '/commit', { text: RENAMED, dryRun: true })).toMatchObject({ status: 200, body: { revision: 1, changeCount: 2 } });
    expect(await ask('POST', '/confirm')).toMatchObject({ status: 409, body: { code: 'SLUICE_CONFIRM_NONE' } });
    expect(await ask('POST', '/commit', { text: RENAMED, comment: 'why not', confirmWithinS: 60 })).toMatchObject({ status: 200, body: { revision: 2, confirmBy: expect.any(String) as string } });
    expect(await ask('POST', '/commit', { text: CONFIG })).toMatchObject({ status: 409, body: { code: 'SLUICE_CONFIRM_PENDING', revision: 2, revertTo: 1 } });
    expect(await ask('POST', '/confirm')).toMatchObject({ status: 200, body: { revision: 2, running: true } });
    expect(await ask('POST', '/rollback', { revision: 1 })).toMatchObject({ status: 200, body: { revision: 3 } });
    expect(await ask('POST', '/rollback', { revision: 99 })).toMatchObject({ status: 404 });
    expect((await ask('GET', '/history?limit=2')).body).toMatchObject({ total: 3, revisions: [{ revision: 3, action: 'rollback', running: true }, { revision: 2, comment: 'why not' }] });
    expect((await ask('GET', '/history/2')).body).toMatchObject({ text: RENAMED });
    expect(await ask('GET', '/history/99')).toMatchObject({ status: 404 });
    expect((await ask('GET', '/diff?from=1&to=2')).body).toMatchObject({ changeCount: 2, text: expect.stringContaining('+ firewall.rules[old-telnet]') as string });
    expect(await ask('GET', '/diff?from=1&to=x')).toMatchObject({ status: 400 });
  });

  test('candidate: set, read, compared, committed, gone', async () => {
    const { ask } = await bench();
    expect(await ask('GET', '/candidate')).toMatchObject({ status: 404 });
    expect(await ask('PUT', '/candidate', { text: 'a: [' })).toMatchObject({ status: 422 });
    expect(await ask('PUT', '/candidate', { text: RENAMED })).toMatchObject({ status: 200 });
    expect((await ask('GET', '/diff?from=running&to=candidate')).body).toMatchObject({ changeCount: 2 });
    expect(await ask('POST', '/commit', {})).toMatchObject({ status: 200, body: { revision: 2 } });
    expect(await ask('GET', '/candidate')).toMatchObject({ status: 404 });
    await ask('PUT', '/candidate', { text: CONFIG });
    expect(await ask('DELETE', '/candidate')).toMatchObject({ status: 204 });
  });

  test('check says what is wrong, and changes nothing', async () => {
    const { ask, control } = await bench();
    expect((await ask('POST', '/check', { text: CONFIG.replace('eth2', 'eth9') })).body).toMatchObject({ valid: false, problems: [{ path: 'interfaces.trust.device' }] });
    expect((await ask('POST', '/check', { text: RENAMED })).body).toMatchObject({ valid: true, running: 1 });
    expect(control.transactions.running.revision).toBe(1);
  });
});
