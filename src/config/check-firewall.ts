// Checks of objects and firewall rules: names, zones, addresses, services, families, and rules that can never match.
//
// Called by check.ts, objects first: an object's fault is reported where the object stands, once.
import { checkClassifier } from './check-classifier.js';
import { addressKindsOf, checkAddressList, checkNames, checkServiceList, checkZones } from './check-lists.js';
import type { CheckContext } from './check.js';
import { isReservedAddressName } from './objects.js';
import { quote, type Path } from './problem.js';
import { asList } from './schema-parts.js';
import type { FirewallRule } from './schema.js';
import { ICMP, ICMPV6, isServiceWord } from './services.js';
import type { ShadowRule } from './shadow.js';
import { ShadowIndex } from './shadow-index.js';

export function checkObjects({ config, objects, problems }: CheckContext): void {
  const definitions = config.objects;
  // 1. Each literal at its place.
  for (const [name, list] of Object.entries(definitions?.addresses ?? {})) {
    const path: Path = ['objects', 'addresses', name];
    if (isReservedAddressName(name)) problems.error('SLUICE_OBJECT_NAME', path, `${quote(name)} reads as an address`, 'start the name with a letter, and not with any', 'key');
    asList<string>(list).forEach((item, i) => {
      if (definitions?.addresses?.[item] !== undefined && Object.hasOwn(definitions.addresses, item)) return;
      problems.attempt(Array.isArray(list) ? [...path, i] : path, () => objects.addressItem(item));
    });
  }
  for (const [name, list] of Object.entries(definitions?.services ?? {})) {
    const path: Path = ['objects', 'services', name];
    if (isServiceWord(name)) problems.error('SLUICE_OBJECT_NAME', path, `${quote(name)} is a service of its own`, 'choose another name', 'key');
    asList(list).forEach((item, i) => {
      if (typeof item === 'string' && Object.hasOwn(definitions?.services ?? {}, item)) return;
      problems.attempt(Array.isArray(list) ? [...path, i] : path, () => objects.serviceItem(item));
    });
  }
  // 2. Groups as a whole: circles and sizes. What a literal did was said above.
  const whole = (path: Path, resolve: () => unknown): void => {
    problems.attempt(path, () => {
      try {
        resolve();
      } catch (error) {
        if (objects.isWholeFault(error)) throw error;
      }
    });
  };
  for (const name of objects.addressNames) whole(['objects', 'addresses', name], () => objects.addressItem(name));
  for (const name of objects.serviceNames) whole(['objects', 'services', name], () => objects.serviceItem(name));
}

export function checkFirewall(context: CheckContext): void {
  const { config, problems, environment, isHurried } = context;
  const rules = config.firewall?.rules ?? [];
  const { last } = environment;
  const errorsBefore = problems.errors;
  if (!isSameNames(last?.rules, rules)) checkNames(context, rules, ['firewall', 'rules']);
  const hasNames = problems.errors === errorsBefore;
  const matches: (ShadowRule | undefined)[] = [];
  const comparable: ShadowRule[] = [];
  const indexes: number[] = [];
  rules.forEach((rule, i) => {
    let shadow = last?.rules[i] === rule ? last.matches[i] : environment.matches.get(rule);
    let isGood = shadow !== undefined;
    if (shadow === undefined) {
      const before = problems.errors;
      shadow = checkRule(context, rule, ['firewall', 'rules', i]);
      isGood = shadow !== undefined && problems.errors === before;
      if (isGood) environment.matches.set(rule, shadow!);
    }
    matches.push(isGood ? shadow : undefined); // a fault is reported anew
    if (shadow === undefined || rule.disabled) return;
    comparable.push(shadow);
    indexes.push(i);
  });
  environment.last = hasNames ? { rules, matches } : undefined;
  checkClassifier(problems, comparable, indexes, (i) => rules[i]!.name);
  const { covered, cappedAt } = (environment.shadows ??= new ShadowIndex()).find(comparable, isHurried);
  for (const [inner, outer] of covered) {
    const earlier = rules[indexes[outer]!]!;
    const rule = rules[indexes[inner]!]!;
    problems.warn('SLUICE_RULE_SHADOWED', ['firewall', 'rules', indexes[inner]!],
      `rule ${quote(rule.name)} can never match: rule ${quote(earlier.name)} (firewall.rules[${indexes[outer]!}], ${earlier.action}) takes all of it`, 'move it before that rule, or take it away');
  }
  if (cappedAt !== undefined) {
    problems.warn('SLUICE_RULE_SHADOW_CAPPED', ['firewall', 'rules', indexes[cappedAt]!], 'the search for rules that can never match stopped here: too many to compare', 'nothing is wrong with the rules; later ones were not examined for this. `sluice check` takes longer, and examines more');
  }
}

/** Names that were found to differ once. */
function isSameNames(known: readonly FirewallRule[] | undefined, rules: readonly FirewallRule[]): boolean {
  return known?.length === rules.length && rules.every((rule, index) => rule === known[index] || rule.name === known[index]!.name);
}

/** Reports what is wrong with a rule; gives what it matches when that is known. */
function checkRule(context: CheckContext, rule: FirewallRule, path: Path): ShadowRule | undefined {
  const { problems } = context;
  if (rule.l7 !== undefined && !rule.disabled) {
    problems.error('SLUICE_L7_UNSUPPORTED', [...path, 'l7'], `rule ${quote(rule.name)}: l7 cannot be enforced in this version, and without it the rule would allow more than it says`,
      'take l7: away if the whole service may pass, or set disabled: true');
  }
  const from = checkZones(context, rule.from, [...path, 'from']);
  const to = checkZones(context, rule.to, [...path, 'to']);
  const sources = checkAddressList(context, rule.source, [...path, 'source'], rule);
  const destinations = checkAddressList(context, rule.destination, [...path, 'destination'], rule);
  const services = checkServiceList(context, rule.service, [...path, 'service']);
  if (from === undefined || to === undefined || sources === undefined || destinations === undefined || services === undefined) return undefined;
  const ipv4 = sources.ipv4 && destinations.ipv4;
  const ipv6 = sources.ipv6 && destinations.ipv6;
  if (!ipv4 && !ipv6) {
    problems.error('SLUICE_ADDRESS_FAMILY', path, `rule ${quote(rule.name)} can never match: its source is ${addressKindsOf(sources)}, its destination ${addressKindsOf(destinations)}`, 'write both in one family');
  } else if (!services.any && (!ipv4 || !ipv6)) {
    const other = ipv4 ? ICMPV6 : ICMP;
    if (services.services.every(({ protocol }) => protocol === other)) {
      problems.error('SLUICE_ADDRESS_FAMILY', [...path, 'service'], `rule ${quote(rule.name)} can never match: ${ipv4 ? 'ICMPv6 between IPv4' : 'ICMP between IPv6'} addresses`, `write ${ipv4 ? 'icmp' : 'icmpv6'}`);
    }
  }
  return { from, to, sources, destinations, services };
}
