// Building blocks of the schema: the few forms that values take, each with the sentence a person reads when one is wrong.
//
// Called by schema.ts and schema-later.ts. `description` is not decoration: load.ts prints it as the remedy.
import { Type, type TObject, type TProperties, type TSchema, type Static } from '@sinclair/typebox';

/** Longest list in a rule; also what bounds a file of one rule. */
export const LIST_ITEMS_MAX = 65536;
/** Longest text of a value: no address, name or path is longer. */
export const TEXT_CHARACTERS_MAX = 1024;

/** A mapping whose unknown keys are errors. */
export function strictObject<T extends TProperties>(properties: T, description?: string): TObject<T> {
  return Type.Object(properties, { additionalProperties: false, ...(description === undefined ? {} : { description }) });
}

/** A mapping from names that the user chooses. */
export function named<T extends TSchema>(value: T, entriesMax: number, description: string) {
  return Type.Unsafe<Record<string, Static<T>>>({
    type: 'object', additionalProperties: value, maxProperties: entriesMax, description,
    propertyNames: { type: 'string', pattern: '^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$' },
  });
}

export function text(description: string, pattern?: string) {
  return Type.String({ minLength: 1, maxLength: TEXT_CHARACTERS_MAX, description, ...(pattern === undefined ? {} : { pattern }) });
}

export function integer(minimum: number, maximum: number, description: string) {
  return Type.Integer({ minimum, maximum, description });
}

export function flag(description: string) {
  return Type.Boolean({ description });
}

export function choice<const T extends readonly string[]>(values: T, description: string) {
  return Type.Unsafe<T[number]>({ type: 'string', enum: values, description });
}

/** One value or a list of them. A list must not be empty: an empty one could be read as "any". */
export function textList(description: string) {
  return Type.Unsafe<string | string[]>({
    type: ['string', 'array'], minLength: 1, maxLength: TEXT_CHARACTERS_MAX, minItems: 1, maxItems: LIST_ITEMS_MAX,
    items: { type: 'string', minLength: 1, maxLength: TEXT_CHARACTERS_MAX, description }, description,
  });
}

export const port = (description: string) => integer(1, 65535, description);

/** A rule's name: printable, shown in records and metrics. */
export const ruleName = Type.String({
  minLength: 1, maxLength: 64, pattern: '^[^\\u0000-\\u001f\\u007f]*$', description: 'a name of 1 to 64 printable characters',
});

/** One value or a list, as a list; left out: the empty list. */
export function asList<T>(value: T | readonly T[] | undefined): readonly T[] {
  if (value === undefined) return [];
  return Array.isArray(value) ? value as readonly T[] : [value as T];
}
