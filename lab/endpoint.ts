// The program behind the lab's hosts: servers that tell what they saw, and clients that tell what they got. Started
// inside a namespace as `node dist/lab/endpoint.js COMMAND ...`; lab/traffic.ts does it. Answers are JSON lines.
//
//   serve --http PORT,... --tcp PORT,... --udp PORT,...   runs until it is ended; one line a connection or first datagram
//   connect HOST PORT [--bind ADDRESS] [--timeout MS]     one TCP connection attempt
//   stream HOST PORT [--interval MS]                      numbered lines over one TCP connection to its echo, until ended
//   udp HOST PORT --count N --size BYTES [--bind ADDRESS] datagrams to an echo, in lock step
//   knock HOST PORT [--interval MS]                       TCP attempts and datagrams that no policy allows, until ended

import { createHash } from 'node:crypto';
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect, createServer as createTcpServer, type Socket } from 'node:net';
import { parseArgs } from 'node:util';
import { patternChunks } from './pattern.js';

const say = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);
const plain = (address: string | undefined): string => (address ?? '').replace(/^::ffff:/, '');

// ---- servers ------------------------------------------------------------------------------------------------------

/** GET /bytes/N: N patterned bytes. PUT or POST: length and SHA-256 of the body. Anything else: who is asking. */
async function answerHttp(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const size = /^\/bytes\/(\d+)$/.exec(request.url ?? '');
  if (size) {
    response.writeHead(200, { 'content-length': Number(size[1]), 'content-type': 'application/octet-stream' });
    for (const chunk of patternChunks(Number(size[1]))) {
      if (!response.write(chunk)) await new Promise((resolve) => response.once('drain', resolve).once('close', resolve));
      if (response.destroyed) return;
    }
    response.end();
    return;
  }
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  const { remoteAddress, remotePort, localAddress, localPort } = request.socket;
  response.setHeader('content-type', 'application/json');
  response.end(
    JSON.stringify({ remote: plain(remoteAddress), remotePort, local: plain(localAddress), localPort, bytes, sha256: hash.digest('hex') }),
  );
}

function echoTcp(socket: Socket): void {
  say({
    event: 'tcp',
    port: socket.localPort,
    local: plain(socket.localAddress),
    remote: plain(socket.remoteAddress),
    remotePort: socket.remotePort,
  });
  socket.on('error', () => socket.destroy());
  socket.pipe(socket);
}

function serveUdp(port: number): UdpSocket {
  const peers = new Set<string>();
  const socket = createSocket({ type: 'udp6', ipv6Only: false, recvBufferSize: 1 << 20 });
  socket.on('message', (message, peer) => {
    const remote = plain(peer.address);
    if (!peers.has(`${remote} ${peer.port}`)) say({ event: 'udp', port, remote, remotePort: peer.port });
    peers.add(`${remote} ${peer.port}`);
    const answer = message.toString('latin1') === 'who' ? JSON.stringify({ remote, remotePort: peer.port }) : message;
    socket.send(answer, peer.port, peer.address, () => {}); // an ICMP error is the peer's business
  });
  return socket.bind(port);
}

async function serve(ports: { http: number[]; tcp: number[]; udp: number[] }): Promise<void> {
  const listening: Promise<unknown>[] = [];
  for (const port of ports.http) {
    const server = createServer((request, response) => void answerHttp(request, response).catch(() => response.destroy()));
    listening.push(new Promise((resolve) => server.listen({ port, host: '::' }, () => resolve(undefined))));
  }
  for (const port of ports.tcp) {
    const server = createTcpServer({ allowHalfOpen: true }, echoTcp);
    listening.push(new Promise((resolve) => server.listen({ port, host: '::' }, () => resolve(undefined))));
  }
  for (const port of ports.udp) {
    const socket = serveUdp(port);
    listening.push(new Promise((resolve) => socket.once('listening', () => resolve(undefined))));
  }
  await Promise.all(listening);
  say({ event: 'ready' });
}

// ---- clients ------------------------------------------------------------------------------------------------------

/** A datagram whose echo is not back by then is lost: far longer than a busy machine takes. */
const ECHO_MS = 3000;

function connectOnce(host: string, port: number, bind: string | undefined, timeoutMs: number): void {
  const started = Date.now();
  const end = (result: string): void => {
    say({ result, milliseconds: Date.now() - started });
    process.exit(0);
  };
  const socket = connect({ host, port, ...(bind ? { localAddress: bind } : {}) });
  socket.setTimeout(timeoutMs, () => end('timeout'));
  socket.on('connect', () => end('connected'));
  socket.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
}

