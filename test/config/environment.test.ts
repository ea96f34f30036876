// What is kept of configurations between commits: what can be used again, and nothing more.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { environmentOf, keepEnvironment } from '../../src/config/environment.js';
import type { Config } from '../../src/config/schema.js';
import type { Topology } from '../../src/config/topology.js';

const topology = { zoneNames: ['trust'] } as unknown as Topology;
const configOf = (): Config => ({ version: 1, objects: { addresses: {} } });

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

/** As after commits of many other rules. In a function of its own, so that nothing on the stack holds it. */
function keepOne(config: Config, isWorn: boolean): WeakRef<object> {
  const environment = environmentOf(config, topology);
  environment.pools.neededFirst = 1;
  if (isWorn) environment.pools.prefixSpan({ any: false, ipv4: true, ipv6: false, prefixes: Array.from({ length: 70_000 }, (_, n) => ({ address: 0xffff_0000_0000n + BigInt(n), length: 128 })) });
  expect(environment.isWorn).toBe(isWorn);
  keepEnvironment(environment);
  return new WeakRef(environment);
}

test('one that is worn goes with the next one; others stay to be used again', async () => {
  const [config, other] = [configOf(), configOf()];
  const worn = keepOne(config, true);
  const kept = keepOne(other, false);
  await expect.poll(() => {
    collectGarbage();
    return worn.deref() === undefined;
  }).toBe(true);
  expect(kept.deref()).toBe(environmentOf(other, topology));
});
