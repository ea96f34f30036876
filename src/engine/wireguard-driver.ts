// Between the workers and the devices: events in, a device's answer, what it wants done. Who: src/engine/wireguard.ts.
// Bounds: EVENT_BYTES a turn of the event loop, so HANDSHAKES_TURN_MAX handshake messages; the rest waits in the workers' ring, whose own
// bound holds. WANTS_TURN_MAX peers are called a tick after a restart.
import { readWireguardEventRecord, WIREGUARD_EVENT_RECORD_BYTES, WireguardEvent } from './abi.generated.js';
import { viewOf } from './records.js';
import type { Outbox } from './wireguard-outbox.js';
import type { PeerPlaces } from './wireguard-places.js';
import type { PeerRecords } from './wireguard-peer-records.js';
import { encodeEndpoint, tell, type Tunnel, type WireguardAddon } from './wireguard-tunnel.js';
import type { Log } from '../supervisor/log.js';
import type { Action, WireguardDevice } from '../wireguard/device.js';

const MESSAGE_BYTES_MAX = 152;          // the longest handshake message has 148; padded to 8
const HANDSHAKES_TURN_MAX = 16;         // a millisecond or two each
const EVENT_BYTES = HANDSHAKES_TURN_MAX * (WIREGUARD_EVENT_RECORD_BYTES + MESSAGE_BYTES_MAX);
const WANTS_TURN_MAX = 16;
const EMPTY = new Uint8Array(0);

export interface DriverParts {
  addon: WireguardAddon;
  log: Log;
  tunnels: ReadonlyMap<number, Tunnel>; // by interface id
  peers: ReadonlyMap<number, Tunnel>;     // by peer id
  places: PeerPlaces;
  outbox: Outbox;
  records: PeerRecords;
  /** CLOCK_MONOTONIC, as the workers count. */
  nowNs(): bigint;
}

export class DeviceDriver {
  private readonly events = new Uint8Array(EVENT_BYTES);
  private readonly addon: WireguardAddon;
  private readonly log: Log;
  private pumpSoon: NodeJS.Immediate | undefined;
  private stopped = false;

  constructor(private readonly parts: DriverParts) {
    this.addon = parts.addon;
    this.log = parts.log;
  }

  stop(): void {
    this.stopped = true;
    clearImmediate(this.pumpSoon);
  }

  /** {type: 'wireguard'} of the addon: there are events. They are taken in a turn of their own. */
  onEvents(): void {
    if (this.stopped || this.pumpSoon !== undefined) return;
    this.pumpSoon = setImmediate(() => {
      this.pumpSoon = undefined;
      if (this.takeEvents()) this.onEvents();
    });
  }

  /** As many events as one turn takes. True: there may be more. */
  private takeEvents(): boolean {
    let used = 0;
    try {
      used = this.addon.wireguardEvents(this.events);
    } catch (error) {
      this.log.error({ err: error }, 'reading events of WireGuard failed');
    }
    const bytes = this.events.slice(0, used); // a device may keep what it got
    const view = viewOf(bytes);
    for (let at = 0; at + WIREGUARD_EVENT_RECORD_BYTES <= used;) {
      const record = readWireguardEventRecord(view, at);
      if (record.recordBytes < WIREGUARD_EVENT_RECORD_BYTES + record.messageBytes || at + record.recordBytes > used) break;
      const message = bytes.subarray(at + WIREGUARD_EVENT_RECORD_BYTES, at + WIREGUARD_EVENT_RECORD_BYTES + record.messageBytes);
      at += record.recordBytes;
      const tunnel = record.event === WireguardEvent.MESSAGE ? this.parts.tunnels.get(record.interface) : this.parts.peers.get(record.peerId);
      if (record.event === WireguardEvent.MESSAGE) this.drive(tunnel, (device) => device.onMessage(message, record.from, record.key, this.parts.nowNs()));
      else if (record.event === WireguardEvent.WANTED) this.drive(tunnel, (device) => device.want(record.peerId, this.parts.nowNs()));
      else if (record.event === WireguardEvent.CONFIRMED) this.drive(tunnel, (device) => device.onConfirmed(record.peerId, this.parts.nowNs()));
    }
    return used > 0;
  }

  /** Peers that a restarted engine owes a call, WANTS_TURN_MAX at a time. */
  callWanted(nowNs: bigint): void {
    if (this.parts.places.wanted.size === 0) return;
    const records = new Map([...this.parts.records.each()].map((record) => [record.id, record]));
    let calls = 0;
    for (const id of this.parts.places.wanted) {
      if (calls >= WANTS_TURN_MAX) return;
      const record = records.get(id);
      if (record === undefined || record.endpoint.port === 0) continue; // known when its name was looked up, or when it calls
      this.parts.places.wanted.delete(id);
      if (record.currentCreatedNs !== 0n) continue; // it did
      calls += 1;
      const tunnel = this.parts.peers.get(id);
      this.drive(tunnel, (device) => device.want(id, nowNs));
    }
  }

  /** A device does something, and what it wants done is done. A fault in one is none of the others' or of the process's. */
  drive(tunnel: Tunnel | undefined, work: (device: WireguardDevice) => readonly Action[]): void {
    if (!tunnel?.device) return; // gone meanwhile, or without a key
    try {
      this.perform(tunnel, work(tunnel.device));
    } catch (error) {
      this.log.error({ err: error, interface: tunnel.plan.interface }, 'handling handshakes of WireGuard failed');
    }
  }

  private perform(tunnel: Tunnel, actions: readonly Action[]): void {
    const failed = new Set<number>();
    for (const action of actions) {
      const { peerId } = action;
      if (failed.has(peerId)) continue; // no response to a handshake whose session does not exist
      const isDone = tell(this.log, tunnel, `'${action.type}' for a peer`, () => this.performOne(tunnel, action));
      if (!isDone) failed.add(peerId);
    }
  }

  private performOne(tunnel: Tunnel, action: Action): void {
    const { peerId } = action;
    switch (action.type) {
      case 'install': this.addon.wireguardInstall(action.keypair); return;
      case 'endpoint': this.addon.wireguardEndpoint(peerId, encodeEndpoint(action.endpoint)); return;
      case 'forget': if (tunnel.peers.has(peerId)) this.addon.wireguardForget(peerId); return; // else the snapshot has ended them already
      case 'keepalive': this.addon.wireguardSend(tunnel.plan.id, peerId, EMPTY); return;
      case 'send':
        if (action.attempt > 1) this.parts.places.placeAgain(tunnel, peerId, action.attempt);
        this.parts.outbox.send(tunnel.plan.id, peerId, action.message, action.endpoint && encodeEndpoint(action.endpoint));
        return;
      case 'gave-up':
        this.log.info({ interface: tunnel.plan.interface, peer: tunnel.peers.get(peerId)?.name }, 'a WireGuard peer does not answer; trying again when packets for it come');
    }
  }
}
