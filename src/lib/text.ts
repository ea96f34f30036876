// Text that others wrote (names, addresses of callers, messages of errors), made fit to be shown: nothing of it may move a cursor, colour a
// terminal, begin a line of a log, or turn the direction in which the rest is read. Who: whatever prints. Pure.

/** C0 and C1 controls, DEL, separators of lines, and marks that turn the direction of text (UAX #9). */
const CONTROLS = '\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069';
const UNPRINTABLE = new RegExp(`[${CONTROLS}]`, 'g');
/** Without the line break and the tab. */
const UNPRINTABLE_IN_LINES = new RegExp(`(?![\\n\\t])[${CONTROLS}]`, 'g');

/** One line or part of one: what is no character to read becomes a question mark. */
export function printable(text: string): string { return text.replace(UNPRINTABLE, '?'); }

/** Several lines. */
export function printableLines(text: string): string { return text.replace(UNPRINTABLE_IN_LINES, '?'); }

/** JSON that says the same: what JSON.stringify leaves as it is, like U+009B, as an escape. */
export function printableJson(json: string): string {
  return json.replace(UNPRINTABLE_IN_LINES, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

const WHY_UNREAD: Record<string, string> = {
  ENOENT: 'there is no such file', ENOTDIR: 'there is no such file', EISDIR: 'it is a directory, not a file', EACCES: 'this user may not read it', EPERM: 'this user may not read it',
};
/** Why a file could not be read, without the names of system calls. */
export function whyUnread(error: unknown): string { return WHY_UNREAD[(error as NodeJS.ErrnoException).code ?? ''] ?? (error as Error).message; }
