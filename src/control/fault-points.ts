// Fault points: named places within a commit at which a test kills control, to prove that what it finds afterwards is the old
// configuration or the new one. Who: store-files.ts, store.ts and transactions.ts pass them; test/control/kill.test.ts walks the list.
// Outside such a test SLUICE_FAULT_POINT is not set, and passing one costs a comparison. Setting it takes the rights to start control.

/** In the order in which a commit passes them; those of files come once for each file written. */
export const FAULT_POINTS = [
  'commit-begun', 'commit-parsed', 'commit-validated',
  'revision-begun', 'revision-opened', 'revision-half-written', 'revision-written', 'revision-synced', 'revision-linked',
  'commit-prepared', 'change-begun', 'change-compiled', 'change-configuring', 'change-configured', 'change-applying', 'change-applied',
  'pointer-begun', 'pointer-opened', 'pointer-half-written', 'pointer-written', 'pointer-synced', 'pointer-linked', 'pointer-durable',
  'change-kept', 'revision-named', 'history-pruning', 'history-pruned', 'candidate-dropped', 'commit-answering',
] as const;
export type FaultPoint = (typeof FAULT_POINTS)[number];

const armed = process.env['SLUICE_FAULT_POINT'];

/** SIGKILL of itself reaches a process before the call returns. */
export function passFaultPoint(point: FaultPoint): void {
  if (armed === point) process.kill(process.pid, 'SIGKILL');
}
