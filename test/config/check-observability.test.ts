// `observability:` — what is wrong with a log or a filter, where, and what would be right.
import { describe, expect, test } from 'vitest';
import { parseEndpoint } from '../../src/config/check-observability.js';
import { base, brief, check } from './support.js';

const rules = 'firewall:\n  rules:\n    - { name: outbound, from: [trust], to: [untrust], action: allow }\n';
const withLogs = (...logs: string[]): string => `${base}${rules}observability:\n  logs:\n${logs.map((log) => `    - ${log}\n`).join('')}`;
const withFilters = (...filters: string[]): string => `${base}${rules}observability:\n  metrics:\n    filters:\n${filters.map((filter) => `      - ${filter}\n`).join('')}`;

describe('logs', () => {
  test.each([
    '{ type: flow, to: syslog, address: "10.0.9.9:6514", tls: true, redact: [user-agent] }',
    '{ type: flow, to: file, path: flows.jsonl, rotate: { megabytes: 50, hours: 24, files: 7, gzip: true }, include: { verdict: dropped, from: [trust, 10.0.0.0/8], port: [22, "3389"] } }',
    '{ type: firewall, to: ipfix, address: "collector.example.net:4739", transport: tcp, enterprise: 55555, drop: [source-port, translated] }',
    '{ type: audit, to: syslog, address: "[2001:db8::9]:514", facility: 13, exclude: { method: [GET], status: [200, 204] } }',
    '{ type: system, to: stdout, include: { level: [warn, error, fatal] }, redact: [address] }',
  ])('%s is good', (log) => {
    expect(check(withLogs(log)).problems).toEqual([]);
  });

  test.each<[string, string]>([
    ['{ type: flow, to: syslog }', ' SLUICE_CONFIG_MISSING_KEY'],
    ['{ type: flow, to: file }', ' SLUICE_CONFIG_MISSING_KEY'],
    ['{ type: flow, to: syslog, address: "10.0.9.9" }', '.address SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: syslog, address: "10.0.9.9:99999" }', '.address SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: syslog, address: "10.0.9.9:514", tls: true, transport: udp }', '.transport SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: syslog, address: "10.0.9.9:514", tls: { certificateFile: /a } }', '.tls SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: syslog, address: "10.0.9.9:514", tls: { caFile: ca.pem } }', '.tls.caFile SLUICE_CONFIG_VALUE'],
    ['{ type: flow, to: ipfix, address: "10.0.9.9:4739", tls: true }', '.tls SLUICE_OBSERVABILITY'],
    ['{ type: audit, to: ipfix, address: "10.0.9.9:4739" }', '.to SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, path: /x }', '.path SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: file, path: a/../../audit/audit.jsonl }', '.path SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, redact: [source, destinatoin] }', '.redact[1] SLUICE_OBSERVABILITY'],
    ['{ type: audit, to: stdout, drop: time }', '.drop SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, include: { rule: [outbuond] } }', '.include.rule[0] SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, exclude: { zone: mars } }', '.exclude.zone SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, include: { from: [trust, mars] } }', '.include.from[1] SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, include: { source: [10.0.0.1/8] } }', '.include.source[0] SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, include: { reason: [policy-denied] } }', '.include.reason[0] SLUICE_OBSERVABILITY'],
    ['{ type: flow, to: stdout, include: { level: [warn] } }', '.include.level SLUICE_OBSERVABILITY'],
    ['{ type: system, to: stdout, include: { level: [loud] } }', '.include.level[0] SLUICE_OBSERVABILITY'],
    ['{ type: flows, to: stdout }', '.type SLUICE_CONFIG_VALUE'],
    ['{ type: flow, to: stdout, colour: red }', '.colour SLUICE_CONFIG_UNKNOWN_KEY'],
  ])('%s is not', (log, expected) => {
    expect(brief(check(withLogs(log)).problems)).toEqual([`10 observability.logs[0]${expected}`]);
  });

  test('what was meant is said', () => {
    expect(check(withLogs('{ type: flow, to: stdout, redact: [destinatoin] }')).problems[0]).toMatchObject({ message: "no record of type flow has a field 'destinatoin'", remedy: "did you mean 'destination'?" });
    expect(check(withLogs('{ type: flow, to: stdout, include: { reason: [policy-denied] } }')).problems[0]!.remedy).toBe("did you mean 'policy-deny'?");
  });

  test('two logs of one name, or of one file', () => {
    expect(brief(check(withLogs('{ name: a, type: flow, to: stdout }', '{ name: a, type: audit, to: stdout }')).problems)).toEqual(['11 observability.logs[1].name SLUICE_NAME_DUPLICATE']);
    expect(brief(check(withLogs('{ type: flow, to: file, path: a.log }', '{ type: audit, to: file, path: ./a.log }')).problems)).toEqual(['11 observability.logs[1].path SLUICE_OBSERVABILITY']);
  });
});

describe('filters of metrics', () => {
  test.each(['{ metric: flow, include: { verdict: [dropped] }, exclude: { source: [10.0.9.0/24] } }', '{ metric: drops, include: { reason: [policy-deny] } }', '{ metric: sluice_rule_sessions_total, exclude: { rule: outbound } }', '{ metric: rx-packets }'])('%s is good', (filter) => {
    expect(check(withFilters(filter)).problems).toEqual([]);
  });

  test.each<[string, string]>([
    ['{ metric: flwo }', '.metric SLUICE_OBSERVABILITY'], ['{ metric: drops, include: { rule: [outbound] } }', '.include.rule SLUICE_OBSERVABILITY'], ['{ metric: flow, include: { source: [here] } }', '.include.source[0] SLUICE_OBSERVABILITY'],
  ])('%s is not', (filter, expected) => {
    expect(brief(check(withFilters(filter)).problems)).toEqual([`11 observability.metrics.filters[0]${expected}`]);
  });
});

test.each<[string, unknown]>([
  ['10.0.9.9:514', { host: '10.0.9.9', port: 514 }], ['[2001:db8::9]:6514', { host: '2001:db8::9', port: 6514 }], ['logs.example.org:1', { host: 'logs.example.org', port: 1 }],
  ['2001:db8::9:514', undefined], ['[10.0.0.1]:514', undefined], [':514', undefined], ['a:0', undefined], ['a b:5', undefined], ['a:514:5', undefined],
])('address %s', (text, expected) => {
  expect(parseEndpoint(text)).toEqual(expected);
});
