// What the end-to-end tests share: a lab with hosts, servers and the running appliance, made before a file's tests and
// gone after them. Where namespaces cannot be made, the tests are skipped, and say so.

import { afterAll, afterEach, beforeAll, describe } from 'vitest';
import { Appliance, type ApplianceOptions } from '../../lab/appliance.js';
import { Lab, labObstacle } from '../../lab/lab.js';
import { buildTopology, startServers, type Servers, type TopologyOptions } from '../../lab/topology.js';

const obstacle = labObstacle();
if (obstacle) console.warn(`\nSKIPPED: end-to-end tests in network namespaces: ${obstacle}\n`);

/** A describe whose tests need namespaces. */
export const describeNetns = describe.skipIf(obstacle !== undefined);

export interface Bench {
  lab: Lab;
  appliance: Appliance;
  servers: Servers;
}

export interface FixtureOptions extends TopologyOptions {
  appliance?: ApplianceOptions | ((lab: Lab) => ApplianceOptions);
  /** Do not start the appliance: the tests do. */
  idle?: boolean;
}

/** Registers the hooks; the returned object is filled before the first test. */
export function useLab(options: FixtureOptions = {}): Bench {
  const bench = {} as Bench;
  beforeAll(async () => {
    const lab = new Lab();
    bench.lab = lab;
    buildTopology(lab, options);
    bench.servers = await startServers(lab);
    bench.appliance = new Appliance(lab, typeof options.appliance === 'function' ? options.appliance(lab) : options.appliance);
    if (!options.idle) await bench.appliance.start();
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail' && bench.appliance?.program) {
      console.error(`sluice up: ${bench.appliance.program.describeExit()}\n${bench.appliance.program.tail(30)}\n${bench.appliance.logs()}\n${bench.lab.deviceDrops()}`);
    }
  });
  afterAll(async () => {
    await bench.lab?.destroy();
  });
  return bench;
}
