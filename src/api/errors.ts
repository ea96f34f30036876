// Errors of the REST API: problem details (RFC 9457) with a code of ours. Who: src/api/routes.ts throws them, server.ts sends them,
// the CLI's client reads them. One list of codes for what the API itself finds; codes of engine and configuration pass through.

export interface ProblemDetails {
  type: string;      // about:blank#CODE: the code says all there is to look up
  title: string;
  status: number;
  code: string;
  detail: string;
  pointer?: string;  // RFC 6901, into the query or body: what to change
}

const TITLES = {
  SLUICE_API_ARGUMENT: 'An argument is wrong',
  SLUICE_API_NOT_FOUND: 'There is no such thing here',
  SLUICE_API_INTERNAL: 'The control process failed at this request',
  SLUICE_ENGINE_AWAY: 'The engine is away',
  SLUICE_NOT_READY: 'The data plane is not ready',
} as const;
export type ApiErrorCode = keyof typeof TITLES;

export class ApiError extends Error {
  constructor(readonly status: number, readonly code: ApiErrorCode, message: string, readonly pointer?: string) {
    super(message);
    this.name = 'ApiError';
  }
}

const AWAY_CODES = new Set(['SLUICE_ENGINE_AWAY', 'SLUICE_IPC_CLOSED', 'SLUICE_IPC_TIMEOUT', 'SLUICE_IPC_BUSY']);

interface Failure { statusCode?: number; code?: unknown; message?: string; validation?: { instancePath?: string; params?: Record<string, unknown> }[]; validationContext?: string }

export function toProblemDetails(error: unknown): ProblemDetails {
  if (error instanceof ApiError) return details(error.status, error.code, error.message, error.pointer);
  const failure = (error ?? {}) as Failure;
  const message = failure.message ?? 'unknown error';
  if (failure.validation) {
    const first = failure.validation[0];
    const extra = first?.params?.['additionalProperty'] ?? first?.params?.['missingProperty'];
    const path = `${first?.instancePath ?? ''}${typeof extra === 'string' ? `/${extra}` : ''}`;
    return details(400, 'SLUICE_API_ARGUMENT', typeof extra === 'string' && first?.params?.['additionalProperty'] ? `${message}: '${extra}'` : message, path || undefined);
  }
  const code = typeof failure.code === 'string' ? failure.code : '';
  if (AWAY_CODES.has(code)) return details(503, 'SLUICE_ENGINE_AWAY', message);
  if (code.startsWith('SLUICE_')) return { ...details(409, 'SLUICE_API_ARGUMENT', message), title: 'The engine refused it', type: `about:blank#${code}`, code };
  if (failure.statusCode !== undefined && failure.statusCode >= 400 && failure.statusCode < 500) return details(failure.statusCode, 'SLUICE_API_ARGUMENT', message);
  // What went wrong inside is for the log, not for whoever asked.
  return details(500, 'SLUICE_API_INTERNAL', 'see the log of the control process');
}

function details(status: number, code: ApiErrorCode, detail: string, pointer?: string): ProblemDetails {
  return { type: `about:blank#${code}`, title: TITLES[code], status, code, detail, ...(pointer === undefined ? {} : { pointer }) };
}
