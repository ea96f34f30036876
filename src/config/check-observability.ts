// Checks of `observability:`: does a stream have what its sink needs, do names mean something, can its criteria match? A field that is to
// be redacted and that no record has is an error: a slip of the pen there would let out what was meant to stay.
// Called by check.ts.
import { isIP } from 'node:net';
import { isAbsolute, normalize } from 'node:path';
import { criteriaOf } from '../flowlog/criteria.js';
import { FIELD_NAMES, knowField, type StreamType } from '../flowlog/fields.js';
import { AUDIT_MEMBERS, compileEntryMatch, compileMatch, CriteriaError, RECORD_MEMBERS, SYSTEM_MEMBERS, type Criteria, type CriteriaMember } from '../flowlog/match.js';
import { labelsOf, METRIC_NAMES } from '../metrics/catalog.js';
import type { CheckContext } from './check.js';
import { quote, suggest, type Path } from './problem.js';
import type { CriteriaConfig, LogConfig } from './schema-observability.js';
import { asList } from './schema-parts.js';

const CODE = 'SLUICE_OBSERVABILITY';

export function checkObservability(context: CheckContext): void {
  const { config: { observability }, problems } = context;
  if (!observability) return;
  const names = new Map<string, number>();
  const files = new Map<string, number>();
  (observability.logs ?? []).forEach((log, index) => {
    const path = ['observability', 'logs', index];
    checkLog(context, log, path);
    if (log.path !== undefined && log.to === 'file') {
      const file = normalize(log.path);
      if (files.has(file)) problems.error(CODE, [...path, 'path'], `log ${files.get(file)} writes to ${quote(log.path)} too`, 'give each a file of its own: both would rotate it');
      else files.set(file, index);
    }
    if (log.name === undefined) return;
    if (names.has(log.name)) problems.error('SLUICE_NAME_DUPLICATE', [...path, 'name'], `log ${names.get(log.name)} is called ${quote(log.name)} too`, 'give each log a name of its own: counters go by it');
    else names.set(log.name, index);
  });
  (observability.metrics?.filters ?? []).forEach(({ metric, include, exclude }, index) => {
    const path = ['observability', 'metrics', 'filters', index];
    const labels = labelsOf(metric);
    if (!labels) {
      problems.error(CODE, [...path, 'metric'], `there is no metric ${quote(metric)}`, suggest(metric, METRIC_NAMES, 'metric'));
      return;
    }
    for (const [key, criteria] of [['include', include], ['exclude', exclude]] as const) {
      checkMembers(context, criteria, labels, `metric ${metric}`, [...path, key]);
      if (metric === 'flow') checkCriteria(context, criteria, [...path, key]);
    }
  });
}

function checkLog(context: CheckContext, log: LogConfig, path: Path): void {
  const { problems } = context;
  const needs = (key: 'address' | 'path', what: string): void => {
    if (log[key] === undefined) problems.error('SLUICE_CONFIG_MISSING_KEY', path, `${quote(key)} is missing: a log to ${log.to} needs it`, `add ${key}: ${what}`);
  };
  const useless = (key: keyof LogConfig, why: string): void => {
    if (log[key] !== undefined) problems.error(CODE, [...path, key], `${key} has no meaning for a log to ${log.to}`, why, 'key');
  };
  const isRemote = log.to === 'syslog' || log.to === 'ipfix';
  if (isRemote) needs('address', 'address:port of the receiver');
  else useless('address', 'take it away, or write to: syslog');
  if (log.to === 'file') {
    needs('path', 'a path');
    if (log.path !== undefined && !isAbsolute(log.path) && /^\.\.(\/|$)/.test(normalize(log.path))) problems.error(CODE, [...path, 'path'], `${quote(log.path)} leads out of the logs' directory, to the appliance's own files`, 'write a path without .., or one that starts with a slash');
  } else {
    useless('path', 'take it away, or write to: file');
    useless('rotate', 'take it away, or write to: file');
  }
  if (log.to !== 'syslog') {
    useless('facility', 'take it away');
    useless('tls', log.to === 'ipfix' ? 'IPFIX goes over UDP or TCP here; protect it with a tunnel, or use syslog' : 'take it away');
  }
  if (!isRemote) useless('transport', 'take it away');
  if (log.to !== 'ipfix') {
    useless('observationDomain', 'take it away');
    useless('enterprise', 'take it away');
  }
  if (log.tls !== undefined && log.tls !== false && log.transport === 'udp') problems.error(CODE, [...path, 'transport'], 'TLS goes over TCP', 'write transport: tcp, or leave the key out');
  const tls = typeof log.tls === 'object' ? log.tls : {};
  if ((tls.certificateFile === undefined) !== (tls.keyFile === undefined)) problems.error(CODE, [...path, 'tls'], 'a certificate and its key belong together', 'give certificateFile and keyFile, or neither');
  if (log.to === 'ipfix' && log.type !== 'flow' && log.type !== 'firewall') problems.error(CODE, [...path, 'to'], `IPFIX carries flows; the ${log.type} stream has none`, 'send it to file, stdout or syslog');
  if (log.address !== undefined && !parseEndpoint(log.address)) problems.error(CODE, [...path, 'address'], `${quote(log.address)} is not address:port`, 'write it like 10.0.9.9:514 or "[2001:db8::9]:514"');
  for (const key of ['drop', 'redact'] as const) {
    asList<string>(log[key]).forEach((field, index) => {
      const at = Array.isArray(log[key]) ? [...path, key, index] : [...path, key];
      if (knowField(log.type, field) === 'unknown') problems.error(CODE, at, `no record of type ${log.type} has a field ${quote(field)}`, fieldRemedy(log.type, field));
    });
  }
  const allowed = log.type === 'audit' ? AUDIT_MEMBERS : log.type === 'system' ? SYSTEM_MEMBERS : RECORD_MEMBERS;
  for (const key of ['include', 'exclude'] as const) {
    checkMembers(context, log[key], allowed, `the ${log.type} stream`, [...path, key]);
    checkCriteria(context, log[key], [...path, key], log.type);
  }
}

