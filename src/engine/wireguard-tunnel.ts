// A WireGuard interface as the engine process has it, and how its addon is told things. Who: the src/engine/wireguard*.ts files.
import type { WireguardEndpoint } from './abi.generated.js';
import { WIREGUARD_ENDPOINT_BYTES, writeWireguardEndpoint } from './abi.generated.js';
import type { Addon } from './binding.js';
import type { WireguardPeerPlan, WireguardPlan } from './last-applied.js';
import { viewOf } from './records.js';
import type { RotationPhase } from './wireguard-keys.js';
import type { Log } from '../supervisor/log.js';
import type { WireguardDevice } from '../wireguard/device.js';

export type WireguardAddon = Pick<Addon, 'wireguardIndex' | 'wireguardInstall' | 'wireguardForget' | 'wireguardEndpoint' | 'wireguardSend' | 'wireguardGate' | 'wireguardEvents' | 'wireguardPeers'>;

/** An interface whose files were read and whose port was taken; `presharedKeys` by peer id. */
export interface Staged {
  plan: WireguardPlan;
  presharedKeys: Map<number, Uint8Array>;
  faults: string[];
  refusals: string[];           // those of the faults that this very change brings
  closedPeers: Set<number>;
  isPortHeld: boolean;
}

export interface Tunnel {
  plan: WireguardPlan;
  device: WireguardDevice | undefined;  // undefined: without a usable key
  keyDigest: string;                    // of the current private key, to see that the file has another one
  phase: RotationPhase;
  peers: Map<number, WireguardPeerPlan>;
  presharedKeys: Map<number, Uint8Array>; // as the device has them: for when a file cannot be read later
  faults: string[];
}

/** What the process begins with: a configuration from control, or the one that an engine before it had. */
export type Start = 'start' | 'restart';

/** A call of the addon. It refuses what an apply took away a moment ago: that is no reason to stop for anybody else. */
export function tell(log: Log, tunnel: Tunnel, what: string, call: () => void): boolean {
  try {
    call();
    return true;
  } catch (error) {
    log.warn({ interface: tunnel.plan.interface, reason: (error as Error).message }, `WireGuard: ${what}: refused`);
    return false;
  }
}

/** Public keys of a peer, the one that it announced among them. */
export const keysOf = ({ publicKey, nextPublicKey }: WireguardPeerPlan): string[] => (nextPublicKey === undefined ? [publicKey] : [publicKey, nextPublicKey]);

export function encodeEndpoint(endpoint: WireguardEndpoint): Uint8Array {
  const bytes = new Uint8Array(WIREGUARD_ENDPOINT_BYTES);
  writeWireguardEndpoint(viewOf(bytes), 0, endpoint);
  return bytes;
}
