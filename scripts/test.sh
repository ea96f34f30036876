#!/usr/bin/env bash
# Every test, in stages; `npm test` runs the set-up first. A failed stage does not stop the next ones.
# Ends with "N passed, N failed" over all stages, and non-zero when anything failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES=(abi btf types vitest native fuzz)
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
  vitest   all TypeScript tests, end-to-end tests in network namespaces included; what native and fuzz build, and what fuzz
           runs, begins beside it, at the lowest priority
  native   unit tests of the engine under AddressSanitizer and UBSan (build/asan)
  fuzz     each fuzz target with a fixed seed and number of inputs (build/fuzz); npm run fuzz -- --help for longer
  left     whether they left something on the machine: namespaces, processes, mounts, pins, files (always)

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
  node node_modules/typescript/bin/tsc --noEmit -p tsconfig.json & local sources=$!
  single node node_modules/typescript/bin/tsc --noEmit -p test/tsconfig.json
  single wait "$sources"
}

# beside NAME COMMAND...: starts it at the lowest priority, its output in $OUT/NAME.said. A session of its own, because Linux shares
# processors between sessions first (autogroup).
declare -A beside=()
beside() {
  local name=$1
  shift
  setsid nice -n 19 bash -c 'echo 19 2>/dev/null >/proc/self/autogroup || true; exec "$@"' beside "$@" >"$OUT/$name.said" 2>&1 &
  beside[$name]=$!
}

# ended NAME: waits for it, says what it said; its exit code.
ended() {
  local status=0
  wait "${beside[$1]}" || status=$?
  unset "beside[$1]"
  cat "$OUT/$1.said"
  return "$status"
}

stage_native() {
  if ! ended native; then count 0 1; return; fi
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
  ended fuzz || true
  said=$(<"$OUT/fuzz.said")
  # Its last line: "N passed, N failed"
  figures=$(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' <<<"$said")
  # shellcheck disable=SC2086
  count ${figures:-0 1}
  if (( stage_failed )); then details+=("== fuzz ==" "$said" "$(tail -n 40 "$OUT"/fuzz-*.log 2>&1 || true)"); fi
}

# vitest NAME ARGUMENTS...: results in $OUT/vitest-NAME.json.
vitest() {
  rm -f "$OUT/vitest-$1.json"
  node node_modules/vitest/vitest.mjs run --reporter=default --reporter=json --outputFile.json="$OUT/vitest-$1.json" "${@:2}"
}

# The end-to-end tests have namespaces of their own; the others use ports of the machine, and run one after the other beside those.
stage_vitest() {
  local status=0 name figures
  vitest others --exclude 'test/netns/**' >"$OUT/vitest-others.said" 2>&1 & others=$!
  vitest netns --fileParallelism test/netns/ || status=$?
  wait "$others" || status=$?
  others=
  cat "$OUT/vitest-others.said"
  for name in netns others; do
    if [ ! -s "$OUT/vitest-$name.json" ]; then count 0 1; continue; fi
    figures=$(node -e '
      const { writeFileSync, readFileSync } = require("node:fs");
      const r = JSON.parse(readFileSync(process.argv[1], "utf8"));
      // A file that fails to load has no failed tests of its own.
      const broken = r.testResults.filter((f) => f.status === "failed" && f.assertionResults.every((t) => t.status !== "failed")).length;
      if (r.numPendingTests + r.numTodoTests) console.error(`${r.numPendingTests + r.numTodoTests} skipped`);
      console.log(r.numPassedTests, r.numFailedTests + broken);
      const failures = r.testResults.flatMap((f) => [
        ...f.status === "failed" && f.message ? [`${f.name}\n${f.message}`] : [],
        ...f.assertionResults.filter((t) => t.status === "failed").map((t) => `${f.name} > ${t.fullName}\n${t.failureMessages.join("\n").slice(0, 4000)}`),
      ]);
      writeFileSync(process.argv[2], failures.join("\n\n"));
    ' "$OUT/vitest-$name.json" "$OUT/vitest-$name.failed")
    if [ -s "$OUT/vitest-$name.failed" ]; then details+=("== vitest: $name ==" "$(<"$OUT/vitest-$name.failed")"); fi
    # shellcheck disable=SC2086
    count $figures
  done
  if (( status != 0 && stage_failed == 0 )); then count 0 1; fi
}

# What the stages before it have left on the machine: namespaces, processes, mounts, pins, files.
stage_left() {
  local left
  left=$(node scripts/leftovers.mjs "$OUT/leftovers.before" || true; find "$TMPDIR" -mindepth 1 -maxdepth 1 -printf 'temporary %p\n')
  if [ -z "$left" ]; then count 1 0; return; fi
  count 0 1
  echo "$left"
  details+=("== left over ==" "$left")
}

mkdir -p "$OUT"
# Each process of a test inherits both, which makes what is left known as ours.
export SLUICE_TEST_RUN=$$.$RANDOM TMPDIR
TMPDIR=$(mktemp -d /tmp/slt.XXXXXX)
others=
leave() {
  local pid
  [ -z "$others" ] || kill "$others" 2>/dev/null || true
  for pid in "${beside[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  rm -rf --one-file-system "$TMPDIR"
}
trap leave EXIT
chmod 755 "$TMPDIR"
node scripts/leftovers.mjs >"$OUT/leftovers.before"
[[ " ${selected[*]} " != *" native "* ]] || beside native bash -c 'OUT=$1; source scripts/sanitized.sh; build build/asan sluice_native_tests -DSLUICE_SANITIZE=ON' build "$OUT"
[[ " ${selected[*]} " != *" fuzz "* ]] || beside fuzz bash scripts/fuzz.sh --fixed
for stage in "${selected[@]}" left; do
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
