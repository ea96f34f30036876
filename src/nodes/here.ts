// What the parts of this node's work with other nodes share: what is in force, what the engine last said of its tunnels, and what was said in the
// log. Who: nodes.ts makes one and keeps it; trusted.ts, own-record.ts and rotations.ts read it. Thread: control's main one.
import { hostname as machineName } from 'node:os';
import type { AuditEvent } from '../audit/log.js';
import { NODE_NAME_PATTERN, type NodesConfig } from '../config/schema-nodes.js';
import type { Compiled, TunnelInfo } from '../control/compiled.js';
import { errorCode } from '../engine/ipc.js';
import type { RotatePhase, WireguardView as EngineWireguard } from '../engine/wireguard.js';
import type { Log } from '../supervisor/log.js';
import type { NodeIdentity } from './identity.js';

/** What this needs of the rest of control. */
export interface NodesHost {
  /** Rejects while the engine is away. */
  show(): Promise<EngineWireguard[]>;
  rotate(interfaceName: string, phase: RotatePhase): Promise<unknown>;
  /** Records changed: compile what runs again and put it in force. `inForce` is called then. */
  refill(): void;
  audit(event: AuditEvent): void;
  now?(): number;
}

/** The engine comes back, and what it was asked for is asked again. */
export const isEngineAway = (error: unknown): boolean => /^SLUICE_(ENGINE_AWAY|IPC_)/.test(errorCode(error));

export class Here {
  identity: NodeIdentity | undefined;
  compiled: Compiled | undefined;
  /** Tunnels of the engine. */
  views: EngineWireguard[] = [];
  /** Why nodes do not work as configured, for people. */
  problem: string | undefined;
  stopped = false;
  private readonly said = new Map<string, string>();

  /** `tickSoon`: has the loop of nodes.ts make a round. */
  constructor(readonly log: Log, readonly host: NodesHost, readonly tickSoon: (inMs: number) => void) {}

  get config(): NodesConfig { return this.compiled?.nodes ?? {}; }
  get tunnels(): readonly TunnelInfo[] { return this.compiled?.tunnels ?? []; }
  get nowMs(): number { return this.host.now?.() ?? Date.now(); }

  get name(): string {
    const name = this.config.name ?? this.compiled?.hostname ?? machineName();
    return new RegExp(NODE_NAME_PATTERN).test(name) ? name : name.replace(/[^A-Za-z0-9_.-]/g, '-').slice(0, 63).replace(/^[.-]+/, '') || 'node';
  }

  /** Public keys of this node's tunnels. */
  get keys(): ReadonlySet<string> {
    return new Set(this.views.flatMap(({ publicKey, nextPublicKey }) => [publicKey, nextPublicKey].filter((key) => key !== null)));
  }

  /** Said once, and once more when it is over. */
  say(topic: string, text: string | undefined): void {
    const before = this.said.get(topic);
    if (before === text) return;
    if (text !== undefined) {
      this.said.set(topic, text);
      this.log.warn(text);
      return;
    }
    this.said.delete(topic);
    this.log.info(`no more: ${before}`);
  }
}