const fieldRemedy = (type: StreamType, field: string): string => (type === 'flow' || type === 'firewall' ? suggest(field, FIELD_NAMES, 'field') : 'write the name of a member');

function checkMembers({ problems }: CheckContext, criteria: CriteriaConfig | undefined, allowed: readonly string[], what: string, path: Path): void {
  for (const member of Object.keys(criteria ?? {})) {
    if (!allowed.includes(member)) problems.error(CODE, [...path, member], `${what} has no ${quote(member)}`, suggest(member, allowed, 'member'), 'key');
  }
}

function checkCriteria({ problems, config, topology }: CheckContext, written: CriteriaConfig | undefined, path: Path, type: StreamType = 'flow'): void {
  if (!written) return;
  const report = (member: CriteriaMember, index: number, message: string, remedy: string): void => {
    problems.error(CODE, [...path, member, ...(Array.isArray(written[member as keyof CriteriaConfig]) ? [index] : [])], message, remedy);
  };
  let criteria: Criteria;
  try {
    criteria = criteriaOf(written) ?? {};
    if (type === 'audit' || type === 'system') compileEntryMatch(criteria, undefined);
    else compileMatch(criteria, undefined);
  } catch (error) {
    if (!(error instanceof CriteriaError)) throw error;
    report(error.member, error.index, error.message, error.choices ? suggest(/'(.*)'/.exec(error.message)?.[1] ?? '', error.choices, error.member) : error.remedy);
    return;
  }
  if (type === 'audit' || type === 'system') return;
  const interfaces = [...topology.byName.keys()];
  const rules = [...config.firewall?.rules ?? [], ...config.nat?.source ?? [], ...config.nat?.destination ?? [], ...config.nat?.static ?? []].map(({ name }) => name);
  const among = (member: 'rule' | 'zone' | 'interface' | 'from' | 'to', known: readonly string[], accepts: (value: string) => boolean = () => false): void => {
    criteria[member]?.forEach((value, index) => {
      if (!known.includes(value) && !accepts(value)) report(member, index, `there is no ${member === 'from' || member === 'to' ? 'interface or zone' : member} ${quote(value)}`, suggest(value, known, 'name'));
    });
  };
  const looksLikeAddress = (value: string): boolean => isIP(value.split('/')[0]!) !== 0;
  among('rule', rules);
  among('zone', topology.zoneNames);
  among('interface', interfaces);
  among('from', [...interfaces, ...topology.zoneNames], looksLikeAddress);
  among('to', [...interfaces, ...topology.zoneNames], looksLikeAddress);
}

/** "10.0.9.9:514", "[2001:db8::9]:514", "logs.example.org:514". */
export function parseEndpoint(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(text);
  if (!match) return undefined;
  const host = match[1] ?? match[2]!;
  const port = Number(match[3]);
  if (port < 1 || port > 65535 || (match[1] !== undefined && isIP(host) !== 6)) return undefined;
  return { host, port };
}
