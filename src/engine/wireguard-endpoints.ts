// Where WireGuard peers are: what is kept over a restart of the engine (STATE/wireguard/endpoints.json), and names looked up.
// Who: src/engine/wireguard.ts. The workers know each peer's endpoint of the moment; here is what they knew last, so that a restarted
// engine reaches peers that have roamed or that no configuration has an endpoint for. And time, both ways: the clock that our handshakes
// last showed, so that no later one shows an earlier time (a peer refuses that as a replay) although the machine's clock was set back,
// and the newest that each peer's showed, so that no recorded one is answered by the next engine.
// Bounds: written at most once in SAVE_INTERVAL_MS; LOOKUPS_MAX names are looked up at a time, because each holds a thread of libuv's pool.
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { isIP } from 'node:net';
import type { WireguardEndpoint } from './abi.generated.js';
import { bytesOf, formatAddress, parseAddress } from '../lib/address.js';
import { replaceFile } from '../supervisor/run-directory.js';

const SAVE_INTERVAL_MS = 5000;
const FILE_BYTES_MAX = 8 * 1024 * 1024;   // SL_WIREGUARD_PEERS_MAX entries fit
const LOOKUPS_MAX = 2;
const LOOKUP_RETRY_MS_MIN = 5000;
const LOOKUP_RETRY_MS_MAX = 60_000;
const NS_PER_MS = 1_000_000n;
const CLOCK_BACK_NS = 1_000_000_000n;
const LABEL_STEP_NS = 1n << 24n;          // src/wireguard/tai64n.ts

/** `configured`: the endpoint that the configuration had then; the known one gives way when it has another now. */
export interface KnownEndpoint { address: string; port: number; configured?: string }

/** `newest`: by interface, then the peer's public key, base64 (a timestamp is its owner's): TAI64N in hexadecimal. Absent in older files. */
interface EndpointsFile { version: 1; clockNs: string; interfaces: Record<string, Record<string, KnownEndpoint>>; newest?: Record<string, Record<string, string>> }

// ---- what is kept -------------------------------------------------------------------------------------------------------

export class EndpointStore {
  private readonly known = new Map<string, Map<string, KnownEndpoint>>(); // by interface, then peer
  private readonly newest = new Map<string, Map<string, string>>();       // by interface, then the peer's public key
  private clockNs = 0n;
  private changed = false;
  private savedMs = -Infinity;

  /** What cannot be read is as good as absent: peers with an endpoint in the configuration, and those that call us, come back without it. */
  constructor(private readonly file: string, private readonly onFault: (error: unknown) => void) {
    try {
      const bytes = readFileSync(file);
      if (bytes.length > FILE_BYTES_MAX) throw new Error(`${bytes.length} bytes; ${FILE_BYTES_MAX} at most`);
      const { version, clockNs, interfaces, newest = {} } = JSON.parse(bytes.toString('utf8')) as EndpointsFile;
      if (version !== 1 || !/^\d{1,20}$/.test(clockNs)) throw new Error('not of this form');
      for (const [name, peers] of Object.entries(interfaces)) {
        for (const [peer, { address, port, configured }] of Object.entries(peers)) {
          if (!isUsable(address) || !Number.isInteger(port) || port < 1 || port > 0xffff) continue;
          placeOf(this.known, name).set(peer, { address, port, ...(typeof configured === 'string' ? { configured } : {}) });
        }
      }
      for (const [name, peers] of Object.entries(newest)) {
        for (const [publicKey, timestamp] of Object.entries(peers)) if (/^[0-9a-f]{24}$/.test(timestamp)) placeOf(this.newest, name).set(publicKey, timestamp);
      }
      // A crash may have come between a handshake and the next writing.
      this.clockNs = BigInt(clockNs) + BigInt(2 * SAVE_INTERVAL_MS) * NS_PER_MS;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') onFault(error);
    }
  }

  /** The time to show in a handshake: the machine's, never earlier than any shown before. Nanoseconds since the epoch. */
  showClock(machineNs: bigint): bigint {
    if (machineNs > this.clockNs) this.clockNs = machineNs;
    // It was set back, maybe for long: go on in steps of the label, so that what is kept stays ahead of every label.
    else if (this.clockNs - machineNs > CLOCK_BACK_NS) this.clockNs += LABEL_STEP_NS;
    this.changed = true;
    return this.clockNs;
  }

  find(name: string, peer: string): KnownEndpoint | undefined { return this.known.get(name)?.get(peer); }

  set(name: string, peer: string, endpoint: KnownEndpoint): void {
    const before = this.find(name, peer);
    if (before?.address === endpoint.address && before.port === endpoint.port && before.configured === endpoint.configured) return;
    placeOf(this.known, name).set(peer, endpoint);
    this.changed = true;
  }

  /** The newest timestamp of initiations by whoever has one of these keys. */
  newestOf(name: string, publicKeys: readonly string[]): Uint8Array | undefined {
    const known = publicKeys.map((key) => this.newest.get(name)?.get(key)).filter((timestamp) => timestamp !== undefined);
    return known.length === 0 ? undefined : new Uint8Array(Buffer.from(known.reduce((a, b) => (a > b ? a : b)), 'hex'));
  }

  setNewest(name: string, publicKeys: readonly string[], timestamp: Uint8Array): void {
    const text = Buffer.from(timestamp).toString('hex');
    for (const key of publicKeys) {
      if (this.newest.get(name)?.get(key) === text) continue;
      placeOf(this.newest, name).set(key, text);
      this.changed = true;
    }
  }

