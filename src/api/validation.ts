// Validators of requests: texts of a query and a path become numbers and flags where the schema wants some, members of a body do not.
// Unknown members are told, not dropped. Who: src/api/server.ts gives it to fastify.
import { Ajv } from 'ajv';
import type { FastifySchemaCompiler } from 'fastify';

const options = { allErrors: false, strict: false, removeAdditional: false, useDefaults: true, validateFormats: false } as const;
const ofTexts = new Ajv({ ...options, coerceTypes: true });
const ofBodies = new Ajv(options);

export const validatorCompiler: FastifySchemaCompiler<object> = ({ schema, httpPart }) => {
  const validate = (httpPart === 'body' ? ofBodies : ofTexts).compile(schema);
  return validate as unknown as ReturnType<FastifySchemaCompiler<object>>;
};
