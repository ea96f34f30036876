// Checks of the lists that firewall and NAT rules share: names, zones, addresses, services. Each fault at its item.
//
// Called by check-firewall.ts and check-nat.ts. A list without fault comes back resolved, else undefined. Lists that were
// written before and had no fault cost one look-up (Objects interns them).
import type { CheckContext } from './check.js';
import type { AddressSet, ServiceSet } from './objects.js';
import { ConfigError, quote, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import type { ServiceItem } from './schema.js';
import { zoneMask } from './topology.js';

export function checkNames({ problems }: CheckContext, rules: readonly { name: string }[], path: Path): void {
  const seen = new Map<string, number>();
  rules.forEach(({ name }, i) => {
    const earlier = seen.get(name);
    if (earlier === undefined) seen.set(name, i);
    else problems.error('SLUICE_NAME_DUPLICATE', [...path, i, 'name'], `rule ${earlier} is called ${quote(name)} too`, 'give each rule a name of its own: records and counters go by it');
  });
}

export function checkZones({ topology, problems }: CheckContext, zones: string | readonly string[] | undefined, path: Path): bigint | undefined {
  try {
    return zoneMask(topology, zones);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
  }
  asList<string>(zones).forEach((zone, i) => problems.attempt(Array.isArray(zones) ? [...path, i] : path, () => zoneMask(topology, zone)));
  return undefined;
}

export function checkAddressList({ objects, problems }: CheckContext, list: string | readonly string[] | undefined, path: Path, rule: { name: string; disabled?: boolean }): AddressSet | undefined {
  let whole: ConfigError;
  try {
    return objects.addressList(list);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    whole = error;
  }
  let found = false;
  asList<string>(list).forEach((item, i) => {
    const at = Array.isArray(list) ? [...path, i] : path;
    try {
      objects.addressItem(item);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      found = true;
      if (error.reported) return;
      if (error.code !== 'SLUICE_FQDN_UNSUPPORTED') problems.error(error.code, at, error.message, error.remedy);
      else if (!rule.disabled) problems.error(error.code, at, `rule ${quote(rule.name)}: ${error.message}`, 'write addresses instead, or set disabled: true');
    }
  });
  if (!found) problems.error(whole.code, path, whole.message, whole.remedy);
  return undefined;
}

export function checkServiceList({ objects, problems }: CheckContext, list: ServiceItem | readonly ServiceItem[] | undefined, path: Path): ServiceSet | undefined {
  let whole: ConfigError;
  try {
    return objects.serviceList(list);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    whole = error;
  }
  const before = problems.errors;
  let silent = false;
  asList<ServiceItem>(list).forEach((item, i) => {
    try {
      objects.serviceItem(item);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      if (error.reported) silent = true;
      else problems.error(error.code, Array.isArray(list) ? [...path, i] : path, error.message, error.remedy);
    }
  });
  if (!silent && problems.errors === before) problems.error(whole.code, path, whole.message, whole.remedy);
  return undefined;
}

export function addressKindsOf(set: AddressSet): string {
  return set.ipv4 && set.ipv6 ? 'IPv4 and IPv6' : set.ipv4 ? 'IPv4' : 'IPv6';
}
