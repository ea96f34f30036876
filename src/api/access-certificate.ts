// From a client certificate that TLS has verified to a principal. Who: access-identity.ts. Pure but for the connection it looks at.
// A certificate is known by its common name or by one of its alternative names, compared as a whole: nothing is searched in text.
import type { TLSSocket } from 'node:tls';
import type { ApiConfig } from '../config/schema-api.js';
import { asList } from '../config/schema-parts.js';
import type { Caller, Principal } from './access.js';

type ClientsConfig = NonNullable<ApiConfig['clients']>;
type ClientRole = ClientsConfig['roles'][number];

/** Undefined: no certificate, one that does not verify, or one without a role. */
export function identifyCertificate(socket: TLSSocket, config: ClientsConfig, caller: Caller): Principal | undefined {
  if (!socket.authorized) return undefined;
  const certificate = socket.getPeerX509Certificate();
  // It was valid when the connection began; the connection may have outlived it.
  if (!certificate || Date.parse(certificate.validTo) <= Date.now()) return undefined;
  const commonName = certificate.toLegacyObject().subject?.CN as string | string[] | undefined;
  const subject = typeof commonName === 'string' ? commonName : ''; // two common names are none
  const names = alternativeNames(certificate.subjectAltName);
  const found = roleOfCertificate(subject, names, config.roles);
  if (!found) return undefined;
  return {
    name: subject || names[0]!, via: 'mtls', id: `mtls:${certificate.fingerprint256}`, role: found.role,
    scopes: found.scopes === undefined ? undefined : [...asList<string>(found.scopes)], caller, grant: { kind: 'certificate', subject, names },
  };
}

export function roleOfCertificate(subject: string, names: readonly string[], roles: readonly ClientRole[]): ClientRole | undefined {
  return roles.find((one) => (one.subject !== undefined || one.name !== undefined)
    && (one.subject === undefined || (subject !== '' && one.subject === subject)) && (one.name === undefined || names.includes(one.name)));
}

/** Node's text of the names, taken apart by its own quoting: TYPE:value, or TYPE:"JSON" where the value could be misread. None when it has another form. */
export function alternativeNames(text: string | undefined): string[] {
  const names: string[] = [];
  let rest = text ?? '';
  while (rest !== '') {
    const [whole, type, value] = /^([A-Za-z][A-Za-z ]*):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/.exec(rest) ?? [];
    if (whole === undefined || whole === '') return [];
    try {
      names.push(`${type}:${value!.startsWith('"') ? JSON.parse(value!) as string : value}`);
    } catch {
      return [];
    }
    rest = rest.slice(whole.length);
  }
  return names;
}
