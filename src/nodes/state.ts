// What this node has to remember of itself: its last record with the sequence, rotations under way, when each tunnel rotated last. One file,
// STATE/node/state.json, so that a step of a rotation and the record that says it are one write. Who: nodes.ts and its parts. Thread: control's main one.
import { readFileSync } from 'node:fs';
import { errorMessage } from '../engine/ipc.js';
import type { Log } from '../supervisor/log.js';
import { replaceFile } from '../supervisor/run-directory.js';
import type { NodeRecord, SignedRecord } from './record.js';
import type { Rotation } from './rotation.js';

interface State { version: 1; sequence: number; signed: SignedRecord | null; rotations: Rotation[]; rotatedAtMs: Record<string, number> }

export class NodeState {
  private state: State;

  constructor(private readonly path: string, private readonly log: Log) { this.state = this.read(); }

  get sequence(): number { return this.state.sequence; }
  get signed(): SignedRecord | null { return this.state.signed; }
  get rotations(): readonly Rotation[] { return this.state.rotations; }
  get rotatedAtMs(): Readonly<Record<string, number>> { return this.state.rotatedAtMs; }

  get record(): NodeRecord | undefined { return this.signed === null ? undefined : JSON.parse(this.signed.record) as NodeRecord; }
  rotationOf(name: string): Rotation | undefined { return this.rotations.find((one) => one.interface === name); }

  /** Durable when it returns; when it throws, nothing has changed. */
  write(change: Partial<State>): void {
    const state = { ...this.state, ...change };
    replaceFile(this.path, JSON.stringify(state));
    this.state = state;
  }

  private read(): State {
    const fresh: State = { version: 1, sequence: 0, signed: null, rotations: [], rotatedAtMs: {} };
    try {
      const state = JSON.parse(readFileSync(this.path, 'utf8')) as State;
      if (state.version !== 1 || !Number.isSafeInteger(state.sequence) || !Array.isArray(state.rotations)) throw new Error('not of this form');
      return state;
    } catch (error) {
      // What is lost comes back: sequences follow the clock, and the engine knows where a rotation is.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.log.error(`${this.path} is damaged (${errorMessage(error)}); starting anew`);
      return fresh;
    }
  }
}
