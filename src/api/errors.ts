// Errors of the REST API: problem details (RFC 9457) with a code of ours. Who: everything behind the API throws ApiError, server.ts sends
// problems, src/api/client.ts reads them. TITLES is the one list of codes that the API itself answers with; codes of the engine pass through.
// Bounds: PROBLEMS_SENT_MAX problems of a configuration an answer, DETAIL_CHARACTERS_MAX of text.
import type { Problem } from '../config/problem.js';

/** What is wrong at one place of a configuration. */
export interface ProblemEntry { pointer: string; severity: string; code: string; message: string; remedy: string; line?: number; column?: number }

export interface ProblemDetails {
  type: string;      // about:blank#CODE: the code says all there is to look up
  title: string;
  status: number;
  code: string;
  detail: string;
  pointer?: string;  // RFC 6901, into the query, path or body: what to change
  problems?: ProblemEntry[];
  [member: string]: unknown;
}

const TITLES = {
  SLUICE_API_ARGUMENT: 'An argument is wrong',
  SLUICE_API_BODY: 'The body cannot be read',
  SLUICE_API_BODY_TOO_LARGE: 'The body is too large',
  SLUICE_API_HEADERS_TOO_LARGE: 'The request\'s head is too large',
  SLUICE_API_MEDIA_TYPE: 'The body is of a type that is not taken here',
  SLUICE_API_REQUEST: 'This is no HTTP request',
  SLUICE_API_SLOW: 'The request came too slowly',
  SLUICE_API_NOT_FOUND: 'There is no such thing here',
  SLUICE_API_METHOD: 'This cannot be done with it',
  SLUICE_API_NOT_IMPLEMENTED: 'This version cannot do that',
  SLUICE_API_RATE: 'Too many requests',
  SLUICE_API_BUSY: 'Too much is being done at once',
  SLUICE_API_PRECONDITION: 'It was changed by somebody else',
  SLUICE_API_PRECONDITION_REQUIRED: 'The change does not say what it was made from',
  SLUICE_API_INTERRUPTED: 'Control ended while it was being done',
  SLUICE_API_INTERNAL: 'The control process failed at this request',
  SLUICE_AUTHENTICATION: 'It is not known who asks',
  SLUICE_FORBIDDEN: 'This caller may not do that',
  SLUICE_CONFIG_INVALID: 'The configuration cannot be carried out',
  SLUICE_CONFIG_CONFLICT: 'The configuration was changed by somebody else',
  SLUICE_CONFIRM_PENDING: 'A change waits for its confirmation',
  SLUICE_CONFIRM_NONE: 'No change waits for a confirmation',
  SLUICE_CONFIG_CANDIDATE: 'There is no candidate',
  SLUICE_LOCKOUT: 'It would cut off the caller',
  SLUICE_STATE_DISK: 'The state directory cannot be written',
  SLUICE_STATE_DAMAGED: 'A file of the state directory is damaged',
  SLUICE_BACKUP_FORMAT: 'This is no backup',
  SLUICE_BACKUP_PASSPHRASE: 'The passphrase does not fit',
  SLUICE_BACKUP_SIZE: 'The backup is too large',
  SLUICE_AUDIT_WRITE: 'It cannot be audited',
  SLUICE_TOKENS_DAMAGED: 'The tokens cannot be read',
  SLUICE_TOKENS_TOO_MANY: 'There are as many tokens as there may be',
  SLUICE_OIDC_UNAVAILABLE: 'The issuer of tokens does not answer',
  SLUICE_API_LISTEN: 'The API cannot listen there',
  SLUICE_API_TLS: 'The certificates cannot be used',
  SLUICE_NODE_ROTATION: 'The key cannot rotate now',
  SLUICE_ENGINE_AWAY: 'The engine is away',
  SLUICE_NOT_READY: 'The data plane is not ready',
} as const;
export type ApiErrorCode = keyof typeof TITLES;
export const API_ERROR_CODES = Object.keys(TITLES) as ApiErrorCode[];

const PROBLEMS_SENT_MAX = 100;
const DETAIL_CHARACTERS_MAX = 2000;

export interface ErrorExtras {
  headers?: Record<string, string>;          // like Retry-After
  problems?: readonly Problem[];             // of a configuration
  members?: Record<string, unknown>;         // further members of the problem, like `changes` of a conflict
}

/** `code` is one of TITLES, or another SLUICE_ code that says more. */
export class ApiError extends Error {
  constructor(readonly status: number, readonly code: ApiErrorCode | `SLUICE_${string}`, message: string, readonly pointer?: string, readonly extras: ErrorExtras = {}) {
    super(message);
    this.name = 'ApiError';
  }
}