  /** Forgets all peers but these: names, and public keys, by interface. */
  keep(peers: ReadonlyMap<string, ReadonlySet<string>>, publicKeys: ReadonlyMap<string, ReadonlySet<string>>): void {
    for (const [all, kept] of [[this.known, peers], [this.newest, publicKeys]] as const) {
      for (const [name, known] of all) {
        for (const peer of [...known.keys()]) {
          if (kept.get(name)?.has(peer)) continue;
          known.delete(peer);
          this.changed = true;
        }
      }
    }
  }

  /**
   * Writes when something changed and the last time is long enough ago. Without waiting for the disk: after a loss of power the file may
   * be the one before, or empty, which costs a handshake's delay.
   */
  saveSoon(nowMs: number): void {
    if (!this.changed || nowMs - this.savedMs < SAVE_INTERVAL_MS) return;
    this.savedMs = nowMs;
    this.save(() => {
      const temporary = `${this.file}.tmp`;
      mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
      rmSync(temporary, { force: true });
      writeFileSync(temporary, this.encode(), { flag: 'wx', mode: 0o600 });
      renameSync(temporary, this.file);
    });
  }

  /** At the end of the process. */
  saveNow(): void { this.save(() => replaceFile(this.file, this.encode())); }

  private save(write: () => void): void {
    if (!this.changed) return;
    this.changed = false;
    try {
      write();
    } catch (error) {
      this.onFault(error);
    }
  }

  private encode(): string {
    const plain = <T>(all: ReadonlyMap<string, ReadonlyMap<string, T>>): Record<string, Record<string, T>> => Object.fromEntries([...all].map(([name, peers]) => [name, Object.fromEntries(peers)]));
    const file: EndpointsFile = { version: 1, clockNs: String(this.clockNs), interfaces: plain(this.known), newest: plain(this.newest) };
    return `${JSON.stringify(file)}\n`;
  }
}

function placeOf<T>(all: Map<string, Map<string, T>>, name: string): Map<string, T> {
  let peers = all.get(name);
  if (!peers) all.set(name, peers = new Map<string, T>());
  return peers;
}

/** Zones and mapped IPv4 have no place in the data plane. */
function isUsable(address: unknown): address is string {
  return typeof address === 'string' && isIP(address) !== 0 && !/%|^::ffff:/i.test(address);
}

/** struct sl_wireguard_endpoint's fields; without a local address: the route chooses it. */
export function endpointOf(address: string, port: number): WireguardEndpoint {
  return { address: bytesOf(parseAddress(address)), local: new Uint8Array(16), port };
}

/** "192.0.2.1:51820", "[2001:db8::1]:51820"; null while it is not known. */
export function formatEndpoint({ address, port }: { address: Uint8Array | string; port: number }): string | null {
  if (port === 0) return null;
  const text = typeof address === 'string' ? address : formatAddress(address);
  return text.includes(':') ? `[${text}]:${port}` : `${text}:${port}`;
}

// ---- names --------------------------------------------------------------------------------------------------------------

/** All addresses of a name, in the order in which the system would try them. */
export type Lookup = (name: string) => Promise<string[]>;

interface Asker { name: string; turn: number; retryMs: number; timer?: NodeJS.Timeout; onAddress(address: string): void }

/** Looks names up, and again after a failure, as long as somebody asks. An asker is known by its id: a peer's. */
export class Resolver {
  private readonly askers = new Map<number, Asker>();
  private readonly underWay = new Map<string, Promise<string[]>>();
  private readonly waiting: (() => void)[] = [];
  private running = 0;

  constructor(private readonly lookup: Lookup, private readonly onFault: (name: string, error: unknown) => void) {}

  /** Calls back with an address of the name: another one of its addresses each time that the same asker asks. */
  ask(id: number, name: string, onAddress: (address: string) => void): void {
    const before = this.askers.get(id);
    if (before) clearTimeout(before.timer);
    const asker: Asker = before?.name === name ? { ...before, turn: before.turn + 1, onAddress } : { name, turn: 0, retryMs: LOOKUP_RETRY_MS_MIN, onAddress };
    delete asker.timer;
    this.askers.set(id, asker);
    void this.answer(id, asker);
  }

  forget(id: number): void {
    clearTimeout(this.askers.get(id)?.timer);
    this.askers.delete(id);
  }

  close(): void { for (const id of [...this.askers.keys()]) this.forget(id); }

  private async answer(id: number, asker: Asker): Promise<void> {
    let addresses: string[];
    try {
      addresses = (await this.find(asker.name)).filter(isUsable);
      if (addresses.length === 0) throw new Error('it has no address');
    } catch (error) {
      if (this.askers.get(id) !== asker) return;
      this.onFault(asker.name, error);
      asker.timer = setTimeout(() => void this.answer(id, asker), asker.retryMs).unref();
      asker.retryMs = Math.min(LOOKUP_RETRY_MS_MAX, asker.retryMs * 2);
      return;
    }
    if (this.askers.get(id) !== asker) return; // it asked again, or went away
    asker.retryMs = LOOKUP_RETRY_MS_MIN;
    try {
      asker.onAddress(addresses[asker.turn % addresses.length]!);
    } catch (error) {
      this.onFault(asker.name, error);
    }
  }

  /** Two that ask for one name get one lookup. */
  private find(name: string): Promise<string[]> {
    const before = this.underWay.get(name);
    if (before) return before;
    const result = this.whenFree(() => this.lookup(name)).finally(() => this.underWay.delete(name));
    this.underWay.set(name, result);
    return result;
  }

  private async whenFree<T>(work: () => Promise<T>): Promise<T> {
    if (this.running >= LOOKUPS_MAX) await new Promise<void>((resolve) => this.waiting.push(resolve));
    else this.running += 1;
    try {
      return await work();
    } finally {
      const next = this.waiting.shift();
      if (next) next();         // it takes this one's place
      else this.running -= 1;
    }
  }
}
