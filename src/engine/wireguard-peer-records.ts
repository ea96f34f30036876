// What the workers say of all peers: struct sl_wireguard_peer_record, as of the last look. Who: src/engine/wireguard*.ts.
import { readWireguardPeerRecord, STRUCTS, WIREGUARD_PEER_RECORD_BYTES, type WireguardPeerRecord } from './abi.generated.js';
import { viewOf } from './records.js';
import type { WireguardAddon } from './wireguard-tunnel.js';
import type { Log } from '../supervisor/log.js';

const EMPTY = new Uint8Array(0);
const INTERFACE_OFFSET = STRUCTS.sl_wireguard_peer_record.fields.interface.offset;

export class PeerRecords {
  private bytes: Uint8Array = EMPTY;

  constructor(private readonly addon: Pick<WireguardAddon, 'wireguardPeers'>, private readonly log: Log) {}

  /** The look. When it fails there are none. */
  read(): void {
    try {
      const bytes = this.addon.wireguardPeers();
      this.bytes = bytes.subarray(0, bytes.length - bytes.length % WIREGUARD_PEER_RECORD_BYTES);
    } catch (error) {
      this.log.error({ err: error }, 'reading peers of WireGuard failed');
      this.bytes = EMPTY;
    }
  }

  *each(): Generator<WireguardPeerRecord> {
    const view = viewOf(this.bytes);
    for (let at = 0; at < this.bytes.length; at += WIREGUARD_PEER_RECORD_BYTES) yield readWireguardPeerRecord(view, at);
  }

  find(id: number): WireguardPeerRecord | undefined {
    const view = viewOf(this.bytes);
    for (let at = 0; at < this.bytes.length; at += WIREGUARD_PEER_RECORD_BYTES) if (view.getUint32(at, true) === id) return readWireguardPeerRecord(view, at);
    return undefined;
  }

  /** A device looks through what it is given: it gets its own. Most often an interface's records stand together. */
  byInterface(): Map<number, Uint8Array> {
    const view = viewOf(this.bytes);
    const runs = new Map<number, Uint8Array[]>();
    let first = 0;
    for (let at = 0; at < this.bytes.length; at += WIREGUARD_PEER_RECORD_BYTES) {
      const id = view.getUint32(at + INTERFACE_OFFSET, true);
      const next = at + WIREGUARD_PEER_RECORD_BYTES;
      if (next < this.bytes.length && view.getUint32(next + INTERFACE_OFFSET, true) === id) continue;
      const run = this.bytes.subarray(first, next);
      first = next;
      const before = runs.get(id);
      if (before) before.push(run);
      else runs.set(id, [run]);
    }
    return new Map([...runs].map(([id, own]) => [id, own.length === 1 ? own[0]! : new Uint8Array(Buffer.concat(own))]));
  }
}