/** One line each interval, over one connection. Says the count of lines that came back, in order; an end is an error. */
function stream(host: string, port: number, intervalMs: number): void {
  const socket = connect({ host, port, noDelay: true });
  let sent = 0;
  let received = 0;
  let rest = '';
  const end = (error: string): void => {
    say({ event: 'broken', error, sent, received });
    process.exit(1);
  };
  socket.setEncoding('utf8');
  socket.on('connect', () => {
    say({ event: 'connected', localPort: socket.localPort });
    setInterval(() => socket.write(`${sent++}\n`), intervalMs);
    setInterval(() => say({ event: 'progress', sent, received }), 100);
  });
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop()!;
    for (const line of lines) if (line !== String(received++)) end(`line ${line} instead of ${received - 1}`);
  });
  socket.on('error', (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
  socket.on('close', () => end('closed'));
}

/**
 * Lock step: the next datagram leaves when the last one's echo is back; a lost one is sent again, at most five times. Sizes take turns. A
 * further echo of one that was sent again is late, not damaged.
 */
async function udpExchange(host: string, port: number, count: number, sizes: readonly number[], bind: string | undefined): Promise<void> {
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4');
  await new Promise<void>((resolve) => socket.bind({ address: bind }, resolve));
  const errors = new Set<string>();
  socket.on('error', (error: NodeJS.ErrnoException) => errors.add(error.code ?? error.message));
  const sentAgain = new Set<string>();
  let waiting: { message: Buffer; done: (same: boolean) => void } | undefined;
  socket.on('message', (message) => {
    if (!sentAgain.has(message.toString('latin1')) || message.equals(waiting!.message)) waiting?.done(message.equals(waiting.message));
  });
  const exchange = (message: Buffer): Promise<boolean | undefined> =>
    new Promise((resolve) => {
      const timer = setTimeout(() => resolve(undefined), ECHO_MS);
      waiting = { message, done: (same) => (clearTimeout(timer), resolve(same)) };
      socket.send(message, port, host, (error) => {
        if (error) errors.add((error as NodeJS.ErrnoException).code ?? error.message);
      });
    });
  let answered = 0;
  let damaged = 0;
  let lost = 0;
  for (let n = 0; n < count; n++) {
    const message = Buffer.alloc(sizes[n % sizes.length]!, `${n} `);
    let same: boolean | undefined;
    for (let attempt = 0; attempt < 5 && same === undefined; attempt++) {
      if (attempt > 0) sentAgain.add(message.toString('latin1'));
      same = await exchange(message);
      if (same === undefined) lost++;
    }
    if (same === undefined) break;
    if (same) answered++;
    else damaged++;
  }
  say({ sent: count, answered, damaged, lost, errors: [...errors] });
  socket.close();
}

/** What policy forbids, again and again: nothing of it may arrive. */
function knock(host: string, port: number, intervalMs: number): void {
  const udp = createSocket(host.includes(':') ? 'udp6' : 'udp4');
  udp.on('error', () => {});
  let knocks = 0;
  setInterval(() => {
    knocks++;
    udp.send('knock', port, host, () => {});
    const socket = connect({ host, port });
    socket.setTimeout(500, () => socket.destroy());
    socket.on('connect', () => say({ event: 'came-through', knocks }));
    socket.on('error', () => socket.destroy());
  }, intervalMs);
  setInterval(() => say({ event: 'knocking', knocks }), 100);
}

// ---- the command line ---------------------------------------------------------------------------------------------

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    http: { type: 'string', default: '' },
    tcp: { type: 'string', default: '' },
    udp: { type: 'string', default: '' },
    bind: { type: 'string' },
    timeout: { type: 'string', default: '5000' },
    interval: { type: 'string', default: '20' },
    count: { type: 'string', default: '1' },
    size: { type: 'string', default: '64' },
  },
});
const [command, host = '', port = ''] = positionals;
const portList = (text: string): number[] => text.split(',').filter(Boolean).map(Number);

switch (command) {
  case 'serve':
    await serve({ http: portList(values.http), tcp: portList(values.tcp), udp: portList(values.udp) });
    break;
  case 'connect':
    connectOnce(host, Number(port), values.bind, Number(values.timeout));
    break;
  case 'stream':
    stream(host, Number(port), Number(values.interval));
    break;
  case 'udp':
    await udpExchange(host, Number(port), Number(values.count), portList(values.size), values.bind);
    break;
  case 'knock':
    knock(host, Number(port), Number(values.interval));
    break;
  default:
    process.stderr.write('endpoint: serve, connect, stream, udp or knock\n');
    process.exit(2);
}
