#!/usr/bin/env bash
# The fuzz targets (test/fuzz/*_fuzz.cc): as CI runs them, the same each time, or for as long as somebody likes from random seeds.
# Ends with "N passed, N failed", and non-zero when there is a finding.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=build/test
# shellcheck source=scripts/sanitized.sh
source scripts/sanitized.sh

# Inputs of a fixed run, about 40 s of a processor each. It has no clock: FIXED_SECONDS_MAX only ends a run that hangs.
declare -A FIXED_RUNS=([packet]=90000 [snapshot]=12000 [wireguard]=35000)
FIXED_RUNS_DEFAULT=20000
FIXED_SEED=1
FIXED_SECONDS_MAX=1800
# An input that takes longer by the wall clock is looked at alone: a paused machine is no finding.
INPUT_SECONDS_MAX=60
FOUND=build/fuzz/found

usage() {
  cat <<'TEXT'
Usage: npm run fuzz -- [--minutes N] [--target NAME]...
       scripts/fuzz.sh --fixed [--target NAME]...

  --minutes N     each target for N minutes (default 10), from a random seed, beginning with test/fuzz/corpus and what earlier
                  runs found; as many targets at a time as there are processors
  --target NAME   packet, snapshot, wireguard: this target; may be repeated
  --fixed         one seed, a fixed number of inputs, the checked-in corpus alone: the same in each run (npm test)
  --help          this text

Inputs that reach new code are kept in build/fuzz/found, those that fail in build/fuzz/NAME-*; the end says how to repeat these.
TEXT
}

minutes=10 fixed=false selected=()
while (( $# )); do
  case "$1" in
    --minutes) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "fuzz: --minutes wants a whole number above 0" >&2; exit 2; }; minutes=$2; shift 2 ;;
    --target) [ -f "test/fuzz/${2:-}_fuzz.cc" ] || { echo "fuzz: there is no test/fuzz/${2:-}_fuzz.cc" >&2; exit 2; }; selected+=("$2"); shift 2 ;;
    --fixed) fixed=true; shift ;;
    --help|-h) usage; exit 0 ;;
    *) echo "fuzz: unknown option $1; --help lists them" >&2; exit 2 ;;
  esac
done
if (( ${#selected[@]} == 0 )); then for source in test/fuzz/*_fuzz.cc; do selected+=("$(basename "$source" _fuzz.cc)"); done; fi

# run NAME SEED: into its log; it ends with this script. What the engine draws at random comes from the seed, too (test/fuzz/random.cc).
run() {
  local name=$1 seed=$2 corpus=test/fuzz/corpus/$1_fuzz
  local options=("-seed=$seed" "-timeout=$INPUT_SECONDS_MAX" -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=build/fuzz/$name-")
  if $fixed; then
    # A list, because the order in a directory is the file system's.
    find "$corpus" -type f 2>/dev/null | LC_ALL=C sort | paste -sd, >"build/fuzz/$name.inputs"
    options+=("-runs=${FIXED_RUNS[$name]:-$FIXED_RUNS_DEFAULT}" "-max_total_time=$FIXED_SECONDS_MAX")
    if [ -s "build/fuzz/$name.inputs" ]; then options+=("-seed_inputs=@build/fuzz/$name.inputs"); fi
  else
    mkdir -p "$FOUND/$name"
    options+=("-max_total_time=$((minutes * 60))" "$FOUND/$name")
    if [ -d "$corpus" ]; then options+=("$corpus"); fi
  fi
  SLUICE_FUZZ_RANDOM=$seed setpriv --pdeathsig TERM -- "${SANITIZED[@]}" "build/fuzz/${name}_fuzz" "${options[@]}" >"$OUT/fuzz-$name.log" 2>&1
}

artifact() { sed -n 's/.*Test unit written to //p' "$OUT/fuzz-$1.log" | tail -n 1; }

# A hang is one by the wall clock. An input that was said to hang and passes alone met a paused machine: once more from the start.
fuzz_one() {
  local name=$1 seed=$2 log=$OUT/fuzz-$1.log input
  run "$name" "$seed" && return 0
  input=$(artifact "$name")
  grep -q 'ERROR: libFuzzer: timeout' "$log" && [ -f "$input" ] || return 1
  cp "$log" "$log.first"
  SLUICE_FUZZ_RANDOM=$seed "${SANITIZED[@]}" timeout 240 "build/fuzz/${name}_fuzz" -timeout=120 "$input" >>"$log" 2>&1 || return 1
  echo "$name: an input took over $INPUT_SECONDS_MAX s by the wall clock and passes alone; the machine paused. Once more."
  rm -f "$input"
  run "$name" "$seed"
}

report() {
  local name=$1 seed=$2 status=$3 log=$OUT/fuzz-$1.log input again
  if (( status == 0 )); then
    echo "$name: seed $seed, $(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1) inputs, no finding"
    return 0
  fi
  input=$(artifact "$name")
  again="SLUICE_FUZZ_RANDOM=$seed ${SANITIZED[*]} build/fuzz/${name}_fuzz"
  echo "$name: a finding; the log is $log"
  if [ -n "$input" ]; then
    echo "  repeat:   $again $input"
    echo "  shorten:  $again -minimize_crash=1 -max_total_time=60 $input"
    echo "  keep it:  cp $input test/fuzz/corpus/${name}_fuzz/  (each fixed run begins with these)"
  fi
  if $fixed; then echo "  the run:  scripts/fuzz.sh --fixed --target $name"; fi
}

mkdir -p "$OUT"
targets=()
for name in "${selected[@]}"; do targets+=("${name}_fuzz"); done
build build/fuzz "${targets[*]}" -DCMAKE_CXX_COMPILER=clang++ -DSLUICE_FUZZ=ON || { echo "0 passed, 1 failed"; exit 1; }

# All of a fixed run at once, since only its length in inputs counts; else as many at a time as there are processors.
width=$(nproc)
if $fixed; then width=${#selected[@]}; fi
passed=0 failed=0 pids=()
trap '(( ${#pids[@]} == 0 )) || kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((i = 0; i < ${#selected[@]}; i += width)); do
  group=("${selected[@]:i:width}") seeds=() pids=()
  for name in "${group[@]}"; do
    seed=$FIXED_SEED
    if ! $fixed; then seed=$((1 + (RANDOM << 15 | RANDOM))); echo "$name: $minutes minutes from seed $seed"; fi
    seeds+=("$seed")
    fuzz_one "$name" "$seed" & pids+=($!)
  done
  for j in "${!group[@]}"; do
    status=0
    wait "${pids[j]}" || status=$?
    report "${group[j]}" "${seeds[j]}" "$status"
    if (( status == 0 )); then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
  pids=()
done
echo "$passed passed, $failed failed"
(( failed == 0 ))
