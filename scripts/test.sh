#!/usr/bin/env bash
# Every test, in stages; `npm test` runs the set-up first. A failed stage does not stop the next ones.
# Ends with "N passed, N failed" over all stages, and non-zero when anything failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES=(abi btf types native fuzz vitest)
OUT=build/test
# shellcheck source=scripts/sanitized.sh
source scripts/sanitized.sh

usage() {
  cat <<'TEXT'
Usage: scripts/test.sh [--only STAGE]... [--help]

Stages, in order:
  abi      the generated TypeScript side of native/abi/dataplane.h is fresh
  btf      the BPF objects' BTF agrees with native/abi/dataplane.h
  types    tsc over sources, lab and tests
  native   unit tests of the engine under AddressSanitizer and UBSan (build/asan)
  fuzz     each fuzz target with a fixed seed and number of inputs (build/fuzz); npm run fuzz -- --help for longer
  vitest   all TypeScript tests, end-to-end tests in network namespaces included

  --only STAGE   this stage; may be repeated
  --help         this text
TEXT
}

selected=()
while (( $# )); do
  case "$1" in
    --only)
      [[ " ${STAGES[*]} " == *" ${2:-} "* ]] || { echo "test: --only wants one of: ${STAGES[*]}" >&2; exit 2; }
      selected+=("$2"); shift 2 ;;
    --help|-h) usage; exit 0 ;;
    *) echo "test: unknown option $1; --help lists them" >&2; exit 2 ;;
  esac
done
(( ${#selected[@]} )) || selected=("${STAGES[@]}")

passed=0
failed=0
summary=()
details=() # of what failed, printed last, where a clipped log still has it

# count PASSED FAILED: adds to this stage's figures.
count() { stage_passed=$((stage_passed + $1)); stage_failed=$((stage_failed + $2)); }

# single COMMAND...: a stage that passes or fails as one.
single() { if "$@"; then count 1 0; else count 0 1; fi; }

stage_abi() { single node scripts/generate-abi.mjs --check; }

stage_btf() { single node scripts/check-btf.mjs; }

stage_types() {
  single node node_modules/typescript/bin/tsc --noEmit -p tsconfig.json
  single node node_modules/typescript/bin/tsc --noEmit -p test/tsconfig.json
}

stage_native() {
  if ! build build/asan sluice_native_tests -DSLUICE_SANITIZE=ON; then count 0 1; return; fi
  if [ ! -x build/asan/sluice_native_tests ]; then echo "no native tests were built"; count 0 1; return; fi
  local status=0 cases
  "${SANITIZED[@]}" build/asan/sluice_native_tests --no-colors=true 2>&1 | tee "$OUT/native.log" || status=1
  # doctest's last lines: "[doctest] test cases:  12 |  12 passed | 0 failed | 0 skipped"
  cases=$(sed -n 's/^\[doctest\] test cases: *[0-9]* | *\([0-9]*\) passed | *\([0-9]*\) failed.*/\1 \2/p' "$OUT/native.log" | tail -n 1)
  # A sanitizer's abort leaves no such line.
  if [ -z "$cases" ]; then count 0 1; return; fi
  # shellcheck disable=SC2086
  count $cases
  if (( status != 0 && stage_failed == 0 )); then count 0 1; fi
}

stage_fuzz() {
  local said figures
  bash scripts/fuzz.sh --fixed 2>&1 | tee "$OUT/fuzz.said" || true
  said=$(<"$OUT/fuzz.said")
  # Its last line: "N passed, N failed"
  figures=$(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' <<<"$said")
  # shellcheck disable=SC2086
  count ${figures:-0 1}
  if (( stage_failed )); then details+=("== fuzz ==" "$said" "$(tail -n 40 "$OUT"/fuzz-*.log 2>&1 || true)"); fi
}

stage_vitest() {
  local status=0 figures
  rm -f "$OUT/vitest.json"
  node node_modules/vitest/vitest.mjs run --reporter=default --reporter=json --outputFile.json="$OUT/vitest.json" || status=$?
  if [ ! -s "$OUT/vitest.json" ]; then count 0 1; return; fi
  figures=$(node -e '
    const r = JSON.parse(require("node:fs").readFileSync(process.argv[1], "utf8"));
    // A file that fails to load has no failed tests of its own.
    const broken = r.testResults.filter((f) => f.status === "failed" && f.assertionResults.every((t) => t.status !== "failed")).length;
    if (r.numPendingTests + r.numTodoTests) console.error(`${r.numPendingTests + r.numTodoTests} skipped`);
    console.log(r.numPassedTests, r.numFailedTests + broken);
  ' "$OUT/vitest.json")
  # shellcheck disable=SC2086
  count $figures
  if (( status != 0 && stage_failed == 0 )); then count 0 1; fi
}

mkdir -p "$OUT"
for stage in "${selected[@]}"; do
  printf '\n== %s ==\n' "$stage"
  started=$SECONDS stage_passed=0 stage_failed=0
  "stage_$stage"
  passed=$((passed + stage_passed)) failed=$((failed + stage_failed))
  summary+=("$(printf '%-8s %5d passed %4d failed %5d s' "$stage" "$stage_passed" "$stage_failed" $((SECONDS - started)))")
done

printf '\n== summary ==\n'
printf '%s\n' "${summary[@]}"
if (( ${#details[@]} )); then printf '\n'; printf '%s\n' "${details[@]}"; fi
echo "$passed passed, $failed failed"
(( failed == 0 ))
