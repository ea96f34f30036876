// Section `api:` of the configuration: where the API listens, with which certificates, and who gets which role. Called by schema.ts;
// docs/operations/access.md explains it. Secrets never stand here: tokens are made by `sluice token create`, keys are files.
import { Type, type Static } from '@sinclair/typebox';
import { choice, integer, named, strictObject, text, textList } from './schema-parts.js';

const ROLE_NAMES = ['viewer', 'operator', 'administrator'] as const;
const role = choice(ROLE_NAMES, 'viewer, operator or administrator');
const scopes = Type.Optional(textList('resources like rules, or rules:read; leave the key out for all that the role may'));
const file = (description: string) => text(description, '^/');
const HTTPS = '^https://[^\\s/?#@]+(/[^\\s?#]*)?$';
export const OIDC_ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'] as const;

export const ApiSchema = strictObject({
  listen: Type.Optional(text('an address and port like 127.0.0.1:8443 or "[::1]:8443"; leave the key out for the Unix socket alone', '^(\\[[0-9A-Fa-f:.]+\\]|[0-9.]+):[0-9]{1,5}$')),
  names: Type.Optional(textList('host names and addresses that the appliance\'s own certificate shall hold beside the one it listens on')),
  tls: Type.Optional(strictObject({ certificateFile: file('the path of a PEM file: certificate, then the chain'), keyFile: file('the path of its PEM key') },
    '{certificateFile: PATH, keyFile: PATH}; leave the key out for a certificate of the appliance\'s own CA')),
  clients: Type.Optional(strictObject({
    caFile: file('the path of a PEM file with the CA of client certificates'),
    crlFile: Type.Optional(file('the path of a PEM file with the CA\'s revocation list')),
    roles: Type.Array(strictObject({
      subject: Type.Optional(text('the common name of the certificate\'s subject')),
      name: Type.Optional(text('a name of the certificate, like DNS:backup.example.net, email:ops@example.net or URI:spiffe://example.net/backup', '^(DNS|email|URI):.+$')),
      role, scopes,
    }), { minItems: 1, maxItems: 1000, description: 'a list of {subject or name, role}; the first that fits counts' }),
  })),
  oidc: Type.Optional(strictObject({
    issuer: text('the https:// URL of the issuer, as its tokens say it', HTTPS),
    audience: textList('the audience that tokens must be for'),
    jwksUri: Type.Optional(text('the https:// URL of the issuer\'s keys; leave the key out to learn it from the issuer', HTTPS)),
    caFile: Type.Optional(file('the path of a PEM file with the CA of the issuer\'s own certificate; leave the key out for the public ones')),
    algorithms: Type.Optional(Type.Array(choice(OIDC_ALGORITHMS, 'a signature algorithm'), { minItems: 1, maxItems: OIDC_ALGORITHMS.length, description: 'signature algorithms, like [RS256, ES256]' })),
    groupsClaim: Type.Optional(text('the claim that lists groups; groups when left out')),
    nameClaim: Type.Optional(text('the claim that names a person in history and audit log; sub when left out')),
    clockSkew: Type.Optional(integer(0, 120, 'seconds by which clocks may differ, from 0 to 120')),
    maxAge: Type.Optional(integer(60, 86_400, 'seconds that a token may be old, from 60 to 86400')),
    roles: Type.Array(strictObject({ group: text('a group'), role, scopes }), { minItems: 1, maxItems: 1000, description: 'a list of {group, role}; the highest role counts' }),
  })),
  socket: Type.Optional(strictObject({
    users: Type.Optional(named(role, 1000, 'roles by user name or uid')),
    groups: Type.Optional(named(role, 1000, 'roles by group name or gid')),
  })),
  limits: Type.Optional(strictObject({
    requestsPerSecond: Type.Optional(integer(1, 100_000, 'requests a second and caller')),
    burst: Type.Optional(integer(1, 100_000, 'requests at once, before the rate counts')),
    failuresPerMinute: Type.Optional(integer(1, 10_000, 'failed attempts a minute and address')),
    connections: Type.Optional(integer(1, 16_384, 'HTTPS connections in all')),
    connectionsPerAddress: Type.Optional(integer(1, 16_384, 'HTTPS connections of one address, or of one /64')),
  })),
});

export type ApiConfig = Static<typeof ApiSchema>;
