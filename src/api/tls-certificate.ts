// The appliance's own CA and server certificate, for an API without certificates of its own. Who: tls.ts. `openssl` makes them: X.509 is no
// format to write by hand, and every Debian has it. Files stand in the API's state directory: ca.pem is what clients trust, ca.key never
// leaves. The CA lives CA_DAYS; the server certificate SERVER_DAYS, and is made anew when RENEW_DAYS are left or its names change.
// Bounds: OPENSSL_MS a call.
import { execFile } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { replaceFile } from '../supervisor/run-directory.js';

const CA_DAYS = 3650;
const SERVER_DAYS = 397; // no client takes more
export const RENEW_DAYS = 30;
const OPENSSL_MS = 20_000;
const DAY_MS = 86_400_000;
const COMMON_NAME_CHARACTERS_MAX = 64; // X.520 ub-common-name

export interface CertificateFiles { certificate: string; key: string }
export class TlsError extends Error {
  readonly code = 'SLUICE_API_TLS';
  constructor(message: string, readonly remedy: string) {
    super(message);
    this.name = 'TlsError';
  }
}

const runOpenssl = promisify(execFile);

/** Certificate with its chain, and key, for these names. Makes what is missing or stale. Throws TlsError. */
export async function ownCertificate(directory: string, hostname: string, names: readonly string[], now = Date.now()): Promise<CertificateFiles> {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const ca = await ownCa(directory, hostname);
  const certificateFile = join(directory, 'server.pem');
  const keyFile = join(directory, 'server.key');
  // What could not be a name could mean something else to openssl.
  const wanted = [...new Set(names)].filter((name) => /^[A-Za-z0-9*._:-]+$/.test(name)).sort();
  if (!existsSync(certificateFile) || !existsSync(keyFile) || !isFresh(certificateFile, keyFile, ca.certificate, wanted, now)) {
    const made = await makeCertificate(directory, {
      commonName: hostname, days: SERVER_DAYS, ca,
      extensions: [
        'basicConstraints=critical,CA:false', 'keyUsage=critical,digitalSignature', 'extendedKeyUsage=serverAuth', 'subjectKeyIdentifier=hash', 'authorityKeyIdentifier=keyid',
        `subjectAltName=${wanted.map((name) => `${isIP(name) ? 'IP' : 'DNS'}:${name}`).join(',')}`,
      ],
    });
    // The key first: a certificate with another key would be found stale, a key alone is.
    replaceFile(keyFile, made.key);
    replaceFile(certificateFile, made.certificate, 0o644);
  }
  return { certificate: readFileSync(certificateFile, 'utf8') + ca.certificate, key: readFileSync(keyFile, 'utf8') };
}

async function ownCa(directory: string, hostname: string): Promise<CertificateFiles> {
  const certificateFile = join(directory, 'ca.pem');
  const keyFile = join(directory, 'ca.key');
  if (!existsSync(certificateFile)) {
    const made = await makeCertificate(directory, {
      commonName: `Sluice CA of ${hostname}`, days: CA_DAYS,
      extensions: ['basicConstraints=critical,CA:true,pathlen:0', 'keyUsage=critical,keyCertSign,cRLSign', 'subjectKeyIdentifier=hash'],
    });
    replaceFile(keyFile, made.key);
    replaceFile(certificateFile, made.certificate, 0o644);
  }
  try {
    const ca = { certificate: readFileSync(certificateFile, 'utf8'), key: readFileSync(keyFile, 'utf8') };
    if (!new X509Certificate(ca.certificate).checkPrivateKey(createPrivateKey(ca.key))) throw new Error('its key belongs to another certificate');
    return ca;
  } catch (error) {
    // A new CA would silently cut off everybody who trusts this one.
    throw new TlsError(`the appliance's CA in ${directory} cannot be used: ${(error as Error).message}`, `restore ca.pem and ca.key from a backup, or delete both to start with a new CA that clients have to be given`);
  }
}

function isFresh(certificateFile: string, keyFile: string, ca: string, names: readonly string[], now: number): boolean {
  try {
    const certificate = new X509Certificate(readFileSync(certificateFile));
    const issuer = new X509Certificate(ca);
    return certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey) && certificate.checkPrivateKey(createPrivateKey(readFileSync(keyFile)))
      && Date.parse(certificate.validTo) - now > RENEW_DAYS * DAY_MS && Date.parse(certificate.validFrom) <= now && namesOf(certificate).join() === names.join();
  } catch {
    return false;
  }
}

