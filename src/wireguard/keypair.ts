// A session's keys as the packet engine takes them: struct sl_wireguard_keypair. Who: device.ts, whose caller's install wipes it.
import { WIREGUARD_KEYPAIR_BYTES, writeWireguardKeypair } from '../engine/abi.generated.js';
import { secretBytes, wipe } from './bytes.js';
import { transportKeys, type Symmetric } from './noise.js';

export function keypairBytes(peerId: number, localIndex: number, remoteIndex: number, isInitiator: boolean, nowNs: bigint, state: Symmetric): Uint8Array {
  const keys = transportKeys(state, isInitiator);
  const bytes = secretBytes(WIREGUARD_KEYPAIR_BYTES);
  writeWireguardKeypair(new DataView(bytes.buffer), 0, { peerId, localIndex, remoteIndex, initiator: isInitiator ? 1 : 0, createdNs: nowNs, ...keys });
  wipe(keys.sendKey, keys.receiveKey);
  return bytes;
}
