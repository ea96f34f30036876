// POST /api/v1/restart: whoever asks learns which process ends, also when the connection to it breaks first.
import { expect, test } from 'vitest';
import { IpcError } from '../../src/engine/ipc.js';
import { identify, writePidFile } from '../../src/supervisor/pid-file.js';
import { startApi } from './bench.js';

test('without a supervisor nobody would start it again', async () => {
  const bench = await startApi();
  expect(await bench.ask('POST', 'restart', { body: { process: 'engine' } })).toMatchObject({ status: 503, body: { code: 'SLUICE_NOT_READY' } });
});

test('an engine whose answer was lost with the connection has ended all the same; one that refuses has not', async () => {
  const bench = await startApi();
  writePidFile(bench.paths.supervisorPid, identify(process.ppid, 'supervisor', 'node')!); // our parent plays it
  const { engine } = bench.control;
  engine.restart = () => Promise.reject(new IpcError('SLUICE_IPC_CLOSED', 'the connection broke: write EPIPE'));
  expect(await bench.ask('POST', 'restart', { body: { process: 'engine' } })).toMatchObject({ status: 202, body: { process: 'engine', pid: process.pid } });
  engine.restart = () => Promise.reject(new IpcError('SLUICE_IPC_METHOD', 'this engine is nobody\'s child'));
  expect(await bench.ask('POST', 'restart', { body: { process: 'engine' } })).toMatchObject({ status: 409, body: { code: 'SLUICE_IPC_METHOD' } });
});