/** Its DNS names and addresses, sorted. */
export function namesOf(certificate: X509Certificate): string[] {
  return [...(certificate.subjectAltName ?? '').matchAll(/(?:DNS|IP Address):([^,"]+)/g)].map(([, name]) => plainName(name!)).sort();
}

/** As people write it: OpenSSL prints IPv6 addresses with all their parts. */
function plainName(name: string): string { return isIP(name) === 6 ? new URL(`https://[${name}]/`).hostname.slice(1, -1) : name; }

/** A certificate that a key signs for itself, for who trusts the key and not the certificate. Throws TlsError. */
export async function certificateOfKey(directory: string, commonName: string, key: string, days: number): Promise<string> {
  return (await makeCertificate(directory, { commonName, days, key, extensions: ['basicConstraints=critical,CA:false', 'subjectKeyIdentifier=hash'] })).certificate;
}

/** `key`: the one that it is for; left out, one is made. */
interface Order { commonName: string; days: number; extensions: readonly string[]; ca?: CertificateFiles; key?: string }

async function makeCertificate(directory: string, { commonName, days, extensions, ca, key }: Order): Promise<CertificateFiles> {
  const work = mkdtempSync(join(directory, 'making-'));
  const at = (name: string): string => join(work, name);
  try {
    writeFileSync(at('order'), ['[req]', 'distinguished_name=dn', 'prompt=no', 'x509_extensions=extensions', '[dn]', `CN=${commonName.replace(/[^A-Za-z0-9 ._-]/g, '-').slice(0, COMMON_NAME_CHARACTERS_MAX)}`, '[extensions]', ...extensions, ''].join('\n'), { mode: 0o600 });
    if (ca) {
      writeFileSync(at('ca.pem'), ca.certificate, { mode: 0o600 });
      writeFileSync(at('ca.key'), ca.key, { mode: 0o600 });
    }
    if (key !== undefined) writeFileSync(at('key'), key, { mode: 0o600 });
    await runOpenssl('openssl', [
      'req', '-x509', '-new', '-days', String(days), '-config', at('order'),
      ...(key === undefined ? ['-sha256', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', at('key')] : ['-key', at('key')]), '-out', at('certificate'), ...(ca ? ['-CA', at('ca.pem'), '-CAkey', at('ca.key')] : []),
    ], { timeout: OPENSSL_MS, env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', RANDFILE: at('seed') } });
    return { certificate: readFileSync(at('certificate'), 'utf8'), key: readFileSync(at('key'), 'utf8') };
  } catch (error) {
    const why = (error as { stderr?: string; message: string }).stderr?.trim().split('\n').at(-1) || (error as Error).message.split('\n')[0]!;
    throw new TlsError(`openssl makes no certificate: ${why}`, 'install the Debian package openssl, or name certificates of your own in api.tls');
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Certificates somebody gave us. Throws TlsError when they are unreadable or do not belong together. `expired`: since when. */
export function givenCertificate(certificateFile: string, keyFile: string, now = Date.now()): CertificateFiles & { expired?: string } {
  const read = (path: string): string => {
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      throw new TlsError(`${path}: ${(error as NodeJS.ErrnoException).code === 'EACCES' ? 'control may not read it' : (error as Error).message}`, 'name a PEM file that the user of the control process may read');
    }
  };
  const files = { certificate: read(certificateFile), key: read(keyFile) };
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(files.certificate);
  } catch {
    throw new TlsError(`${certificateFile} holds no certificate`, 'write the certificate as PEM, then its chain');
  }
  try {
    if (!certificate.checkPrivateKey(createPrivateKey(files.key))) throw new TlsError(`${keyFile} is not the key of ${certificateFile}`, 'name the key that the certificate was made for');
  } catch (error) {
    if (error instanceof TlsError) throw error;
    throw new TlsError(`${keyFile} holds no private key that can be used`, 'write the key as PEM, without a passphrase');
  }
  return Date.parse(certificate.validTo) <= now ? { ...files, expired: certificate.validTo } : files;
}