const AWAY_CODES = new Set(['SLUICE_ENGINE_AWAY', 'SLUICE_IPC_CLOSED', 'SLUICE_IPC_TIMEOUT', 'SLUICE_IPC_BUSY']);
/** What fastify and Node find before a route does. */
const FRAMEWORK_CODES: Record<string, [number, ApiErrorCode, string?]> = {
  FST_ERR_CTP_BODY_TOO_LARGE: [413, 'SLUICE_API_BODY_TOO_LARGE'],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: [415, 'SLUICE_API_MEDIA_TYPE'],
  FST_ERR_CTP_EMPTY_JSON_BODY: [400, 'SLUICE_API_BODY'],
  FST_ERR_CTP_INVALID_JSON_BODY: [400, 'SLUICE_API_BODY'],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: [400, 'SLUICE_API_BODY'],
  FST_ERR_BAD_URL: [400, 'SLUICE_API_REQUEST', 'the path is not percent-encoded as it should be'],
  FST_ERR_MAX_PARAM_LENGTH: [414, 'SLUICE_API_REQUEST', 'a part of the path is longer than any name'],
  HPE_HEADER_OVERFLOW: [431, 'SLUICE_API_HEADERS_TOO_LARGE', 'send fewer or shorter header fields'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'SLUICE_API_SLOW', 'the request was not complete in time'],
};

interface Failure { statusCode?: number; code?: unknown; message?: string; validation?: ValidationError[]; validationContext?: string }
interface ValidationError { instancePath?: string; keyword?: string; message?: string; params?: Record<string, unknown> }

export function toProblemDetails(error: unknown): ProblemDetails {
  if (error instanceof ApiError) {
    const { problems, members } = error.extras;
    return { ...details(error.status, error.code, error.message, error.pointer), ...(problems ? { problems: entriesOf(problems) } : {}), ...members };
  }
  const failure = (error ?? {}) as Failure;
  const message = failure.message ?? 'unknown error';
  if (failure.validation) return validationProblem(failure.validation[0], failure.validationContext ?? '', message);
  const code = typeof failure.code === 'string' ? failure.code : '';
  const known = FRAMEWORK_CODES[code];
  if (known) return details(known[0], known[1], known[2] ?? message);
  if (AWAY_CODES.has(code)) return details(503, 'SLUICE_ENGINE_AWAY', message);
  if (code.startsWith('SLUICE_')) return { ...details(409, code as `SLUICE_${string}`, message), title: 'The engine refused it' };
  if (failure.statusCode !== undefined && failure.statusCode >= 400 && failure.statusCode < 500) return details(failure.statusCode, 'SLUICE_API_ARGUMENT', message);
  // What went wrong inside is for the log, not for whoever asked.
  return details(500, 'SLUICE_API_INTERNAL', 'see the log of the control process');
}

/** Headers that belong to an error, like Retry-After. */
export function headersOf(error: unknown): Record<string, string> {
  return error instanceof ApiError ? error.extras.headers ?? {} : {};
}

function validationProblem(first: ValidationError | undefined, context: string, message: string): ProblemDetails {
  const unknown = first?.params?.['additionalProperty'];
  const extra = unknown ?? first?.params?.['missingProperty'];
  const pointer = `${first?.instancePath ?? ''}${typeof extra === 'string' ? `/${escapePointer(extra)}` : ''}`;
  const allowed = first?.keyword === 'enum' && Array.isArray(first.params?.['allowedValues']) ? `: ${(first.params['allowedValues'] as unknown[]).join(', ')}` : '';
  const text = typeof unknown === 'string' ? `${message}: '${unknown}'` : `${message}${allowed}`;
  return details(400, 'SLUICE_API_ARGUMENT', text, pointer || (context === 'body' ? '' : undefined));
}

export function escapePointer(segment: string | number): string { return String(segment).replaceAll('~', '~0').replaceAll('/', '~1'); }

/** A problem's path, like firewall.rules[3].source[0] or objects.addresses["a b"], as a JSON pointer. */
export function pointerOfPath(path: string): string {
  let pointer = '';
  for (const [, name, index, quoted] of path.matchAll(/([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]/g)) {
    pointer += `/${escapePointer(quoted === undefined ? name ?? index! : JSON.parse(quoted) as string)}`;
  }
  return pointer;
}

function entriesOf(problems: readonly Problem[]): ProblemEntry[] {
  const errorsFirst = [...problems.filter(({ severity }) => severity === 'error'), ...problems.filter(({ severity }) => severity !== 'error')];
  return errorsFirst.slice(0, PROBLEMS_SENT_MAX).map(({ path, severity, code, message, remedy, line, column }) => ({
    pointer: pointerOfPath(path), severity, code, message, remedy, line, column,
  }));
}

function details(status: number, code: ApiErrorCode | `SLUICE_${string}`, detail: string, pointer?: string): ProblemDetails {
  const title = (TITLES as Record<string, string>)[code] ?? 'It was refused';
  return { type: `about:blank#${code}`, title, status, code, detail: detail.slice(0, DETAIL_CHARACTERS_MAX), ...(pointer === undefined ? {} : { pointer }) };
}
