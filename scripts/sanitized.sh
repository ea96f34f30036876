# Sourced by test.sh and fuzz.sh: builds with sanitizers, and how their programs run. OUT is where logs go.

# build DIRECTORY TARGETS CMAKE_OPTIONS...: quiet unless it fails.
build() {
  local directory=$1 targets=$2 log=$OUT/$(basename "$1").log
  shift 2
  echo "building $directory (details in $log)"
  # shellcheck disable=SC2086
  if { [ -f "$directory/build.ninja" ] || cmake -S native -B "$directory" -G Ninja "$@"; } >"$log" 2>&1 &&
    cmake --build "$directory" --target $targets >>"$log" 2>&1; then return 0; fi
  tail -n 40 "$log"
  return 1
}

# Sanitizers of Debian 12's compilers map their shadow at fixed places, which address randomisation with many bits may take.
SANITIZED=()
if setarch "$(uname -m)" -R true 2>/dev/null; then SANITIZED=(setarch "$(uname -m)" -R); fi
