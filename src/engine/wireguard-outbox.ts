// Messages to peers, with those for which there is no way at this moment. Who: src/engine/wireguard.ts.
// Bounds: one unsent message a peer, which waits for UNSENT_MS_MAX.
import type { WireguardAddon } from './wireguard-tunnel.js';

const UNSENT_MS_MAX = 5000;             // REKEY_TIMEOUT: then the device makes another one

interface Unsent { interfaceId: number; message: Uint8Array; endpoint?: Uint8Array; untilMs: number }

export class Outbox {
  private readonly unsent = new Map<number, Unsent>(); // by peer id

  constructor(private readonly addon: Pick<WireguardAddon, 'wireguardSend'>) {}

  /** A message for which there is no way at this moment (a route or a neighbour to come) is tried again with the next ticks. */
  send(interfaceId: number, peerId: number, message: Uint8Array, endpoint?: Uint8Array): void {
    this.unsent.delete(peerId);
    if (this.addon.wireguardSend(interfaceId, peerId, message, endpoint) || message.length === 0) return;
    this.unsent.set(peerId, { interfaceId, message, ...(endpoint ? { endpoint } : {}), untilMs: performance.now() + UNSENT_MS_MAX });
  }

  sendUnsent(): void {
    const nowMs = performance.now();
    for (const [peerId, { interfaceId, message, endpoint, untilMs }] of [...this.unsent]) {
      let isSent = false;
      try {
        isSent = this.addon.wireguardSend(interfaceId, peerId, message, endpoint);
      } catch { /* the peer is gone */ }
      if (isSent || nowMs > untilMs) this.unsent.delete(peerId);
    }
  }

  forget(peerId: number): void {
    this.unsent.delete(peerId);
  }
}
