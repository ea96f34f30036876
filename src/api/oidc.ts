// OIDC bearer tokens: is this JWT from our issuer, for us, in time, and which role do its groups give. Who: access-identity.ts. Thread:
// Node's main thread; the only network traffic is for the issuer's keys, over HTTPS, to addresses that the configuration names.
// jose does what is easy to do wrong: signatures, claims, key sets. Only the configured asymmetric algorithms count, whatever a token says
// of itself (none and HMAC are not among them). Keys are fetched when a token names one that is not known, at most every KEYS_COOLDOWN_MS, and
// again when KEYS_AGE_MS old. Bounds: TOKEN_CHARACTERS_MAX a token, DOCUMENT_BYTES_MAX and FETCH_MS a fetch, no redirects, GROUPS_MAX groups.
import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { createRemoteJWKSet, customFetch, errors, jwtVerify, type JWTPayload, type JWTVerifyGetKey } from 'jose';
import { OIDC_ALGORITHMS, type ApiConfig } from '../config/schema-api.js';
import { asList } from '../config/schema-parts.js';
import { printable } from '../lib/text.js';
import { ROLES, type Caller, type Principal, type Role } from './access.js';

export type OidcConfig = NonNullable<ApiConfig['oidc']>;
type OidcRole = OidcConfig['roles'][number];

const TOKEN_CHARACTERS_MAX = 8000;
const DOCUMENT_BYTES_MAX = 256 * 1024;
const FETCH_MS = 5000;
const KEYS_COOLDOWN_MS = 30_000;
const KEYS_AGE_MS = 10 * 60_000;
const DISCOVERY_RETRY_MS = 10_000;
const GROUPS_MAX = 1000;
const CLOCK_SKEW_S = 30;
const NAME_CHARACTERS_MAX = 128;

/** `isOurs`: it was not the token that failed, but the way to the issuer's keys. */
export class OidcError extends Error {
  constructor(message: string, readonly isOurs = false) {
    super(message);
    this.name = 'OidcError';
  }
}

export interface OidcTimes { keysCooldownMs: number; keysAgeMs: number }

export class Oidc {
  private readonly ca: string | undefined;
  private keys: JWTVerifyGetKey | undefined;
  private discovering: Promise<JWTVerifyGetKey> | undefined;
  private discoveryFailedMs = -Infinity;

  /** Throws when the CA's file cannot be read. */
  constructor(readonly config: OidcConfig, private readonly times: OidcTimes = { keysCooldownMs: KEYS_COOLDOWN_MS, keysAgeMs: KEYS_AGE_MS }) {
    this.ca = config.caFile === undefined ? undefined : readFileSync(config.caFile, 'utf8');
    if (config.jwksUri !== undefined) this.keys = this.keySet(config.jwksUri);
  }

  /** Throws OidcError. */
  async identify(token: string, caller: Caller): Promise<Principal> {
    if (token.length > TOKEN_CHARACTERS_MAX || token.split('.').length !== 3) throw new OidcError('it is no signed JWT');
    const { config } = this;
    const payload = await this.verify(token);
    const groups = groupsIn(payload, config.groupsClaim ?? 'groups');
    const found = roleOfGroups(groups, config.roles);
    if (!found) throw new OidcError('none of its groups has a role here');
    return {
      name: nameIn(payload, config.nameClaim ?? 'sub'), via: 'oidc', id: `oidc:${config.issuer} ${payload.sub}`, role: found.role, scopes: found.scopes, caller,
      grant: { kind: 'oidc', issuer: config.issuer, groups },
    };
  }

  private async verify(token: string): Promise<JWTPayload> {
    const { config } = this;
    try {
      const { payload } = await jwtVerify(token, await this.keyFinder(), {
        issuer: config.issuer, audience: [...asList<string>(config.audience)], algorithms: [...(config.algorithms ?? OIDC_ALGORITHMS)], clockTolerance: config.clockSkew ?? CLOCK_SKEW_S,
        requiredClaims: ['exp', 'iss', 'aud', 'sub'], ...(config.maxAge === undefined ? {} : { maxTokenAge: config.maxAge }),
      });
      if (typeof payload.sub !== 'string' || payload.sub === '') throw new OidcError('it names nobody');
      return payload;
    } catch (error) {
      if (error instanceof OidcError) throw error;
      const isOurs = !(error instanceof errors.JOSEError) || error instanceof errors.JWKSTimeout || error instanceof errors.JWKSInvalid || error.code === 'ERR_JOSE_GENERIC';
      throw new OidcError((error as Error).message, isOurs);
    }
  }

