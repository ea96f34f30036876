// This node's own record: what it announces of its tunnels, signed, and issued again when that changes. Who: nodes.ts at each round of its loop,
// rotations.ts at each step. Thread: control's main one. Bound: a record is issued again each REISSUE_MS, long before it ends.
import { asList } from '../config/schema-parts.js';
import { formatPrefix, parsePrefix } from '../lib/address.js';
import type { Here } from './here.js';
import { LIFETIME_MS, signRecord, type Announcement, type NodeRecord } from './record.js';
import type { NodeState } from './state.js';

const REISSUE_MS = LIFETIME_MS / 7;

export class OwnRecord {
  /** `onRenewed`: there is something to tell. */
  constructor(private readonly here: Here, private readonly state: NodeState, private readonly onRenewed: () => void) {}

  /** Issues another one when it has something else to say, or the last one is old. It is durable when this returns. */
  renew(): void {
    const { here, state } = this;
    const { name, nowMs } = here;
    const before = state.record;
    const wireguard = this.announcements(before);
    const isSame = before !== undefined && before.node === here.identity!.id && before.name === name && JSON.stringify(before.wireguard) === JSON.stringify(wireguard);
    const ageMs = before === undefined ? 0 : nowMs - Date.parse(before.issuedAt);
    if (isSame && ageMs < REISSUE_MS && ageMs > -REISSUE_MS) return;
    // Never lower than before, also when the state was lost: time goes on.
    const sequence = Math.max(state.sequence + 1, nowMs);
    const record: NodeRecord = {
      version: 1, node: here.identity!.id, name, sequence, issuedAt: new Date(nowMs).toISOString(), expiresAt: new Date(nowMs + LIFETIME_MS).toISOString(), wireguard,
    };
    state.write({ sequence, signed: signRecord(record, here.identity!.privateKey) });
    here.log.info({ sequence, tunnels: wireguard.length }, 'this node has a new record');
    this.onRenewed();
  }

  /** Tunnels that have a node as peer, or that the configuration wants announced. */
  private announcements(before: NodeRecord | undefined): Announcement[] {
    const { here, state } = this;
    const live = new Map(here.views.map((one) => [one.interface, one]));
    return here.tunnels.flatMap((tunnel): Announcement[] => {
      const announce = here.config.announce?.[tunnel.name];
      if (announce === undefined && ![...tunnel.peers.values()].some(({ node }) => node !== null)) return [];
      const view = live.get(tunnel.name);
      const former = before?.wireguard.find((one) => one.interface === tunnel.name);
      const keys = view?.publicKey ? { publicKey: view.publicKey, nextPublicKey: view.nextPublicKey } : former; // without its key for a moment
      if (keys === undefined) return [];
      // Once the sessions have moved nobody shall begin with the old key any more.
      const phase = state.rotationOf(tunnel.name)?.phase;
      const isSwitched = view?.rotation === 'switched' && keys.nextPublicKey !== null && (phase === 'settling' || phase === 'finishing');
      return [{
        interface: tunnel.name, publicKey: isSwitched ? keys.nextPublicKey! : keys.publicKey, nextPublicKey: isSwitched ? null : keys.nextPublicKey,
        endpoint: announce?.endpoint ?? null, port: tunnel.listen, allowedIPs: asList<string>(announce?.allowedIPs).map((text) => formatPrefix(parsePrefix(text))),
      }];
    });
  }
}
