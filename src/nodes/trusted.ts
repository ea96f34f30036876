// The nodes that the configuration trusts: calls to them and from them, what each last said, and whose record is in force where. Who: nodes.ts;
// rotations.ts asks who has our record. Thread: control's main one. Bounds: RECORDS_PER_MINUTE of a node, IN_FORCE_MS that an answer waits for the engine.
import { parseListen } from '../api/tls.js';
import type { NodePeerConfig } from '../config/schema-nodes.js';
import { nodeAndInterface } from '../config/check-nodes.js';
import { errorMessage } from '../engine/ipc.js';
import { ExchangeError, NodeListener, REASON_CHARACTERS_MAX, type Message } from './exchange.js';
import type { Here } from './here.js';
import type { LearntRecords } from './learnt.js';
import { Link } from './link.js';
import { RecordError, type SignedRecord } from './record.js';
import type { NodeState } from './state.js';
import { timeText, recordView, type NodeView } from './view.js';

const IN_FORCE_MS = 3000;
const LISTEN_RETRY_MS = 1000;
const STRANGERS_LOG_MS = 60_000;
/** A node that tells something new all the time would have the engine do it all the time. */
const RECORDS_PER_MINUTE = 20;

/** What is known of a trusted node since control started. */
interface Peer { config: NodePeerConfig; have: number | null; lastExchangeMs: number | null; exchanges: number; failures: number; problem: string | null; refused: string | null; theyRefused: string | null; link: Link | undefined; takenMs: number[] }

export class TrustedNodes {
  /** Callers that were sent away. */
  strangers = 0;
  private readonly peers = new Map<string, Peer>(); // by id
  private listener: NodeListener | undefined;
  private wantedListen: string | undefined;
  private listenTimer: NodeJS.Timeout | undefined;
  private readonly inForceWaiters = new Set<() => void>();
  private strangersLoggedMs = -Infinity;

  constructor(private readonly here: Here, private readonly state: NodeState, private readonly learnt: LearntRecords) {}

  /** Nobody is called or heard any more. */
  stop(): void {
    clearTimeout(this.listenTimer);
    for (const { link } of this.peers.values()) link?.stop();
    this.releaseInForce();
  }

  async closed(): Promise<void> { await this.listener?.close(); }

  // ---- who they are -----------------------------------------------------------------------------------------------

  /** As what is in force says. */
  configure(): void {
    const { identity, compiled, stopped, config: nodes } = this.here;
    if (!identity || !compiled || stopped) return;
    const wanted = new Map((nodes.peers ?? []).filter(({ id }) => id !== identity.id).map((peer) => [peer.id, peer]));
    for (const [id, peer] of this.peers) {
      const config = wanted.get(id);
      if (config !== undefined && config.url === peer.config.url) {
        peer.config = config;
        continue;
      }
      peer.link?.stop();
      this.peers.delete(id);
    }
    for (const [id, config] of wanted) {
      if (this.peers.has(id)) continue;
      const peer: Peer = { config, have: null, lastExchangeMs: null, exchanges: 0, failures: 0, problem: null, refused: null, theyRefused: null, link: undefined, takenMs: [] };
      this.peers.set(id, peer);
      if (config.url !== undefined) {
        peer.link = new Link(new URL(config.url), id, identity, {
          message: () => this.messageTo(peer), taken: (answer) => this.take(peer, answer),
          failed: (error) => this.failed(peer, error), isBehind: () => this.isBehind(peer), hasNews: (told) => this.inForceOf(peer) !== told,
        });
      }
    }
    this.learnt.keep(new Set(wanted.keys()));
    void this.listen();
  }

  private async listen(): Promise<void> {
    const { here } = this;
    clearTimeout(this.listenTimer);
    const { listen } = here.config;
    if (listen === this.wantedListen) return;
    this.wantedListen = listen;
    await this.listener?.close();
    this.listener = undefined;
    if (listen === undefined || this.wantedListen !== listen || here.stopped) return;
    const listener = new NodeListener(parseListen(listen), {
      identity: here.identity!, isKnown: (id) => this.peers.has(id), answer: (id, message) => this.answer(id, message),
      onStranger: (address, id) => this.onStranger(address, id), onError: (error) => here.log.error({ err: error }, 'the listener for nodes failed'),
    });
    try {
      await listener.listen();
      if (this.wantedListen !== listen || here.stopped) return void listener.close();
      this.listener = listener;
      here.problem = undefined;
      here.log.info({ listen }, 'listening for nodes');
    } catch (error) {
      const problem = `nodes cannot be listened to on ${listen}: ${errorMessage(error)}`;
      if (problem !== here.problem) here.log.warn(problem);
      here.problem = problem;
      this.wantedListen = undefined; // the address may come yet
      this.listenTimer = setTimeout(() => void this.listen(), LISTEN_RETRY_MS).unref();
    }
  }

  private onStranger(address: string, id: string | undefined): void {
    const { here } = this;
    this.strangers += 1;
    if (here.nowMs - this.strangersLoggedMs < STRANGERS_LOG_MS) return;
    this.strangersLoggedMs = here.nowMs;
    here.log.warn({ address, id: id ?? null, count: this.strangers }, 'somebody who is no node of the configuration was sent away');
  }

