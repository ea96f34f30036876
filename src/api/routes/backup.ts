// Backup and restore of configuration and keys as one encrypted file. For administrators without scopes: keys are in it.
// Bounds: BACKUP_BYTES_MAX a file; the passphrase has at least PASSPHRASE_CHARACTERS_MIN characters when a backup is made.
import { hostname } from 'node:os';
import { Type, type Static } from '@sinclair/typebox';
import type { FastifyInstance } from 'fastify';
import { BACKUP_BYTES_MAX, openBackup, PASSPHRASE_CHARACTERS_MIN, readKeys, sealBackup, writeKeys } from '../../control/store-backup.js';
import { authorOf, requireNoScopes } from '../access.js';
import type { ApiContext } from '../context.js';
import { ApiError } from '../errors.js';
import { answer, CommitSchema, count, OperationSchema, question, time } from '../schemas.js';

const BASE64_CHARACTERS_MAX = Math.ceil(BACKUP_BYTES_MAX / 3) * 4;
const RESTART_MS = 200; // the answer goes out first
const access = { role: 'administrator', resource: 'backup' } as const;
const data = Type.String({ maxLength: BASE64_CHARACTERS_MAX, description: 'the file, base64' });
const BackupBody = question({ passphrase: Type.String({ minLength: PASSPHRASE_CHARACTERS_MIN, maxLength: 1024 }) });
const RestoreBody = question({ passphrase: Type.String({ minLength: 1, maxLength: 1024 }), data, dryRun: Type.Boolean({ default: false, description: 'true: opened and checked, nothing restored' }) });
const BackupSchema = answer('Backup', { data, revision: Type.Integer(), keys: count('files of keys in it') });
const RestoreSchema = answer('Restore', { made: time(), hostname: Type.String(), revision: Type.Integer({ description: 'that ran when it was made' }), keys: count(), commit: CommitSchema });

export function registerBackup(api: FastifyInstance, { operations, paths, transactions, log }: ApiContext): void {
  api.post<{ Body: Static<typeof BackupBody> }>('/api/v1/backup', {
    config: access,
    schema: { operationId: 'makeBackup', summary: 'Configuration and keys as one file, encrypted', tags: ['Configuration'], body: BackupBody, response: { 200: BackupSchema, 202: OperationSchema } },
  }, (request, reply) => operations.answer(request, reply, 'backup', async () => {
    requireNoScopes(request.principal, 'a backup');
    const { revision, text } = transactions.running;
    const keys = readKeys(paths.apiState);
    const file = await sealBackup({ made: new Date().toISOString(), hostname: hostname(), revision, text, keys }, request.body.passphrase);
    return { data: file.toString('base64'), revision, keys: Object.keys(keys).length };
  }));

  api.post<{ Body: Static<typeof RestoreBody> }>('/api/v1/restore', {
    config: access, bodyLimit: BASE64_CHARACTERS_MAX + 4096,
    schema: {
      operationId: 'restoreBackup', summary: 'Put a backup in force', tags: ['Configuration'], body: RestoreBody, response: { 200: RestoreSchema, 202: OperationSchema },
      description: 'Its configuration is committed as a new revision, its keys replace those of the same names. Control starts again to take the keys; forwarding goes on.',
    },
  }, (request, reply) => operations.answer(request, reply, 'restore', async () => {
    requireNoScopes(request.principal, 'a restore');
    const { passphrase, data: text, dryRun } = request.body;
    const backup = await openBackup(Buffer.from(text, 'base64'), passphrase);
    const by = authorOf(request);
    const comment = `backup of ${backup.hostname}, revision ${backup.revision}, made ${backup.made}`;
    const before = readKeys(paths.apiState);
    const isChanged = Object.entries(backup.keys).some(([path, content]) => before[path] !== content);
    if (!dryRun && isChanged) keepKeys(() => writeKeys(paths.apiState, backup.keys));
    let commit;
    try {
      commit = await (dryRun ? transactions.commit({ text: backup.text, by, comment, dryRun }) : transactions.restore(backup.text, by, comment));
    } catch (error) {
      if (!dryRun && isChanged) keepKeys(() => writeKeys(paths.apiState, before));
      throw error;
    }
    if (!dryRun && isChanged) {
      log.info({ keys: Object.keys(backup.keys).length, by: by.name }, 'keys were restored; control starts again to take them');
      setTimeout(() => transactions.onKeysRestored?.(), RESTART_MS).unref();
    }
    return { made: backup.made, hostname: backup.hostname, revision: backup.revision, keys: Object.keys(backup.keys).length, commit };
  }));
}

function keepKeys(write: () => void): void {
  try {
    write();
  } catch (error) {
    throw new ApiError(507, 'SLUICE_STATE_DISK', `the keys cannot be written (${(error as Error).message})`);
  }
}
