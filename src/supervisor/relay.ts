// Standard output that blocks nobody, and the way of a child's onto it. Node writes to a pipe synchronously: whoever does not read on would
// hold up the process. So the descriptor is opened anew, non-blocking, where the system allows it (a pipe, a terminal, a file).
// Who: child.ts for the supervisor, src/flowlog/stdout-sink.ts for control. Bound: one chunk under way; then the child's pipe fills, and the
// child is who sheds.
import { constants, openSync, write } from 'node:fs';
import type { Readable } from 'node:stream';

const STDOUT = 1;
const RETRY_MS = 20;
let opened: number | undefined;

/** Called while the process may still open it, else at the first use. */
export function openStdout(): number {
  if (opened !== undefined) return opened;
  try {
    opened = openSync(`/proc/self/fd/${STDOUT}`, constants.O_WRONLY | constants.O_APPEND | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    opened = STDOUT; // a socket, like the journal's: it is read always
  }
  return opened;
}

export function relayToStdout(from: Readable): void {
  from.on('data', (chunk: Buffer) => {
    from.pause();
    writeOut(chunk, 0, () => from.resume());
  });
  from.on('error', () => { /* the child is gone */ });
}

function writeOut(chunk: Buffer, at: number, done: () => void): void {
  write(openStdout(), chunk, at, (error, written) => {
    if (error?.code === 'EAGAIN') setTimeout(() => writeOut(chunk, at, done), RETRY_MS).unref();
    else if (error || at + written === chunk.length) done(); // nobody listens any more: what comes is for nobody
    else writeOut(chunk, at + written, done);
  });
}
