// Access for tests that are not about it: whoever asks is an administrator without a rate, and nothing is audited.
import type { Log } from '../../src/supervisor/log.js';
import { AccessLimits } from '../../src/api/access-limits.js';
import type { AccessParts, Principal } from '../../src/api/access.js';

const LOCAL: Principal = { name: 'local', via: 'socket', id: 'local', role: 'administrator', scopes: undefined, caller: { transport: 'internal' }, grant: { kind: 'internal' } };

export function localAccess(log: Log): AccessParts {
  return { authenticator: { authenticate: () => LOCAL }, audit: { append: () => undefined, sync: () => Promise.resolve() }, limits: new AccessLimits(), log };
}
