// Access when nobody configured any: whoever can open the socket is an administrator, as the file's mode decides. Who: src/api/server.ts,
// for tests and until control gives it an authenticator.
import type { Log } from '../supervisor/log.js';
import { AccessLimits } from './access-limits.js';
import type { AccessParts, Principal } from './access.js';

const LOCAL: Principal = { name: 'local', via: 'socket', id: 'local', role: 'administrator', scopes: undefined, caller: { transport: 'internal' }, grant: { kind: 'internal' } };

export function localAccess(log: Log): AccessParts {
  return { authenticator: { authenticate: () => LOCAL }, audit: { append: () => undefined, sync: () => Promise.resolve() }, limits: new AccessLimits(), log };
}
