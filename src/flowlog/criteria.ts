// From the configuration's way of writing criteria (one value or a list, ports as numbers or text) to Criteria. Who: FlowLog, metrics,
// check-observability.ts. Pure. Throws CriteriaError for a port that is none.
import type { CriteriaConfig } from '../config/schema-observability.js';
import { asList } from '../config/schema-parts.js';
import { CriteriaError, type Criteria } from './match.js';

export function criteriaOf(config: CriteriaConfig | undefined): Criteria | undefined {
  if (!config) return undefined;
  const { port, ...lists } = config;
  const criteria: Record<string, readonly unknown[]> = {};
  for (const [member, value] of Object.entries(lists)) if (value !== undefined) criteria[member] = asList<string | number>(value).map(String);
  if (port !== undefined) {
    criteria['port'] = asList<number | string>(port).map((value, index) => {
      const number = Number(value);
      if (!Number.isInteger(number) || number < 0 || number > 65535) throw new CriteriaError('port', index, `'${value}' is no port`, 'write a number from 0 to 65535');
      return number;
    });
  }
  return criteria;
}
