// Holds the UDP ports that WireGuard interfaces listen on, in both families, so that no program of the host takes them, the kernel's
// own ephemeral ports avoid them, and no "port unreachable" answers what reaches the kernel.
// Who: src/engine/wireguard.ts. The XDP program hands datagrams to these ports to the engine; the kernel sees only those that it had to
// reassemble from fragments, and those that came while no program was attached. A handshake message among them goes to `onMessage`.
// A port below 1024 is not held, since the engine has no right to: it works all the same, and only a program with that right could take it.
// Bounds: MESSAGES_SECOND_MAX messages a second pass, over all ports; more, and what is no handshake, is counted and ignored. The
// kernel queues RECEIVE_BYTES a socket, and drops the rest itself.
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { tryRun, run, type Run } from './command.js';
import { IpcError } from './ipc.js';

const MESSAGES_SECOND_MAX = 20;        // as much as one source may have anyway; fragmented handshakes do not occur by themselves
const RECEIVE_BYTES = 8192;
const HANDSHAKE_BYTES: Readonly<Record<number, number>> = { 1: 148, 2: 92, 3: 64 };

export interface PortMessage { port: number; message: Uint8Array; from: { address: string; port: number } }

interface Held { sockets: Socket[]; holders: Set<string> }

export class PortReservation {
  private readonly held = new Map<number, Held>();
  private allowance = MESSAGES_SECOND_MAX;
  private countedMs = performance.now();
  ignored = 0;

  constructor(private readonly onMessage: (message: PortMessage) => void, private readonly execute: Run = run) {}

  /** Takes the port for `holder`. Throws IpcError SLUICE_WIREGUARD_PORT, with who has it where that can be seen. */
  async take(port: number, holder: string): Promise<void> {
    const held = this.held.get(port);
    if (held) {
      held.holders.add(holder);
      return;
    }
    const sockets: Socket[] = [];
    try {
      for (const family of ['udp4', 'udp6'] as const) {
        const socket = await bind(family, port);
        if (!socket) continue; // the machine does without this family
        sockets.push(socket);
        socket.on('message', (message, from) => this.receive(port, message, from));
        socket.on('error', () => { /* of a datagram: nothing was sent from here */ });
      }
    } catch (error) {
      for (const socket of sockets) socket.close();
      const { code } = error as NodeJS.ErrnoException;
      const users = code === 'EADDRINUSE' || code === 'EACCES' ? await this.usersOf(port) : undefined;
      if (code !== 'EACCES' || users !== undefined) throw describe(error as NodeJS.ErrnoException, port, users);
      sockets.length = 0;
    }
    this.held.set(port, { sockets, holders: new Set([holder]) });
  }

  /** Gives up what `holder` has, but for `keep`; a port that nobody holds any more is free. */
  release(holder: string, keep?: number): void {
    for (const [port, { sockets, holders }] of [...this.held]) {
      if (port === keep || !holders.delete(holder) || holders.size > 0) continue;
      for (const socket of sockets) socket.close();
      this.held.delete(port);
    }
  }

  close(): void {
    for (const { sockets } of this.held.values()) for (const socket of sockets) socket.close();
    this.held.clear();
  }

  private receive(port: number, message: Buffer, { address, port: fromPort }: RemoteInfo): void {
    const nowMs = performance.now();
    this.allowance = Math.min(MESSAGES_SECOND_MAX, this.allowance + (nowMs - this.countedMs) * MESSAGES_SECOND_MAX / 1000);
    this.countedMs = nowMs;
    const isHandshake = message.length >= 4 && HANDSHAKE_BYTES[message.readUInt32LE(0)] === message.length;
    if (!isHandshake || this.allowance < 1 || address.includes('%')) {
      this.ignored += 1;
      return;
    }
    this.allowance -= 1;
    this.onMessage({ port, message, from: { address, port: fromPort } });
  }

  /** Who has sockets at the port, as far as the engine may see: '' when only that somebody has. Undefined: nobody. */
  private async usersOf(port: number): Promise<string | undefined> {
    const listing = await tryRun(this.execute, 'ss', '-H', '-u', '-a', '-n', '-p', `sport = :${port}`);
    if (!listing?.trim()) return undefined;
    return [...new Set([...listing.matchAll(/\("([^"]+)",pid=(\d+)/g)].map(([, name, pid]) => `${name} (process ${pid})`))].join(', ');
  }
}

function describe({ code, message }: NodeJS.ErrnoException, port: number, users: string | undefined): IpcError {
  if (code !== 'EADDRINUSE' && code !== 'EACCES') return new IpcError('SLUICE_WIREGUARD_PORT', `UDP port ${port} cannot be held: ${message}`);
  const who = users ? `by ${users}` : 'by a program that the engine may not see, or by the kernel (`ss -uanp`, `ip link show type wireguard`)';
  return new IpcError('SLUICE_WIREGUARD_PORT', `UDP port ${port} is taken ${who}; end it, or listen on another port`);
}

/** Undefined where the machine has no such family. The port is ours alone: neither address nor port are shared. */
function bind(type: 'udp4' | 'udp6', port: number): Promise<Socket | undefined> {
  return new Promise((resolve, reject) => {
    const socket = createSocket({ type, reuseAddr: false, ipv6Only: type === 'udp6' });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      socket.close();
      if (type === 'udp6' && (error.code === 'EAFNOSUPPORT' || error.code === 'EADDRNOTAVAIL' || error.code === 'EINVAL')) resolve(undefined);
      else reject(error);
    });
    socket.bind({ port, exclusive: true }, () => {
      socket.removeAllListeners('error');
      try {
        socket.setRecvBufferSize(RECEIVE_BYTES);
      } catch { /* the kernel's own size, then */ }
      socket.unref();
      resolve(socket);
    });
  });
}
