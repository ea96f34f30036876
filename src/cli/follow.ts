// Follows records live over /api/v1/observe, until Ctrl-C. Who: flows, drops and observe with --follow. When control is restarted
// meanwhile, it goes on with the new one; AWAY_MS_MAX without one is the end.
import { setTimeout as delay } from 'node:timers/promises';
import { ClientError, type ApiClient, type Query } from '../api/client.js';

const RETRY_MS = 250;
const AWAY_MS_MAX = 30_000;
const LOST = /^\{"kind":"lost","records":(\d+)\}$/;

/** `last`: so many of those that are there first. `showAway`: what comes until it goes on is not shown. */
export async function followRecords(client: ApiClient, query: Query, last: number, show: (line: string) => void, showMissed: (count: number) => void, showAway: () => void): Promise<void> {
  process.once('SIGINT', () => process.exit(0)); // the way to end it is no failure
  let awaySinceMs: number | undefined;
  for (let wasThere = false; ; wasThere = true) {
    try {
      await client.lines('/api/v1/observe', { ...query, last: wasThere ? 0 : last, follow: 'true' }, (line) => {
        const lost = LOST.exec(line);
        if (lost) showMissed(Number(lost[1]));
        else show(line);
      });
      awaySinceMs = undefined; // it was there, however little it had to say
    } catch (error) {
      if (!wasThere || !(error instanceof ClientError) || error.code !== 'NOT_RUNNING') throw error;
    }
    if (awaySinceMs === undefined) showAway();
    awaySinceMs ??= performance.now();
    if (performance.now() - awaySinceMs > AWAY_MS_MAX) throw new ClientError('NOT_RUNNING', `no appliance answers on ${client.socket}`);
    await delay(RETRY_MS);
  }
}
