// Standard output that blocks nobody, and the way of a child's onto it. Node writes to a pipe synchronously: whoever does not read on would
// hold up the process. So the descriptor is opened anew, non-blocking, where the system allows it (a pipe, a terminal, a file).
// Who: child.ts for the supervisor, src/flowlog/stdout-sink.ts for control. Bound: one chunk under way, and a line of LINE_BYTES_MAX that is not
// whole yet; then the child's pipe fills, and the child is who sheds.
import { constants, openSync, write } from 'node:fs';
import type { Readable } from 'node:stream';

const STDOUT = 1;
const RETRY_MS = 20;
const NEWLINE = 10;
const LINE_BYTES_MAX = 1024 * 1024;
let opened: number | undefined;
let writing: Promise<void> = Promise.resolve();

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

/** Whole lines: a child that is killed within one must not spoil the next child's first, nor a line of ours. */
export function relayToStdout(from: Readable): void {
  let rest = Buffer.alloc(0);
  const pass = (bytes: Buffer): void => {
    from.pause();
    writing = writing.then(() => writeOut(bytes)).then(() => void from.resume());
  };
  from.on('data', (chunk: Buffer) => {
    const end = chunk.lastIndexOf(NEWLINE) + 1;
    if (end === 0 && rest.length + chunk.length <= LINE_BYTES_MAX) {
      rest = Buffer.concat([rest, chunk]);
      return;
    }
    pass(Buffer.concat([rest, end === 0 ? chunk : chunk.subarray(0, end)]));
    rest = end === 0 ? Buffer.alloc(0) : Buffer.from(chunk.subarray(end));
  });
  from.on('end', () => { if (rest.length > 0) pass(Buffer.concat([rest, Buffer.of(NEWLINE)])); });
  from.on('error', () => { /* the child is gone */ });
}

function writeOut(chunk: Buffer): Promise<void> {
  return new Promise((resolve) => {
    const writeFrom = (at: number): void => write(openStdout(), chunk, at, (error, written) => {
      if (error?.code === 'EAGAIN') setTimeout(() => writeFrom(at), RETRY_MS).unref();
      else if (error || at + written === chunk.length) resolve(); // nobody listens any more: what comes is for nobody
      else writeFrom(at + written);
    });
    writeFrom(0);
  });
}
