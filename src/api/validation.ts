// Validators of requests: texts of a query and a path become numbers and flags where the schema wants some, members of a body do not.
// Unknown members are told, not dropped. Who: src/api/server.ts gives it to fastify. Each is made at its first request: control starts
// a tenth of a second sooner, and most are never asked for.
import { Ajv, type ValidateFunction } from 'ajv';
import type { FastifySchemaCompiler } from 'fastify';

const options = { allErrors: false, strict: false, removeAdditional: false, useDefaults: true, validateFormats: false } as const;
const ofTexts = new Ajv({ ...options, coerceTypes: true });
const ofBodies = new Ajv(options);

type Validator = ReturnType<FastifySchemaCompiler<object>>;

export const validatorCompiler: FastifySchemaCompiler<object> = ({ schema, httpPart }) => {
  let made: ValidateFunction | undefined;
  const validate = ((data: unknown) => {
    made ??= (httpPart === 'body' ? ofBodies : ofTexts).compile(schema);
    const isValid = made(data) as boolean;
    validate.errors = (made.errors ?? null) as Validator['errors'];
    return isValid;
  }) as Validator;
  return validate;
};
