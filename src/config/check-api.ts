// Examines section `api:`: what the schema's form alone cannot tell. Called by check.ts. Files are not opened here: who checks a
// configuration is not who will read them; control looks at them before a commit (src/api/access-service.ts).
import { isIP } from 'node:net';
import type { CheckContext } from './check.js';
import { quote } from './problem.js';
import { asList } from './schema-parts.js';

const HOST_NAME = /^(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/;
const NAME_CHARACTERS_MAX = 253;
const SCOPE = /^[a-z][a-z0-9-]{0,30}(:read)?$/;

export function checkApi({ config, problems }: CheckContext): void {
  const { api } = config;
  if (!api) return;
  if (api.listen !== undefined) {
    const colon = api.listen.lastIndexOf(':');
    const host = api.listen.slice(0, colon).replace(/^\[|\]$/g, '');
    const port = Number(api.listen.slice(colon + 1));
    if (isIP(host) === 0) problems.error('SLUICE_API_LISTEN', ['api', 'listen'], `${quote(host)} is not an IP address`, 'write an address and port like 127.0.0.1:8443 or "[::1]:8443"');
    if (port < 1 || port > 65535) problems.error('SLUICE_API_LISTEN', ['api', 'listen'], `${port} is not a port`, 'write a port from 1 to 65535; below 1024 control may not listen');
  }
  asList<string>(api.names).forEach((name, index) => {
    if (isIP(name) === 0 && (name.length > NAME_CHARACTERS_MAX || !HOST_NAME.test(name))) {
      problems.error('SLUICE_API_NAME', ['api', 'names', ...(Array.isArray(api.names) ? [index] : [])], `${quote(name)} is no host name and no address`, 'write a name like fw.example.net, or an address');
    }
  });
  if (api.listen === undefined) {
    for (const key of ['names', 'tls', 'clients'] as const) {
      if (api[key] !== undefined) problems.warn('SLUICE_API_LISTEN', ['api', key], `api.${key} is for HTTPS, and api.listen is not there`, 'add api.listen, or take it away', 'key');
    }
  }
  api.clients?.roles.forEach((one, index) => {
    if (one.subject === undefined && one.name === undefined) problems.error('SLUICE_API_ROLE', ['api', 'clients', 'roles', index], 'it says neither subject nor name', 'name a certificate: subject: COMMON NAME, or name: DNS:NAME');
    checkScopes(one.scopes, ['api', 'clients', 'roles', index, 'scopes']);
  });
  api.oidc?.roles.forEach((one, index) => checkScopes(one.scopes, ['api', 'oidc', 'roles', index, 'scopes']));
  const { requestsPerSecond, burst } = api.limits ?? {};
  if (requestsPerSecond !== undefined && burst !== undefined && burst < requestsPerSecond) {
    problems.warn('SLUICE_API_LIMITS', ['api', 'limits', 'burst'], `a burst of ${burst} is less than the ${requestsPerSecond} of a second`, 'write a burst of at least requestsPerSecond');
  }

  function checkScopes(scopes: string | string[] | undefined, path: (string | number)[]): void {
    asList<string>(scopes).forEach((scope, at) => {
      if (!SCOPE.test(scope)) problems.error('SLUICE_API_ROLE', Array.isArray(scopes) ? [...path, at] : path, `${quote(scope)} cannot be a scope`, 'write the name of a resource, like rules, or rules:read');
    });
  }
}
