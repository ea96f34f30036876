// A version of the configuration, made from text or value: parsed, sharing its parts with what runs, of the schema's shape; with what is known of its
// text. Who: transactions.ts, for each commit, and for what the store has. Pure but for what it remembers of a version.
import { checkConfig } from '../config/check.js';
import { emitConfig } from '../config/emit.js';
import type { Facts } from '../config/facts.js';
import { checkShape, parseText } from '../config/load.js';
import { Problems, type At, type Path, type Position, type Problem } from '../config/problem.js';
import { shareWith } from '../config/share.js';
import { spliceConfig } from '../config/splice.js';
import { ApiError } from '../api/errors.js';
import { etagOf } from './store.js';
import type { Version } from './transaction-types.js';

/** Of larger texts only errors are looked up: warnings of a commit are named by their path, and a hundred thousand rules take a second to go through. */
const LOCATED_CHARACTERS_MAX = 1024 * 1024;

/** A version with what is known of its text: where things stand is looked up once, when there is something to say. `bytes`: until they are written. */
export interface KnownVersion extends Version { bytes?: Buffer | undefined; problems(facts: Facts | undefined): Problem[]; locate(path: Path, at: At): Position }

/** From text or value to a version of the schema's shape. Throws ApiError SLUICE_CONFIG_INVALID. */
export function readVersion(text: string | undefined, value: unknown, former: KnownVersion | undefined, file: string, revision = 0): KnownVersion {
  const parsed = text === undefined ? undefined : parseText(text, file);
  if (parsed && parsed.problems.length > 0) throw invalid(parsed.problems);
  const shared = shareWith(parsed === undefined ? value : parsed.value, former?.config);
  const { problems, config } = checkShape(shared, file, parsed?.locate);
  if (config === undefined) throw invalid(problems);
  const whole = text ?? (former === undefined ? emitConfig(config) : config === former.config ? former.text : spliceConfig(former.text, former.config, config) ?? emitConfig(config));
  const bytes = Buffer.from(whole);
  return { ...describeVersion({ revision, etag: etagOf(bytes), text: whole, config }, file, parsed?.locate), bytes };
}

function describeVersion(version: Version, file: string, locate: KnownVersion['locate'] = () => ({ line: 1, column: 1 })): KnownVersion {
  const positions = new Map<string, Position>();
  let known: { facts: Facts | undefined; problems: Problem[] } | undefined;
  const remembered = (path: Path, at: At): Position => {
    const key = `${at} ${path.join('\0')}`;
    const known = positions.get(key) ?? locate(path, at);
    positions.set(key, known);
    return known;
  };
  return {
    ...version, locate: remembered,
    problems: (facts) => {
      // A commit asks twice, and each change of the machine again: the same facts give the same answer.
      if (known !== undefined && known.facts === facts) return known.problems;
      const problems = new Problems(file, remembered, version.text.length <= LOCATED_CHARACTERS_MAX);
      checkConfig(version.config, problems, facts, true);
      known = { facts, problems: problems.sorted() };
      return known.problems;
    },
  };
}

export function invalid(problems: readonly Problem[]): ApiError {
  const errors = problems.filter(({ severity }) => severity === 'error');
  const first = errors[0];
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more)` : '';
  return new ApiError(422, 'SLUICE_CONFIG_INVALID', first ? `${first.path === '' ? '' : `${first.path}: `}${first.message}; ${first.remedy}${more}` : 'the configuration is not valid', undefined, { problems });
}
