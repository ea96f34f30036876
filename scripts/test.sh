#!/usr/bin/env bash
# Every test, in stages; `npm test` runs the set-up first. A failed stage does not stop the next ones.
# Ends with "N passed, N failed" over all stages, and non-zero when anything failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

FUZZ_SECONDS=${FUZZ_SECONDS:-60}
STAGES=(abi btf types native fuzz vitest)
OUT=build/test

usage() {
  cat <<'TEXT'
Usage: scripts/test.sh [--only STAGE]... [--help]

Stages, in order:
  abi      the generated TypeScript side of native/abi/dataplane.h is fresh
  btf      the BPF objects' BTF agrees with native/abi/dataplane.h
  types    tsc over sources, lab and tests
  native   unit tests of the engine under AddressSanitizer and UBSan (build/asan)
  fuzz     each fuzz target for FUZZ_SECONDS (default 60) from its corpus (build/fuzz, test/fuzz/corpus)
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

# build DIRECTORY CMAKE_OPTIONS...: quiet unless it fails.
build() {
  local directory=$1 log=$OUT/$(basename "$1").log
  shift
  echo "building $directory (details in $log)"
  if { [ -f "$directory/build.ninja" ] || cmake -S native -B "$directory" -G Ninja "$@"; } >"$log" 2>&1 &&
    cmake --build "$directory" ${TARGETS:+--target $TARGETS} >>"$log" 2>&1; then return 0; fi
  tail -n 40 "$log"
  return 1
}

# Sanitizers of Debian 12's compilers map their shadow at fixed places, which address randomisation with many bits may take.
sanitized() {
  if setarch "$(uname -m)" -R true 2>/dev/null; then setarch "$(uname -m)" -R "$@"; else "$@"; fi
}

stage_native() {
  if ! TARGETS=sluice_native_tests build build/asan -DSLUICE_SANITIZE=ON; then count 0 1; return; fi
  if [ ! -x build/asan/sluice_native_tests ]; then echo "no native tests were built"; count 0 1; return; fi
  local status=0 cases
  sanitized build/asan/sluice_native_tests --no-colors=true 2>&1 | tee "$OUT/native.log" || status=1
  # doctest's last lines: "[doctest] test cases:  12 |  12 passed | 0 failed | 0 skipped"
  cases=$(sed -n 's/^\[doctest\] test cases: *[0-9]* | *\([0-9]*\) passed | *\([0-9]*\) failed.*/\1 \2/p' "$OUT/native.log" | tail -n 1)
  # A sanitizer's abort leaves no such line.
  if [ -z "$cases" ]; then count 0 1; return; fi
  # shellcheck disable=SC2086
  count $cases
  if (( status != 0 && stage_failed == 0 )); then count 0 1; fi
}

# A finding is an input that fails again when it runs alone. libFuzzer takes an input for a hang when the wall clock
# moved 10 s during it, which a paused machine or a stepped clock does too: then the input passes alone, and the target
# runs once more from the start.
fuzz_one() {
  local name log
  name=$(basename "$1" _fuzz)
  log=$OUT/fuzz-$name.log
  fuzz_run "$1" && return 0
  cp "$log" "$log.first"
  local input
  input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
  grep -q 'ERROR: libFuzzer: timeout' "$log" && [ -f "$input" ] || return 1
  sanitized timeout 120 "$1" -timeout=60 "$input" >>"$log" 2>&1 || return 1
  echo "$name: an input took over 10 s by the wall clock and passes alone; the clock stepped or the machine paused. Once more."
  fuzz_run "$1"
}

fuzz_run() {
  local target=$1 name corpus found
  name=$(basename "$target" _fuzz)
  corpus=test/fuzz/corpus/$(basename "$target")
  found=build/fuzz/found/$name
  mkdir -p "$found"
  local directories=("$found")
  if [ -d "$corpus" ]; then directories+=("$corpus"); fi
  sanitized "$target" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/$name-" "${directories[@]}" >"$OUT/fuzz-$name.log" 2>&1
}

stage_fuzz() {
  if ! TARGETS=fuzzers build build/fuzz -DCMAKE_CXX_COMPILER=clang++ -DSLUICE_FUZZ=ON; then count 0 1; return; fi
  local targets=() target pids=() i
  for target in build/fuzz/*_fuzz; do [ -x "$target" ] && targets+=("$target"); done
  if (( ${#targets[@]} == 0 )); then echo "no fuzz targets were built"; count 0 1; return; fi
  # As many at a time as there are processors; each has its own seconds.
  for ((i = 0; i < ${#targets[@]}; i += $(nproc))); do
    local group=("${targets[@]:i:$(nproc)}") j
    pids=()
    for target in "${group[@]}"; do fuzz_one "$target" & pids+=($!); done
    for j in "${!group[@]}"; do
      target=$(basename "${group[j]}" _fuzz)
      if wait "${pids[j]}"; then
        count 1 0
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$OUT/fuzz-$target.log") inputs in $FUZZ_SECONDS s, no finding"
      else
        count 0 1
        echo "$target: failed; the input is build/fuzz/$target-*"
        details+=("== $target fuzzer ==" "$(tail -n 40 "$OUT/fuzz-$target.log")")
      fi
    done
  done
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
