// Asks control over DIR/api.sock. Who: the CLI and the supervisor. Bounds: ANSWER_BYTES_MAX an answer, TIME_LIMIT_MS a request.
import { request, type IncomingMessage } from 'node:http';
import type { ProblemDetails } from './errors.js';

const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
const TIME_LIMIT_MS = 60_000; // of silence: a configuration of 100,000 rules takes seconds to send and to check

/** `code` NOT_RUNNING: nothing listens there; NOT_PERMITTED: this user may not ask; else the API's own code. */
export class ClientError extends Error {
  constructor(readonly code: string, message: string, readonly problem?: ProblemDetails) {
    super(message);
    this.name = 'ClientError';
  }
}

export type Query = Record<string, string | number | undefined>;

export class ApiClient {
  /** `headers`: sent with each request. */
  constructor(readonly socket: string, private readonly headers: Readonly<Record<string, string>> = {}) {}

  async get<T>(path: string, query: Query = {}): Promise<T> {
    return JSON.parse(await this.send('GET', withQuery(path, query))) as T;
  }

  async post<T>(path: string, body: unknown): Promise<T> {
    return JSON.parse(await this.send('POST', path, JSON.stringify(body))) as T;
  }

  async put<T>(path: string, body: unknown): Promise<T> {
    return JSON.parse(await this.send('PUT', path, JSON.stringify(body))) as T;
  }

  async delete(path: string): Promise<void> { await this.send('DELETE', path); }

  /** An answer that comes line by line, for as long as it comes. Ends quietly when the other side hangs up. */
  lines(path: string, query: Query, onLine: (line: string) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const asking = request({ socketPath: this.socket, method: 'GET', path: withQuery(path, query), headers: this.headers, agent: false }, (response) => {
        const isRefused = (response.statusCode ?? 0) >= 400;
        response.setEncoding('utf8');
        let rest = '';
        response.on('data', (chunk: string) => {
          rest += chunk;
          if (isRefused) return;
          const lines = rest.split('\n');
          rest = lines.pop() ?? '';
          for (const line of lines) if (line !== '') onLine(line);
        });
        response.on('close', () => (isRefused ? reject(problemOf(rest, response.statusCode ?? 0)) : resolve()));
        response.on('error', () => resolve());
      });
      asking.on('error', (error: NodeJS.ErrnoException) => reject(connectionError(error, this.socket)));
      asking.end();
    });
  }

  /** An answer as bytes, for who reads them as they come: pausing it makes the other side wait. Destroying it ends the request. */
  stream(path: string, query: Query): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const asking = request({ socketPath: this.socket, method: 'GET', path: withQuery(path, query), headers: this.headers, agent: false }, (response) => {
        const status = response.statusCode ?? 0;
        if (status < 400) return resolve(response);
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => { if (text.length < ANSWER_BYTES_MAX) text += chunk; });
        response.on('close', () => reject(problemOf(text, status)));
      });
      asking.on('error', (error: NodeJS.ErrnoException) => reject(connectionError(error, this.socket)));
      asking.end();
    });
  }

  private send(method: string, path: string, body?: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const headers = { ...this.headers, ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }) };
      const asking = request({ socketPath: this.socket, method, path, headers, agent: false, timeout: TIME_LIMIT_MS }, (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.length;
          if (bytes > ANSWER_BYTES_MAX) asking.destroy(new ClientError('SLUICE_CLIENT_ANSWER', `an answer of more than ${ANSWER_BYTES_MAX} bytes; ask for less`));
          else chunks.push(chunk);
        });
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8');
          const status = response.statusCode ?? 0;
          if (status < 400) resolve(text);
          else reject(problemOf(text, status));
        });
        response.on('error', reject);
      });
      asking.on('timeout', () => asking.destroy(new ClientError('SLUICE_CLIENT_TIMEOUT', `no answer from ${this.socket} within ${TIME_LIMIT_MS / 1000} s`)));
      asking.on('error', (error: NodeJS.ErrnoException) => reject(connectionError(error, this.socket)));
      asking.end(body);
    });
  }
}

function withQuery(path: string, query: Query): string {
  const given = Object.entries(query).filter((entry): entry is [string, string | number] => entry[1] !== undefined);
  const search = new URLSearchParams(given.map(([key, value]) => [key, String(value)])).toString();
  return search ? `${path}?${search}` : path;
}

function problemOf(text: string, status: number): ClientError {
  try {
    const problem = JSON.parse(text) as ProblemDetails;
    return new ClientError(problem.code, problem.detail, problem);
  } catch {
    return new ClientError('SLUICE_CLIENT_ANSWER', `HTTP status ${status}`);
  }
}

function connectionError(error: NodeJS.ErrnoException, socket: string): Error {
  if (error instanceof ClientError) return error;
  if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED' || error.code === 'ENOTDIR') {
    return new ClientError('NOT_RUNNING', `no appliance answers on ${socket}`);
  }
  if (error.code === 'EACCES' || error.code === 'EPERM') return new ClientError('NOT_PERMITTED', `this user may not use ${socket}`);
  return new ClientError('SLUICE_CLIENT_CONNECTION', `${socket}: ${error.message}`);
}
