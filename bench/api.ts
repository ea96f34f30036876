// The appliance's REST API as a program uses it: one connection that stays open, requests one after the other, each timed from its
// first byte to the last one of its answer.

import { Agent, request } from "node:http";

const ANSWER_DEADLINE_MS = 120_000;

export interface Answer<T> {
  status: number;
  body: T;
  milliseconds: number;
}

export class Api {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });

  constructor(readonly socket: string) {}

  ask<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const all = { host: "sluice", ...headers, ...(text === undefined ? {} : { "content-type": "application/json", "content-length": String(Buffer.byteLength(text)) }) };
    const began = performance.now();
    return new Promise((resolve, reject) => {
      const asking = request({ socketPath: this.socket, agent: this.#agent, method, path, headers: all, timeout: ANSWER_DEADLINE_MS }, (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () => {
          const milliseconds = performance.now() - began;
          const answer = Buffer.concat(chunks).toString("utf8");
          const isJson = /^application\/(problem\+)?json/.test(response.headers["content-type"] ?? "");
          resolve({ status: response.statusCode ?? 0, body: (isJson ? JSON.parse(answer) : answer) as T, milliseconds });
        });
      });
      asking.on("timeout", () => asking.destroy(new Error(`${method} ${path}: no answer within ${ANSWER_DEADLINE_MS / 1000} s`)));
      asking.on("error", reject);
      asking.end(text);
    });
  }

  /** The same, and anything but success is an error. */
  async must<T>(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer<T>> {
    const answer = await this.ask<T>(method, path, body, headers);
    if (answer.status < 200 || answer.status > 201) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body).slice(0, 500)}`);
    return answer;
  }

  close(): void {
    this.#agent.destroy();
  }
}
