// The thread that examines configurations which somebody only asks about. Who: src/control/checker.ts. One question after the other, after
// whatever else wants a processor: packets go before commits, and commits before questions. Nothing is kept of a text once it is answered.
import { getPriority, setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { forgetEnvironments } from '../config/environment.js';
import { checkHere, type CheckAnswer, type CheckQuestion } from './checker.js';

const NICER_THAN_CONTROL = 5;

try {
  setPriority(Math.min(19, getPriority() + NICER_THAN_CONTROL)); // of this thread
} catch { /* it goes before commits then */ }

parentPort!.on('message', async ({ number, text, facts }: CheckQuestion) => {
  const answer = await checkHere(text, facts);
  forgetEnvironments();
  parentPort!.postMessage({ number, ...answer } satisfies CheckAnswer);
});
parentPort!.postMessage('ready');
