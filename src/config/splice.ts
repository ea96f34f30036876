// A changed configuration written into the text of the one before: comments, layout and order of all that the change leaves as it is stay.
// Called by control's transactions for configurations that came as values (a rule over the API). What it gives, load.ts reads back as
// `next`; undefined: that cannot be promised, and emit.ts writes the text anew.
//
// How: the text is cut, by indentation alone, into the entries of its blocks, as deep as the change goes. A cut counts only when each entry
// that stays, read by itself, is what the configuration has there: so a wrong cut (a text over several lines, an alias) is found, and the
// entries may stand in any order. Comments and blank lines above an entry go with it; when it is removed, those that a blank line sets off
// stay. How a list or mapping was cut is known by that very object: of 10,000 rules, the next change looks at its own.
// A text of moderate size is read again as a whole, and so is one with a block scalar beside the change: these end where the next line says.
import { isDeepStrictEqual } from 'node:util';
import { load, loadAll, YAMLException } from 'js-yaml';
import { blocksBelow, emitItem, emitMember } from './emit.js';
import { keyOf } from './share.js';

const REREAD_CHARACTERS_MAX = 16 * 1024;
/** Entries read at once: in a step of warming, some milliseconds; while a change waits, as long as writing all anew takes. */
const PORTION = 200;
const UNREAD_MAX = 20_000;
const BLOCK_SCALAR = /[|>][-+0-9]*[ \t]*(?:#.*)?$/m;
/** Comments, then the line that begins a document. */
const DOCUMENT_START = /^(?:[ \t]*(?:#[^\n]*)?\n)*---[ \t]*(?:#[^\n]*)?\n/;

type Mapping = Record<string, unknown>;
type Part = Mapping | readonly unknown[];
const isPart = (value: unknown): value is Part => typeof value === 'object' && value !== null;
const isMapping = (value: unknown): value is Mapping => isPart(value) && !Array.isArray(value);

/** `any`: the whole is to be read again. `below`: how many levels below a key are written as blocks. */
interface Task { doubts: { any: boolean }; below: (key: string) => number }

/** `text` is that of `before`. Both share what is the same (share.ts). */
export function spliceConfig(text: string, before: object, next: object): string | undefined {
  const whole = text.endsWith('\n') ? text : `${text}\n`;
  const start = DOCUMENT_START.exec(whole)?.[0] ?? '';
  const doubts = { any: whole.length <= REREAD_CHARACTERS_MAX };
  const body = spliceBlock(whole.slice(start.length), before as Mapping, next as Mapping, { doubts, below: blocksBelow });
  if (body === undefined) return undefined;
  const spliced = start + body;
  return !doubts.any || isSame(tryRead(() => load(spliced)), next) ? spliced : undefined;
}

/** Cuts and reads the entries of a text, so that its first change does not have to: a portion a step. */
export function* warmSplice(text: string, config: object): Generator<void> {
  const whole = text.endsWith('\n') ? text : `${text}\n`;
  yield* warmBlock(whole.slice(DOCUMENT_START.exec(whole)?.[0].length ?? 0), config as Mapping, 2);
}

function* warmBlock(text: string, part: Part, below: number): Generator<void> {
  let portion: Unread[] = [];
  const values = Object.entries(part);
  for (const [index, piece] of blockOf(text, part)?.pieces.entries() ?? []) {
    const [key, value] = values[index]! as [string, unknown];
    const body = piece.text.slice(piece.text.indexOf('\n') + 1);
    if (below > 0 && isMapping(part) && isPart(value) && body !== '') yield* warmBlock(body, value, below - 1);
    else portion.push({ piece, says: isMapping(part) ? { [key]: value } : [value] });
    if (portion.length < PORTION) continue;
    readAll(portion);
    portion = [];
    yield;
  }
  readAll(portion);
}

// ---- cutting ------------------------------------------------------------------------------------------------------------

/** `lead`: the comments and blank lines above the entry. Both end with a line break. `isRead`: it says what the configuration has there. */
interface Piece { readonly lead: string; readonly text: string; isRead: boolean }
interface Block { readonly text: string; readonly indent: string; readonly pieces: readonly Piece[]; readonly tail: string }

/** How the text of a part of a configuration was cut. */
const blocks = new WeakMap<object, Block>();

function blockOf(text: string, part: Part): Block | undefined {
  const known = blocks.get(part);
  if (known?.text === text) return known;
  const block = cut(text, Array.isArray(part));
  if (block?.pieces.length !== Object.keys(part).length) return undefined;
  blocks.set(part, block);
  return block;
}

/** The entries of a block by the indentation of its lines. Undefined: it has not the form of one. */
function cut(text: string, isList: boolean): Block | undefined {
  const pieces: Piece[] = [];
  let indent: string | undefined;
  let lead = '';
  let begun = 0; // where the entry under way begins
  let end = 0;   // of the last line that says something
  for (let line = 0, next = 0; line < text.length; line = next) {
    next = text.indexOf('\n', line) + 1;
    let first = line;
    while (text[first] === ' ') first += 1;
    if (text[first] === '\n' || text[first] === '\r' || text[first] === '#') continue;
    const isFirst = indent === undefined;
    indent ??= text.slice(line, first);
    const depth = first - line - indent.length;
    const isItem = text[first] === '-' && /\s/.test(text[first + 1]!);
    if (depth < 0 || (depth === 0 && isList && !isItem)) return undefined;
    // An item as deep as a key belongs to the key above: lists need not be indented.
    if (depth === 0 && isItem === isList) {
      if (!isFirst) pieces.push({ lead, text: text.slice(begun, end), isRead: false });
      lead = text.slice(end, line);
      begun = line;
    } else if (isFirst) return undefined;
    end = next;
  }
  if (indent === undefined) return undefined;
  pieces.push({ lead, text: text.slice(begun, end), isRead: false });
  return { text, indent, pieces, tail: text.slice(end) };
}

/** Where the last blank line ends; 0: there is none. */
function lastBlankEnd(lead: string): number { return /^(?:[^]*\n)?[ \t\r]*\n/.exec(lead)?.[0].length ?? 0; }

const lengthOf = (pieces: readonly Piece[]): number => pieces.reduce((sum, { lead, text }) => sum + lead.length + text.length, 0);

// ---- splicing -----------------------------------------------------------------------------------------------------------

function spliceBlock(text: string, before: Part, next: Part, task: Task): string | undefined {
  const isList = Array.isArray(before);
  if (isList !== Array.isArray(next)) return undefined;
  const block = blockOf(text, before);
  const [olds, news] = [Object.values(before) as unknown[], Object.values(next) as unknown[]];
  const [oldKeys, newKeys] = isList ? [[], []] : [Object.keys(before), Object.keys(next)];
  if (block === undefined || news.length === 0) return undefined;
  const { pieces, indent } = block;

  // What stays at the beginning and at the end.
  const least = Math.min(olds.length, news.length);
  let first = 0;
  while (first < least && olds[first] === news[first] && oldKeys[first] === newKeys[first]) first += 1;
  let last = 0;
  while (last < least - first && olds.at(-1 - last) === news.at(-1 - last) && oldKeys.at(-1 - last) === newKeys.at(-1 - last)) last += 1;
  const end = olds.length - last;

  // In between: which entry has the name, and gives its place and its comments.
  const nameOf = (value: unknown, key: string | undefined): unknown => key ?? keyOf(value) ?? value;
  const places = new Map<unknown, number>();
  for (let index = first; index < end; index += 1) places.set(nameOf(olds[index], oldKeys[index]), index);
  if (places.size !== end - first) return undefined;
  const between = news.slice(first, news.length - last).map((value, index) => ({ value, key: newKeys[first + index], place: places.get(nameOf(value, newKeys[first + index])) }));
  const staying = new Set(between.map(({ place }) => place));
  let left = '';
  const leads = pieces.slice(first, end).map(({ lead }, index) => {
    const whole = left + lead;
    left = staying.has(first + index) ? '' : whole.slice(0, lastBlankEnd(whole));
    return whole;
  });
  const middle = between.map(({ value, key, place }): Piece => {
    if (place === undefined) return { lead: '', text: written(indent, value, key, task), isRead: false };
    const { text: old, isRead } = pieces[place]!;
    const was = olds[place];
    const lead = leads[place - first]!;
    if (was === value) return { lead, text: old, isRead };
    const inside = key === undefined ? spliceItem(old, indent, was, value, task) : spliceMember(old, was, value, key, task);
    return { lead, text: inside ?? withRemark(written(indent, value, key, task), old, key === undefined ? [was] : { [key]: was }), isRead: false };
  });

  const after = pieces.slice(end);
  if (left !== '' && after[0]) after[0] = { ...after[0], lead: left + after[0].lead };
  const all = [...pieces.slice(0, first), ...middle, ...after];
  const isKept = (index: number): boolean => index < first || index >= all.length - last || olds[between[index - first]!.place ?? -1] === news[index];
  const unread: Unread[] = [];
  for (const [index, piece] of all.entries()) if (!piece.isRead && isKept(index)) unread.push({ piece, says: isList ? [news[index]] : { [newKeys[index]!]: news[index] } });
  if (unread.length > UNREAD_MAX || !readAll(unread)) return undefined;
  const isInPlace = between.length === end - first && between.every(({ place }, index) => place === first + index);
  task.doubts.any ||= !isInPlace && [...pieces.slice(Math.max(0, first - 1), first), ...middle].some((piece) => BLOCK_SCALAR.test(piece.text));
  const begin = lengthOf(pieces.slice(0, first));
  const spliced = text.slice(0, begin) + middle.map((piece) => piece.lead + piece.text).join('') + left + text.slice(begin + lengthOf(pieces.slice(first, end)));
  blocks.set(next, { text: spliced, indent, pieces: all, tail: after.length > 0 ? block.tail : left + block.tail });
  return spliced;
}

const written = (indent: string, value: unknown, key: string | undefined, { below }: Task): string => (key === undefined ? `${indent}- ${emitItem(value)}\n` : emitMember(indent, key, value, below(key)));

/** What stands below `key:`. */
function spliceMember(text: string, before: unknown, next: unknown, key: string, { doubts, below }: Task): string | undefined {
  const bodyAt = text.indexOf('\n') + 1;
  if (bodyAt === text.length || !isPart(before) || !isPart(next) || !isSame(tryRead(() => load(text.slice(0, bodyAt))), { [key]: null })) return undefined;
  const spliced = spliceBlock(text.slice(bodyAt), before, next, { doubts, below: () => below(key) - 1 });
  return spliced === undefined ? undefined : text.slice(0, bodyAt) + spliced;
}

/** An item with a key a line: without its dash it is a block of keys. */
function spliceItem(text: string, { length: dash }: string, before: unknown, next: unknown, { doubts }: Task): string | undefined {
  if (!isMapping(before) || !isMapping(next)) return undefined;
  const spliced = spliceBlock(`${text.slice(0, dash)} ${text.slice(dash + 1)}`, before, next, { doubts, below: () => -1 });
  // The dash needs a key to stand before.
  return spliced === undefined || !/^ *[^\s#]/.test(spliced) ? undefined : `${spliced.slice(0, dash)}-${spliced.slice(dash + 1)}`;
}

/** A line that takes the place of a line keeps the comment at its end. `says`: what the old one does. */
function withRemark(line: string, old: string, says: unknown): string {
  if (old.indexOf('\n') !== old.length - 1 || line.indexOf('\n') !== line.length - 1) return line;
  for (let at = old.indexOf(' #'); at >= 0; at = old.indexOf(' #', at + 1)) {
    const said = old.slice(0, at).trimEnd();
    if (isSame(tryRead(() => load(said)), says)) return line.slice(0, -1) + old.slice(said.length);
  }
  return line;
}

// ---- proof --------------------------------------------------------------------------------------------------------------

interface Unread { piece: Piece; says: unknown }

/** Each by itself, as a document of its own; all at once, since a parser's start costs more than an entry. */
function readAll(unread: readonly Unread[]): boolean {
  if (unread.length === 0) return true;
  const documents = tryRead(() => loadAll(unread.map(({ piece }) => `---\n${piece.text}`).join('')));
  if (!Array.isArray(documents) || documents.length !== unread.length || !unread.every(({ says }, index) => isSame(documents[index], says))) return false;
  for (const { piece } of unread) piece.isRead = true;
  return true;
}

function tryRead(read: () => unknown): unknown {
  try {
    return read();
  } catch (error) {
    if (error instanceof YAMLException) return undefined;
    throw error;
  }
}

/** In the same order, too. */
const isSame = (a: unknown, b: unknown): boolean => isDeepStrictEqual(a, b) && JSON.stringify(a) === JSON.stringify(b);
