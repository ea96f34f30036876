// Tokens of the API: made once, shown once, kept as hashes. Who: access-identity.ts checks them, access-routes.ts makes and revokes them.
// A token is `sluice_ID_SECRET`: 64 bits of name, 256 bits of secret, from the system's generator. The file holds SHA-256 of the secret: it
// is random and long, so a slow hash would protect nothing and cost every request. Compared in constant time.
// Bounds: TOKENS_MAX tokens; when one was used last reaches the file at most every LAST_USED_MS. A damaged file means no tokens, not open.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { replaceFile } from '../supervisor/run-directory.js';
import { ROLES, type Role } from './access.js';
import { ApiError } from './errors.js';

export const TOKENS_MAX = 1000;
const LAST_USED_MS = 60_000;
export const TOKEN_PREFIX = 'sluice_';
const FORM = /^sluice_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
const NOBODY = Buffer.alloc(32); // what an unknown name is compared with, so that it costs the same

interface StoredToken {
  id: string; name: string; role: Role; scopes?: string[]; hash: string;
  createdAt: string; createdBy: string; expiresAt: string | null; lastUsedAt: string | null; revokedAt: string | null;
}
export type TokenView = Omit<StoredToken, 'hash' | 'scopes'> & { scopes: string[] | null; state: 'valid' | 'expired' | 'revoked' };
export interface NewToken { name: string; role: Role; scopes?: readonly string[]; expiresInS: number | null; createdBy: string }

export class TokenStore {
  private tokens = new Map<string, StoredToken>();
  private savedMs = 0;
  private timer: NodeJS.Timeout | undefined;
  /** Set when the file could not be read: nobody gets in by a token then. */
  readonly damage: string | undefined;

  constructor(private readonly file: string, private readonly now: () => number = Date.now) {
    try {
      const stored = JSON.parse(readFileSync(file, 'utf8')) as { version: number; tokens: StoredToken[] };
      if (stored.version !== 1 || !stored.tokens.every(isStoredToken)) throw new SyntaxError('not the form of this version');
      this.tokens = new Map(stored.tokens.map((token) => [token.id, token]));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.damage = (error as Error).message;
    }
  }

  list(): TokenView[] { return [...this.tokens.values()].map((token) => this.view(token)); }
  get(id: string): TokenView | undefined {
    const token = this.tokens.get(id);
    return token && this.view(token);
  }

  /** `secret` is the whole token; it is nowhere else, ever again. */
  create({ name, role, scopes, expiresInS, createdBy }: NewToken): { secret: string; token: TokenView } {
    this.requireReadable();
    if (this.tokens.size >= TOKENS_MAX) this.forgetDead();
    if (this.tokens.size >= TOKENS_MAX) throw new ApiError(409, 'SLUICE_TOKENS_TOO_MANY', `there are ${TOKENS_MAX} tokens already; revoke some`);
    const id = randomBytes(8).toString('hex');
    const secret = randomBytes(32).toString('base64url');
    const token: StoredToken = {
      id, name, role, ...(scopes ? { scopes: [...scopes] } : {}), hash: hashOf(secret).toString('hex'), createdAt: this.isoNow(), createdBy,
      expiresAt: expiresInS === null ? null : new Date(this.now() + expiresInS * 1000).toISOString(), lastUsedAt: null, revokedAt: null,
    };
    this.save([...this.tokens.values(), token]);
    return { secret: `${TOKEN_PREFIX}${id}_${secret}`, token: this.view(token) };
  }

  /** False: there is no such token. It stays in the list as revoked, so that the audit log's names can be looked up. */
  revoke(id: string): boolean {
    this.requireReadable();
    const token = this.tokens.get(id);
    if (!token) return false;
    if (token.revokedAt === null) this.save([...this.tokens.values()].map((one) => (one === token ? { ...one, revokedAt: this.isoNow() } : one)));
    return true;
  }

  /** The token's entry when it is right, not revoked and not expired. */
  check(presented: string): TokenView | undefined {
    const [, id = '', secret = ''] = FORM.exec(presented) ?? [];
    const token = this.tokens.get(id);
    const isRight = timingSafeEqual(hashOf(secret), token ? Buffer.from(token.hash, 'hex') : NOBODY);
    if (!token || !isRight || this.stateOf(token) !== 'valid') return undefined;
    this.noteUse(token);
    return this.view(token);
  }

  stop(): void {
    if (!this.timer) return;
    clearTimeout(this.timer);
    this.saveUse();
  }

  // ---- file ---------------------------------------------------------------------------------------------------------

  private save(tokens: StoredToken[]): void {
    try {
      replaceFile(this.file, `${JSON.stringify({ version: 1, tokens }, null, 1)}\n`);
    } catch (error) {
      throw new ApiError(507, 'SLUICE_STATE_DISK', `the tokens cannot be kept (${(error as NodeJS.ErrnoException).code ?? 'error'}); nothing was changed`);
    }
    this.tokens = new Map(tokens.map((token) => [token.id, token]));
    this.savedMs = this.now();
  }

  private noteUse(token: StoredToken): void {
    token.lastUsedAt = this.isoNow();
    this.timer ??= setTimeout(() => this.saveUse(), Math.min(LAST_USED_MS, Math.max(0, LAST_USED_MS - (this.now() - this.savedMs)))).unref();
  }

  private saveUse(): void {
    this.timer = undefined;
    try {
      this.save([...this.tokens.values()]);
    } catch { /* the next use tries again; nothing depends on it */ }
  }

  private forgetDead(): void {
    const dead = [...this.tokens.values()].filter((token) => this.stateOf(token) !== 'valid');
    this.tokens = new Map([...this.tokens].filter(([, token]) => !dead.includes(token)));
  }

  private requireReadable(): void {
    if (this.damage !== undefined) throw new ApiError(409, 'SLUICE_TOKENS_DAMAGED', 'the file of tokens is damaged, so that no token is valid; restore it from a backup, or delete it and make new ones');
  }

  private view({ hash: _, scopes, ...token }: StoredToken): TokenView { return { ...token, scopes: scopes ?? null, state: this.stateOf(token) }; }

  private stateOf({ revokedAt, expiresAt }: Pick<StoredToken, 'revokedAt' | 'expiresAt'>): TokenView['state'] {
    if (revokedAt !== null) return 'revoked';
    return expiresAt !== null && Date.parse(expiresAt) <= this.now() ? 'expired' : 'valid';
  }

  private isoNow(): string { return new Date(this.now()).toISOString(); }
}

function hashOf(secret: string): Buffer { return createHash('sha256').update(secret).digest(); }

function isStoredToken(value: unknown): value is StoredToken {
  const token = value as Partial<StoredToken> | null;
  const isTime = (one: unknown): boolean => one === null || (typeof one === 'string' && !Number.isNaN(Date.parse(one)));
  return token !== null && typeof token === 'object' && typeof token.id === 'string' && typeof token.name === 'string' && ROLES.includes(token.role as Role)
    && /^[0-9a-f]{64}$/.test(token.hash ?? '') && isTime(token.expiresAt) && isTime(token.revokedAt) && isTime(token.lastUsedAt)
    && (token.scopes === undefined || (Array.isArray(token.scopes) && token.scopes.every((scope) => typeof scope === 'string')));
}