  // ---- the issuer's keys --------------------------------------------------------------------------------------------

  private async keyFinder(): Promise<JWTVerifyGetKey> {
    if (this.keys) return this.keys;
    if (performance.now() - this.discoveryFailedMs < DISCOVERY_RETRY_MS) throw new OidcError('the issuer could not be asked for its keys', true);
    this.discovering ??= this.discover().finally(() => { this.discovering = undefined; });
    try {
      this.keys = await this.discovering;
      return this.keys;
    } catch (error) {
      this.discoveryFailedMs = performance.now();
      throw new OidcError(`the issuer cannot be asked: ${(error as Error).message}`, true);
    }
  }

  /** OpenID Connect Discovery 1.0, section 4: the document must be the issuer's own. */
  private async discover(): Promise<JWTVerifyGetKey> {
    const url = `${this.config.issuer.replace(/\/$/, '')}/.well-known/openid-configuration`;
    const { status, body } = await fetchBounded(url, this.ca, AbortSignal.timeout(FETCH_MS));
    if (status !== 200) throw new Error(`${url} answers with status ${status}`);
    const document = JSON.parse(body) as { issuer?: unknown; jwks_uri?: unknown };
    if (document.issuer !== this.config.issuer) throw new Error('its document names another issuer');
    if (typeof document.jwks_uri !== 'string' || !document.jwks_uri.startsWith('https://')) throw new Error('its document names no https:// jwks_uri');
    return this.keySet(document.jwks_uri);
  }

  private keySet(url: string): JWTVerifyGetKey {
    return createRemoteJWKSet(new URL(url), {
      timeoutDuration: FETCH_MS, cooldownDuration: this.times.keysCooldownMs, cacheMaxAge: this.times.keysAgeMs,
      [customFetch]: async (address, { signal }) => {
        const { status, body } = await fetchBounded(String(address), this.ca, signal ?? AbortSignal.timeout(FETCH_MS));
        return new Response(body, { status });
      },
    });
  }
}

/** A GET over verified HTTPS with bounds on size and time; a redirect is an answer like any other. */
function fetchBounded(url: string, ca: string | undefined, signal: AbortSignal): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const asking = request(url, { method: 'GET', agent: false, signal, minVersion: 'TLSv1.2', headers: { accept: 'application/json' }, ...(ca === undefined ? {} : { ca }) }, (response) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > DOCUMENT_BYTES_MAX) asking.destroy(new Error(`more than ${DOCUMENT_BYTES_MAX} bytes from ${url}`));
        else chunks.push(chunk);
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }));
      response.on('error', reject);
    });
    asking.on('error', reject);
    asking.end();
  });
}

// ---- claims -----------------------------------------------------------------------------------------------------------

/** A claim by its whole name, else by its path, like realm_access.roles. */
function claimOf(payload: JWTPayload, name: string): unknown {
  if (Object.hasOwn(payload, name)) return payload[name];
  let value: unknown = payload;
  for (const part of name.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

function groupsIn(payload: JWTPayload, claim: string): string[] {
  const value = claimOf(payload, claim);
  const list = Array.isArray(value) ? value as unknown[] : [value];
  return list.slice(0, GROUPS_MAX).filter((one): one is string => typeof one === 'string');
}

/** Names reach logs and terminals. */
function nameIn(payload: JWTPayload, claim: string): string {
  const value = claimOf(payload, claim);
  const name = typeof value === 'string' && value !== '' ? value : payload.sub!;
  return printable(name).slice(0, NAME_CHARACTERS_MAX);
}

/** The highest role of the groups; of entries with that role all scopes together, none when one of them has no bounds. */
export function roleOfGroups(groups: readonly string[], roles: readonly OidcRole[]): { role: Role; scopes: readonly string[] | undefined } | undefined {
  const fitting = roles.filter(({ group }) => groups.includes(group));
  const role = [...ROLES].reverse().find((one) => fitting.some((entry) => entry.role === one));
  if (!role) return undefined;
  const entries = fitting.filter((entry) => entry.role === role);
  return { role, scopes: entries.some((entry) => entry.scopes === undefined) ? undefined : entries.flatMap((entry) => [...asList<string>(entry.scopes)]) };
}
