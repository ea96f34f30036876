// An engine of plain JavaScript, as far as rotation goes: which static keys it has, with which it begins, to which it answers.
import type { EngineRotation } from '../../src/nodes/rotation.js';
import type { RotatePhase, WireguardView } from '../../src/engine/wireguard.js';
import { IpcError } from '../../src/engine/ipc.js';
import { makeKey } from './support.js';

export class FakeEngine {
  current = makeKey();
  next: string | null = null;
  phase: Exclude<EngineRotation, undefined> = 'none';
  calls: RotatePhase[] = [];
  wiped: string[] = [];
  /** Our key of each peer's newest session, by its name; none: with the first one. */
  sessions = new Map<string, string>();
  /** Handshakes take a while. */
  onSwitch: () => void = () => void setTimeout(() => this.shakeHands(), 5).unref();
  onHandshake: () => void = () => undefined;
  onChange: () => void = () => undefined;

  constructor(readonly name = 'wg0', readonly peers: readonly string[] = ['nva-2']) {}

  /** The key that its handshakes are made with, and those that it answers to. */
  get begins(): string { return this.phase === 'switched' ? this.next! : this.current; }
  get answers(): string[] { return this.next === null ? [this.current] : [this.current, this.next]; }

  rotate(name: string, phase: RotatePhase): void {
    if (name !== this.name) throw new IpcError('SLUICE_WIREGUARD_ROTATION', `there is no WireGuard interface '${name}'`);
    this.calls.push(phase);
    if (phase === 'prepare') {
      if (this.phase === 'switched') throw new IpcError('SLUICE_WIREGUARD_ROTATION', 'a rotation is under way already; finish it first');
      this.next ??= makeKey();
      this.phase = 'prepared';
    } else if (phase === 'switch') {
      if (this.phase === 'none') throw new IpcError('SLUICE_WIREGUARD_ROTATION', 'there is no next key; prepare one first');
      this.phase = 'switched';
      this.onSwitch();
    } else if (this.phase === 'switched') {
      this.wiped.push(this.current);
      this.current = this.next!;
      this.next = null;
      this.phase = 'none';
    } else if (this.phase === 'prepared') throw new IpcError('SLUICE_WIREGUARD_ROTATION', 'handshakes still use the old key; switch first');
    this.onChange();
  }

  shakeHands(): void {
    for (const peer of this.peers) this.sessions.set(peer, this.begins);
    this.onHandshake();
  }

  show(): WireguardView[] {
    return [{
      interface: this.name, listen: 51820, publicKey: this.current, nextPublicKey: this.next, rotation: this.phase, faults: [], refused: null,
      peers: this.peers.map((name) => ({
        name, publicKey: '', nextPublicKey: null, endpoint: null, state: 'established' as const, latestHandshake: null, ownKey: this.sessions.get(name) ?? null,
        rxBytes: 0, txBytes: 0, rxPackets: 0, txPackets: 0, keepalive: null,
      })),
    }];
  }
}