  // ---- exchange ---------------------------------------------------------------------------------------------------

  private inForceOf({ config }: Peer): number | null { return this.here.compiled?.nodeSequences.get(config.name) ?? null; }

  /** Our record is not in force at the other end yet. */
  private isBehind({ have }: Peer): boolean { return this.state.signed !== null && (have === null || have < this.state.sequence); }

  /** The sequence of our record that is in force at a node's end. */
  haveOf(id: string): number | null { return this.peers.get(id)?.have ?? null; }

  private messageTo(peer: Peer): Message {
    return { have: this.inForceOf(peer), record: this.isBehind(peer) ? this.state.signed : null, refused: peer.refused };
  }

  /** Calls all nodes now. */
  wake(): void { for (const { link } of this.peers.values()) link?.wake(); }

  /** A node called. */
  async answer(id: string, message: Message): Promise<Message> {
    const peer = this.peers.get(id);
    if (!peer) throw new ExchangeError('this node does not know you');
    await this.take(peer, message);
    return this.messageTo(peer);
  }

  /** What the other end said. Waits a moment for the engine to have it. */
  private async take(peer: Peer, { have, record, refused }: Message): Promise<void> {
    const { here } = this;
    const { name } = peer.config;
    peer.have = have;
    peer.lastExchangeMs = here.nowMs;
    peer.exchanges += 1;
    peer.problem = null;
    peer.theyRefused = refused;
    here.say(`exchange ${name}`, undefined);
    here.say(`theirs ${name}`, refused === null ? undefined : `node ${name} does not take our record: ${refused}`);
    if (record !== null) {
      this.takeRecord(peer, record);
      here.say(`record ${name}`, peer.refused === null ? undefined : `the record of node ${name} is refused: ${peer.refused}`);
    }
    if (this.state.rotations.length > 0) here.tickSoon(0);
    const held = this.learnt.current(peer.config.id, here.nowMs);
    if (held && held.sequence !== this.inForceOf(peer)) await this.untilInForce(() => this.inForceOf(peer) === held.sequence);
  }

  private takeRecord(peer: Peer, record: SignedRecord): void {
    const { here, learnt } = this;
    const { id, name } = peer.config;
    try {
      const { nowMs } = here;
      peer.takenMs = peer.takenMs.filter((ms) => Math.abs(nowMs - ms) < 60_000);
      if (peer.takenMs.length >= RECORDS_PER_MINUTE && learnt.get(id)?.signed.record !== record.record) throw new RecordError(`${RECORDS_PER_MINUTE} records came within a minute`);
      if (learnt.accept(id, record, nowMs)) {
        peer.takenMs.push(nowMs);
        here.log.info({ node: name, sequence: learnt.get(id)!.record.sequence }, 'a node\'s record was taken');
        here.host.refill();
      }
      peer.refused = null;
    } catch (error) {
      if (!(error instanceof RecordError)) throw error;
      peer.refused = error.message.slice(0, REASON_CHARACTERS_MAX);
    }
  }

  private failed(peer: Peer, error: unknown): void {
    peer.failures += 1;
    peer.problem = errorMessage(error);
    this.here.say(`exchange ${peer.config.name}`, `node ${peer.config.name} cannot be reached: ${peer.problem}`);
  }

  private async untilInForce(isSo: () => boolean): Promise<void> {
    const endMs = performance.now() + IN_FORCE_MS;
    while (!isSo() && !this.here.stopped && performance.now() < endMs) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          this.inForceWaiters.delete(done);
          resolve();
        };
        const timer = setTimeout(done, Math.max(1, endMs - performance.now()));
        this.inForceWaiters.add(done);
      });
    }
  }

  /** Something else is in force: whoever waits looks again. */
  releaseInForce(): void { for (const done of [...this.inForceWaiters]) done(); }

  // ---- what people see --------------------------------------------------------------------------------------------

  /** Where nodes are heard now. */
  get listening(): string | null { return this.listener ? this.wantedListen ?? null : null; }

  view(): NodeView[] {
    const { compiled, tunnels } = this.here;
    return [...this.peers.values()].map((peer): NodeView => {
      const { config, have, lastExchangeMs, exchanges, failures, problem, refused, theyRefused } = peer;
      const learnt = this.learnt.get(config.id);
      return {
        name: config.name, id: config.id, url: config.url ?? null, lastExchange: timeText(lastExchangeMs), exchanges, failures, problem, record: recordView(learnt?.record),
        inForce: learnt !== undefined && this.inForceOf(peer) === learnt.record.sequence, hasOurs: !this.isBehind(peer), have,
        refused, theyRefused, notes: [...compiled?.nodeNotes.get(config.name) ?? []],
        tunnels: tunnels.filter((tunnel) => [...tunnel.peers.values()].some(({ node }) => node !== null && nodeAndInterface(node)[0] === config.name)).map(({ name }) => name),
      };
    });
  }
}
