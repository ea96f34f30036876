// When a peer's session needs something: WireGuard whitepaper section 6, with the constants that all implementations share.
//
// Who: device.ts, once a tick and peer. Not an event a packet: the workers note times, and this compares them each tick, so that
// ten thousand idle peers cost some comparisons each. What that gives up is precision of a tick (100 to 250 ms) in when something
// began. Times: milliseconds of CLOCK_MONOTONIC, 0: never.

export const REKEY_AFTER_TIME_MS = 120_000;
export const REJECT_AFTER_TIME_MS = 180_000;
export const REKEY_ATTEMPT_TIME_MS = 90_000;
export const REKEY_TIMEOUT_MS = 5_000;
export const REKEY_JITTER_MS_MAX = 333;
export const KEEPALIVE_TIMEOUT_MS = 10_000;
/** The session's initiator, who still receives but did not send: the last moment at which a handshake can replace it in time. */
export const REKEY_AFTER_RECEIVING_MS = REJECT_AFTER_TIME_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS;
/** Sent, and nothing heard since: the other side would have sent a keepalive by now. */
export const UNANSWERED_MS = KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS;
/** No session can be of use any more. */
export const FORGET_AFTER_MS = 3 * REJECT_AFTER_TIME_MS;
/** High 32 bits of REKEY_AFTER_MESSAGES, 2^60. */
const REKEY_AFTER_MESSAGES_HIGH = 2 ** 28;

/** What the workers saw: struct sl_wireguard_peer_record. */
export interface Seen {
  lastSentMs: number;
  lastReceivedMs: number;
  lastDataSentMs: number;
  lastDataReceivedMs: number;
  currentCreatedMs: number;
  currentSentHigh: number;      // messages sent with the current session's key, in units of 2^32
  currentInitiator: boolean;
}

export const Due = { HANDSHAKE: 1, KEEPALIVE: 2, FORGET: 4 } as const;

export function isUsable(seen: Seen, nowMs: number): boolean {
  return seen.currentCreatedMs !== 0 && nowMs - seen.currentCreatedMs < REJECT_AFTER_TIME_MS;
}

export class SessionTimers {
  /** Handshake messages are authenticated messages too, which the workers do not count. */
  handshakeSentMs = 0;
  handshakeReceivedMs = 0;
  private derivedMs = 0;
  private keepaliveSentMs = 0;
  // Two times that begin with a message and end with one the other way.
  private unansweredSinceMs = 0;
  private unansweredForMs = 0;
  private unansweredDoneMs = 0;   // data sent up to here has led to a handshake already
  private owedSinceMs = 0;

  onDerived(nowMs: number): void {
    this.derivedMs = nowMs;
  }

  onForgotten(): void {
    this.derivedMs = 0;
    this.unansweredSinceMs = 0;
    this.owedSinceMs = 0;
  }

  /** Bits of Due. What it says is due counts as done. `jitterMs` gives 0 to REKEY_JITTER_MS_MAX. */
  due(seen: Seen, nowMs: number, keepaliveMs: number, jitterMs: () => number): number {
    const usable = isUsable(seen, nowMs);
    const lastSentMs = Math.max(seen.lastSentMs, this.handshakeSentMs, this.keepaliveSentMs);
    const lastReceivedMs = Math.max(seen.lastReceivedMs, this.handshakeReceivedMs);
    let due = 0;
    if (usable && (this.isWornOut(seen))) due |= Due.HANDSHAKE;
    if (this.isUnanswered(seen, nowMs, lastReceivedMs, jitterMs)) due |= Due.HANDSHAKE;
    if (this.owesKeepalive(seen, nowMs, lastSentMs) && usable) due |= Due.KEEPALIVE;
    if (keepaliveMs > 0 && nowMs - Math.max(lastSentMs, lastReceivedMs) >= keepaliveMs) due |= usable ? Due.KEEPALIVE : Due.HANDSHAKE;
    if ((due & Due.KEEPALIVE) !== 0) {
      this.keepaliveSentMs = nowMs; // also when it could not be sent: tried again in its time, not each tick
      this.owedSinceMs = 0;
    }
    if (this.derivedMs !== 0 && nowMs - this.derivedMs >= FORGET_AFTER_MS) {
      this.onForgotten();
      due |= Due.FORGET;
    }
    return due;
  }

  /** Section 6.2: who initiated replaces the session when it sends after 120 s, or still receives shortly before the end. */
  private isWornOut(seen: Seen): boolean {
    if (seen.currentSentHigh >= REKEY_AFTER_MESSAGES_HIGH) return true;
    if (!seen.currentInitiator) return false;
    return seen.lastSentMs - seen.currentCreatedMs >= REKEY_AFTER_TIME_MS || seen.lastReceivedMs - seen.currentCreatedMs >= REKEY_AFTER_RECEIVING_MS;
  }

  /** Section 6.5, the sender's side: no answer within a keepalive's time and a handshake's. */
  private isUnanswered(seen: Seen, nowMs: number, lastReceivedMs: number, jitterMs: () => number): boolean {
    if (seen.lastDataSentMs <= Math.max(lastReceivedMs, this.unansweredDoneMs)) {
      this.unansweredSinceMs = 0;
      return false;
    }
    if (this.unansweredSinceMs === 0 || this.unansweredSinceMs <= lastReceivedMs) {
      this.unansweredSinceMs = seen.lastDataSentMs;
      if (this.unansweredForMs === 0) this.unansweredForMs = UNANSWERED_MS + jitterMs(); // drawn anew when it was used, not each time
    }
    if (nowMs - this.unansweredSinceMs < this.unansweredForMs) return false;
    this.unansweredSinceMs = 0;
    this.unansweredForMs = 0;
    this.unansweredDoneMs = seen.lastDataSentMs;
    return true;
  }

  /** Section 6.5, the receiver's side: data came and nothing went back. */
  private owesKeepalive(seen: Seen, nowMs: number, lastSentMs: number): boolean {
    if (seen.lastDataReceivedMs <= lastSentMs) {
      this.owedSinceMs = 0;
      return false;
    }
    if (this.owedSinceMs === 0 || this.owedSinceMs <= lastSentMs) this.owedSinceMs = seen.lastDataReceivedMs;
    return nowMs - this.owedSinceMs >= KEEPALIVE_TIMEOUT_MS;
  }
}
