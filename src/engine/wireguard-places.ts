// Where WireGuard peers are: what the configuration says, what an engine before us knew, and what messages from them say now.
// Who: src/engine/wireguard.ts. Names are looked up and places kept by wireguard-endpoints.ts.
import { isIP } from 'node:net';
import type { WireguardEndpoint } from './abi.generated.js';
import type { WireguardPeerPlan } from './last-applied.js';
import { endpointOf, formatEndpoint, Resolver, type EndpointStore, type Lookup } from './wireguard-endpoints.js';
import type { PeerRecords } from './wireguard-peer-records.js';
import { encodeEndpoint, tell, type Start, type Tunnel, type WireguardAddon } from './wireguard-tunnel.js';
import { formatAddress } from '../lib/address.js';
import type { Log } from '../supervisor/log.js';

export interface PlacesParts {
  addon: Pick<WireguardAddon, 'wireguardEndpoint'>;
  log: Log;
  lookup: Lookup;
  store: EndpointStore;
  records: PeerRecords;
  tunnelOf(peerId: number): Tunnel | undefined;
}

export class PeerPlaces {
  /** Peers to call once the workers know where they are. */
  readonly wanted = new Set<number>();
  private readonly lastGood = new Map<number, WireguardEndpoint>(); // where a session was, by peer id; as of the last remember()
  private readonly addon: PlacesParts['addon'];
  private readonly log: Log;
  private readonly records: PeerRecords;
  private readonly resolver: Resolver;

  constructor(private readonly parts: PlacesParts) {
    this.addon = parts.addon;
    this.log = parts.log;
    this.records = parts.records;
    this.resolver = new Resolver(parts.lookup, (name, error) => this.log.warn({ name, reason: (error as Error).message }, 'the name of a WireGuard peer\'s endpoint cannot be looked up; trying again'));
  }

  forget(peerId: number): void {
    this.resolver.forget(peerId);
    this.wanted.delete(peerId);
    this.lastGood.delete(peerId);
  }

  close(): void {
    this.resolver.close();
  }

  /** A peer's endpoint at its start, or when the configuration has another one: else the workers know better. */
  place(tunnel: Tunnel, peer: WireguardPeerPlan, former: WireguardPeerPlan | undefined, start: Start | undefined): void {
    const configured = peer.endpoint && formatEndpoint(peer.endpoint);
    if (former && (former.endpoint && formatEndpoint(former.endpoint)) === configured) return;
    const known = former ? undefined : this.parts.store.find(tunnel.plan.interface, peer.name);
    const isKnown = known !== undefined && known.configured === (configured ?? undefined);
    this.resolver.forget(peer.id);
    if (isKnown) this.setEndpoint(tunnel, peer.id, endpointOf(known.address, known.port));
    else this.followConfiguration(tunnel, peer);
    // It has or may have a session with the engine before this one: a new one at once, not when somebody's packet waits.
    if (start === 'restart' || (start === 'start' && isKnown)) this.wanted.add(peer.id);
  }

  private followConfiguration(tunnel: Tunnel, { id, endpoint }: WireguardPeerPlan): void {
    if (!endpoint) return;
    const { address, port } = endpoint;
    if (isIP(address) !== 0) this.setEndpoint(tunnel, id, endpointOf(address, port));
    else this.resolver.ask(id, address, (found) => { if (this.parts.tunnelOf(id) === tunnel) this.setEndpoint(tunnel, id, endpointOf(found, port)); });
  }

  private setEndpoint(tunnel: Tunnel, id: number, endpoint: WireguardEndpoint): void {
    const bytes = encodeEndpoint(endpoint);
    tell(this.log, tunnel, 'a peer\'s endpoint is not known to the workers', () => this.addon.wireguardEndpoint(id, bytes));
  }

  /**
   * An initiation was not answered. In turn: where the configuration says that the peer is, its name looked up again, and where it was
   * last; our own address is chosen by the route anew.
   */
  placeAgain(tunnel: Tunnel, id: number, attempt: number): void {
    const peer = tunnel.peers.get(id);
    const lastGood = this.lastGood.get(id);
    if (peer?.endpoint && (attempt % 2 === 0 || !lastGood)) return this.followConfiguration(tunnel, peer);
    const there = lastGood ?? this.records.find(id)?.endpoint;
    if (there && there.port !== 0) this.setEndpoint(tunnel, id, { ...there, local: new Uint8Array(16) });
  }

  /** What the next engine should know: where there is a session now. */
  remember(): void {
    for (const { id, endpoint, currentCreatedNs } of this.records.each()) {
      const tunnel = this.parts.tunnelOf(id);
      const peer = tunnel?.peers.get(id);
      if (!tunnel || !peer || endpoint.port === 0 || currentCreatedNs === 0n) continue;
      this.lastGood.set(id, endpoint);
      const configured = peer.endpoint && formatEndpoint(peer.endpoint);
      this.parts.store.set(tunnel.plan.interface, peer.name, { address: formatAddress(endpoint.address), port: endpoint.port, ...(configured ? { configured } : {}) });
    }
  }
}
