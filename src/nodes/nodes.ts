// Nodes that trust one another: this one's record, the others' records, and the rotation of static keys that both are for. Who:
// src/control/process.ts makes one; control tells it what is in force (`inForce`) and asks it at each compilation (`fill`); the API shows it.
// Thread: control's main one. One loop, `tick`, in this order: what the engine has → rotations go on → our record says so → the others are told.
// Parts: trusted.ts the others and talk with them · learnt.ts their records · own-record.ts ours · rotations.ts · state.ts · here.ts what they share.
// Files in STATE/node, control's alone: identity.key and identity.pem (identity.ts), records/ (learnt.ts), state.json (state.ts).
// Bounds: a round each TICK_MS, or TICK_ROTATING_MS while a key rotates; those of the parts.
import { chmodSync, chownSync, lchownSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Compiled } from '../control/compiled.js';
import type { Config } from '../config/schema.js';
import { errorMessage } from '../engine/ipc.js';
import type { Log } from '../supervisor/log.js';
import type { Message } from './exchange.js';
import { Here, isEngineAway, type NodesHost } from './here.js';
import { loadIdentity } from './identity.js';
import { fillNodes, LearntRecords, type Filled } from './learnt.js';
import { OwnRecord } from './own-record.js';
import type { NodeRecord } from './record.js';
import { Rotations, type Rotated, type RotateOptions } from './rotations.js';
import { NodeState } from './state.js';
import { TrustedNodes } from './trusted.js';
import { recordView, timeText, type NodesView } from './view.js';

export type { NodesHost } from './here.js';
export type { Rotated, RotateOptions } from './rotations.js';

const TICK_MS = 5000;
const TICK_ROTATING_MS = 250;

export class Nodes {
  private readonly here: Here;
  private readonly learnt: LearntRecords;
  private readonly state: NodeState;
  private readonly own: OwnRecord;
  private readonly trusted: TrustedNodes;
  private readonly rotating: Rotations;
  private timer: NodeJS.Timeout | undefined;
  private ticking = false;
  private tickAgain = false;

  /** May run while control is still root: the directory becomes `owner`'s. */
  constructor(private readonly directory: string, log: Log, host: NodesHost, owner?: { uid: number; gid: number }) {
    this.here = new Here(log, host, (inMs) => this.tickSoon(inMs));
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.learnt = new LearntRecords(join(directory, 'records'));
    for (const damage of this.learnt.damage) log.warn(`a node's record was lost and will be had again: ${damage}`);
    this.state = new NodeState(join(directory, 'state.json'), log);
    this.trusted = new TrustedNodes(this.here, this.state, this.learnt);
    this.own = new OwnRecord(this.here, this.state, () => this.wake());
    this.rotating = new Rotations(this.here, this.state, this.own, (id) => this.trusted.haveOf(id));
    if (owner) giveAway(directory, owner);
  }

  /** As the user that control runs as. Never rejects: without an identity there are no nodes, and everything else goes on. */
  async start(): Promise<void> {
    const { here } = this;
    try {
      here.identity = await loadIdentity(this.directory);
      this.trusted.configure();
    } catch (error) {
      here.problem = errorMessage(error);
      here.log.error(`this node has no identity: ${here.problem}`);
    }
    this.tickSoon(0);
  }

  async stop(): Promise<void> {
    this.here.stopped = true;
    clearTimeout(this.timer);
    this.trusted.stop();
    this.rotating.stop();
    await this.trusted.closed();
  }

  // ---- what is in force -------------------------------------------------------------------------------------------

  /** What other nodes told, in a configuration that is about to be compiled. */
  fill(config: Config): Filled {
    const { nowMs, keys } = this.here;
    const records = new Map<string, NodeRecord>();
    const ids = new Map<string, string>();
    for (const { name, id } of config.nodes?.peers ?? []) {
      const record = this.learnt.current(id, nowMs);
      if (!record) continue;
      records.set(name, record);
      ids.set(name, id);
    }
    return fillNodes(config, records, keys, (node, key) => this.learnt.get(ids.get(node)!)?.claimedMs[key] ?? Infinity);
  }

