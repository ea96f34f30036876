#!/usr/bin/env bash
# Random requests made from the OpenAPI document, as many as wanted. Usage: test/tools/api-fuzz.sh [--requests N] [--seed S]
set -euo pipefail

requests=100000 seed=1
while [[ $# -gt 0 ]]; do
  case $1 in
    --requests) requests=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    *) sed -n 2p "$0"; exit 2 ;;
  esac
done
cd "$(dirname "$0")/../.."
export SLUICE_API_FUZZ_REQUESTS=$requests SLUICE_API_FUZZ_SEED=$seed
exec npx vitest run test/api/fuzz.test.ts --disable-console-intercept
