// Reads Prometheus' text format 0.0.4 as its specification says, and refuses what promtool would: names, escapes, order, doubles, histograms.

export interface Sample { name: string; labels: Record<string, string>; value: number }
export interface Family { name: string; type: string; help: string; samples: Sample[] }

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/;
const LABEL = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
const TYPES = ['counter', 'gauge', 'histogram', 'summary', 'untyped'];

function parseLabels(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  let rest = text;
  while (rest !== '') {
    const match = /^([^=,{}]+)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)/.exec(rest);
    if (!match) throw new Error(`labels: ${rest}`);
    if (!LABEL.test(match[1]!) || match[1]!.startsWith('__')) throw new Error(`label name ${match[1]}`);
    if (match[1]! in labels) throw new Error(`label ${match[1]} twice`);
    labels[match[1]!] = match[2]!.replace(/\\([\\"n])/g, (_, one: string) => (one === 'n' ? '\n' : one));
    rest = rest.slice(match[0].length);
  }
  return labels;
}

function parseValue(text: string): number {
  if (text === '+Inf') return Infinity;
  if (text === '-Inf') return -Infinity;
  if (text === '' || Number.isNaN(Number(text))) throw new Error(`value ${text}`);
  return Number(text);
}

export function parseExposition(text: string): Map<string, Family> {
  if (!text.endsWith('\n')) throw new Error('the last line is not ended');
  const families = new Map<string, Family>();
  const done = new Set<string>();
  const seen = new Set<string>();
  let current: Family | undefined;
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const comment = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line);
    if (comment) {
      const [, kind, name = '', value = ''] = comment;
      if (!NAME.test(name)) throw new Error(`metric name ${name}`);
      if (current?.name !== name) {
        if (current) done.add(current.name);
        if (done.has(name)) throw new Error(`${name} comes in two places`);
        current = { name, type: '', help: '', samples: [] };
        families.set(name, current);
      }
      if (kind === 'HELP') current.help = value;
      else {
        if (!TYPES.includes(value) || current.type !== '' || current.samples.length > 0) throw new Error(`TYPE of ${name}`);
        current.type = value;
      }
      continue;
    }
    if (line.startsWith('#')) throw new Error(`comment ${line}`);
    const match = /^([^{\s]+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) throw new Error(`line ${line}`);
    const sample = { name: match[1]!, labels: parseLabels(match[2] ?? ''), value: parseValue(match[3]!) };
    if (!NAME.test(sample.name)) throw new Error(`metric name ${sample.name}`);
    const family = current?.type === 'histogram' || current?.type === 'summary' ? sample.name.replace(/_(bucket|sum|count)$/, '') : sample.name;
    if (!current || family !== current.name) throw new Error(`${sample.name} stands below ${current?.name}`);
    const key = `${sample.name}${JSON.stringify(Object.entries(sample.labels).sort())}`;
    if (seen.has(key)) throw new Error(`${key} twice`);
    seen.add(key);
    current.samples.push(sample);
  }
  for (const family of families.values()) checkFamily(family);
  return families;
}

function checkFamily({ name, type, help, samples }: Family): void {
  if (type === '' || help === '') throw new Error(`${name} lacks its type or help`);
  if (type === 'counter' && !name.endsWith('_total')) throw new Error(`counter ${name} does not end in _total`);
  if (type === 'gauge' && name.endsWith('_total')) throw new Error(`gauge ${name} ends in _total`);
  if (type === 'counter' && samples.some(({ value }) => value < 0)) throw new Error(`${name} is negative`);
  if (type !== 'histogram') return;
  const sets = new Map<string, { le: number; value: number }[]>();
  for (const { name: sample, labels: { le, ...labels }, value } of samples) {
    if (!sample.endsWith('_bucket')) continue;
    const key = JSON.stringify(labels);
    sets.set(key, [...sets.get(key) ?? [], { le: le === '+Inf' ? Infinity : Number(le), value }]);
  }
  for (const buckets of sets.values()) {
    if (buckets.at(-1)?.le !== Infinity) throw new Error(`${name} has no bucket +Inf`);
    buckets.forEach(({ le, value }, index) => {
      const before = buckets[index - 1];
      if (before && (before.le >= le || before.value > value)) throw new Error(`${name}: buckets do not grow`);
    });
  }
}

export function valueOf(families: ReadonlyMap<string, Family>, name: string, labels: Record<string, string> = {}): number | undefined {
  return families.get(name)?.samples.find((sample) => sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value))?.value;
}