  /** The engine has this now. */
  inForce(compiled: Compiled): void {
    const { here } = this;
    const isNew = JSON.stringify([here.compiled?.nodes, here.compiled?.hostname]) !== JSON.stringify([compiled.nodes, compiled.hostname]);
    here.compiled = compiled;
    for (const { name } of compiled.nodes?.peers ?? []) {
      const notes = compiled.nodeNotes.get(name);
      here.say(`note ${name}`, notes && `of what node ${name} says something does not count: ${notes.join('; ')}`);
    }
    this.trusted.releaseInForce();
    if (isNew) this.trusted.configure();
    this.tickSoon(0);
  }

  // ---- the loop ---------------------------------------------------------------------------------------------------

  private tickSoon(inMs: number): void {
    if (this.here.stopped) return;
    if (this.ticking) {
      this.tickAgain ||= inMs === 0;
      return;
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.tickOnce(), inMs);
    this.timer.unref();
  }

  private async tickOnce(): Promise<void> {
    this.ticking = true;
    this.tickAgain = false;
    try {
      await this.tick();
      this.here.say('tick', undefined);
    } catch (error) {
      this.here.say('tick', `nodes: ${errorMessage(error)}; trying again`);
    }
    this.ticking = false;
    this.tickSoon(this.tickAgain ? 0 : this.state.rotations.length > 0 ? TICK_ROTATING_MS : TICK_MS);
  }

  private async tick(): Promise<void> {
    const { here, state } = this;
    if (!here.identity || !here.compiled || here.stopped) return;
    if (this.hasTunnels || state.rotations.length > 0) {
      try {
        here.views = await here.host.show();
      } catch (error) {
        if (isEngineAway(error)) return; // it comes back, and with it the next round
        throw error;
      }
    } else here.views = [];
    if (here.stopped) return;
    this.rotating.goOn();
    this.own.renew();
    for (const { interface: name } of [...state.rotations]) await this.rotating.advance(name);
    this.rotating.schedule();
    this.endExpired();
  }

  /** Is there anything to tell or to rotate? Who has thousands of other peers is not asked for them all the time. */
  private get hasTunnels(): boolean {
    const { config, tunnels } = this.here;
    return config.announce !== undefined || tunnels.some(({ peers }) => [...peers.values()].some(({ node }) => node !== null));
  }

  /** A record that has ended counts no more, also when no other one comes. */
  private endExpired(): void {
    const { compiled, config, nowMs, host } = this.here;
    if ((config.peers ?? []).some(({ name, id }) => compiled!.nodeSequences.has(name) && !this.learnt.current(id, nowMs))) host.refill();
  }

  // ---- for people, and for other nodes ----------------------------------------------------------------------------

  /** See rotations.ts. */
  rotate(name: string, options: RotateOptions, progress: (text: string) => void = () => undefined): Promise<Rotated> { return this.rotating.rotate(name, options, progress); }

  /** A node called. */
  answer(id: string, message: Message): Promise<Message> { return this.trusted.answer(id, message); }

  /** Calls all nodes now. */
  wake(): void { this.trusted.wake(); }

  /** How many have ended, by how. */
  get rotations(): { done: number; failed: number } { return this.rotating.counts; }
  get ownRecord(): NodeRecord | undefined { return this.state.record; }

  view(): NodesView {
    const { here, state, trusted } = this;
    return {
      name: here.name, id: here.identity?.id ?? null, listen: trusted.listening, problem: here.problem ?? null,
      record: recordView(state.record), strangers: trusted.strangers, peers: trusted.view(), rotations: this.rotating.view(),
      lastRotations: Object.fromEntries(Object.entries(state.rotatedAtMs).map(([name, ms]) => [name, timeText(ms)!])),
    };
  }
}

function giveAway(directory: string, { uid, gid }: { uid: number; gid: number }): void {
  for (const path of [directory, join(directory, 'records')]) {
    for (const name of readdirSync(path)) lchownSync(join(path, name), uid, gid);
    chownSync(path, uid, gid);
  }
  // Control's own parts lie in it; what it may not read there has modes of its own.
  const parent = join(directory, '..');
  chmodSync(parent, statSync(parent).mode & 0o7777 | 0o011);
}
