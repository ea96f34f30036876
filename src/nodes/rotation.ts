// Rotation of a static key, step by step. Who: src/nodes/rotations.ts drives it. Pure: what is so goes in, what to do next comes out.
// Nothing is lost because at each moment both ends accept what the other one may use:
//   preparing   the engine makes the next key and answers to both from here on
//   announcing  our record has both keys; until each node has it in force, or the overlap has passed
//   switching   the engine makes its handshakes with the next key, one with every peer now
//   moving      until there is a session with each node that was made with the next key, or the overlap has passed
//   settling    our record has the next key alone; until each node has it in force, or the overlap has passed: a node that is told so ends
//               what sessions it has with the old one (src/wireguard/device.ts), hence not before they have moved
//   finishing   the engine wipes the old key, which nobody uses any more
// Each phase is on disk before its work begins, and each call of the engine may be repeated (src/engine/wireguard.ts): whatever dies between any
// two steps, the next look at what the engine has (`reconcile`) says where to go on.
// Peers that are no nodes cannot be told: they answer to none of this, and are waited for as long as for a node that is away.
import type { RotatePhase } from '../engine/wireguard.js';

export const PHASES = ['preparing', 'announcing', 'switching', 'moving', 'settling', 'finishing'] as const;
export type Phase = (typeof PHASES)[number];

export interface Rotation {
  interface: string;
  phase: Phase;
  /** Wall clock, milliseconds: it has to hold over a restart. */
  startedMs: number;
  sinceMs: number;
  overlapMs: number;
  /** Of our record that says what this phase waits for; null: there is none yet. */
  sequence: number | null;
  by: { name: string; via: string };
  force: boolean;
  /** Who was not waited for any longer. */
  left: string[];
}

/**
 * A peer of the tunnel. `have`: the sequence of our record that is in force at its end; undefined: it is no node. `hasOld`: there is a session,
 * and the newest one was made with the old key.
 */
export interface RotationPeer { name: string; have: number | null | undefined; hasOld: boolean }

/** What the engine says of the interface; undefined: it has none of this name. */
export type EngineRotation = 'none' | 'prepared' | 'switched' | undefined;

/** The call of the engine that a phase consists of. */
export const CALLS: Readonly<Partial<Record<Phase, RotatePhase>>> = { preparing: 'prepare', switching: 'switch', finishing: 'finish' };

/** Where to go on, given what the engine has. Undefined: there is nothing to go on with. */
export function reconcile(rotation: Rotation, engine: EngineRotation, nowMs: number): Rotation | undefined {
  const to = (phase: Phase): Rotation => (phase === rotation.phase ? rotation : enter(rotation, phase, nowMs));
  switch (rotation.phase) {
    case 'preparing': return engine === 'switched' ? to('moving') : rotation;
    case 'announcing': return engine === 'none' ? to('preparing') : engine === 'switched' ? to('moving') : rotation; // none: its next key was lost or damaged
    case 'switching': return engine === 'none' ? to('preparing') : rotation;
    case 'moving': case 'settling': return engine === 'prepared' ? to('switching') : engine === 'none' ? to('finishing') : rotation;
    case 'finishing': return engine === 'prepared' ? to('switching') : rotation;
  }
}

/** A rotation that the engine has begun and that we do not know of: our own state was lost. */
export function adopt(name: string, engine: 'prepared' | 'switched', overlapMs: number, nowMs: number): Rotation {
  return { interface: name, phase: engine === 'prepared' ? 'announcing' : 'moving', startedMs: nowMs, sinceMs: nowMs, overlapMs, sequence: null, by: { name: 'sluice', via: 'system' }, force: true, left: [] };
}

export function begin(name: string, by: Rotation['by'], overlapMs: number, force: boolean, nowMs: number): Rotation {
  return { interface: name, phase: 'preparing', startedMs: nowMs, sinceMs: nowMs, overlapMs, sequence: null, by, force, left: [] };
}

/** The next phase begins. */
export function enter(rotation: Rotation, phase: Phase, nowMs: number, left: readonly string[] = []): Rotation {
  return { ...rotation, phase, sinceMs: nowMs, sequence: null, left: [...new Set([...rotation.left, ...left])] };
}

/** The phase after one whose work is done. Undefined: it was the last. */
export function after(rotation: Rotation, nowMs: number, left: readonly string[] = []): Rotation | undefined {
  const next = PHASES[PHASES.indexOf(rotation.phase) + 1];
  return next === undefined ? undefined : enter(rotation, next, nowMs, left);
}

/** Peers that the phase still waits for. */
export function waitsFor({ phase, sequence }: Rotation, peers: readonly RotationPeer[]): string[] {
  if (CALLS[phase] !== undefined) return [];
  return peers.filter(({ have, hasOld }) => {
    if (phase === 'moving') return have !== undefined && hasOld;
    return sequence === null || have === undefined || have === null || have < sequence;
  }).map(({ name }) => name);
}

/** Has it waited long enough? A clock that was set back lengthens it by as much again at most. */
export function isOver({ sinceMs, overlapMs }: Rotation, nowMs: number): boolean {
  const waitedMs = nowMs - sinceMs;
  return waitedMs >= overlapMs || waitedMs < -overlapMs;
}
