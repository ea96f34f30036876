#!/usr/bin/env bash
# Set-up: makes a fresh Debian 12 (or one that is nearly ready) able to run and test Sluice. `npm start` and `npm test`
# call it first, `npm run setup` calls it alone. Each step looks before it acts, so a second run takes seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One package a line: what the build, the appliance, the lab and the tests run. docs/DEPENDENCIES.md says why.
PACKAGES=(
  g++ clang llvm libclang-rt-14-dev cmake ninja-build pkg-config
  libbpf-dev libxdp-dev libmnl-dev libssl-dev libipsec-mb-dev libelf-dev linux-libc-dev doctest-dev
  bpftool iproute2 nftables ethtool procps openssl
  curl iperf3 iputils-ping netcat-openbsd tcpdump traceroute zsh
  rsyslog nfdump
  wireguard-go wireguard-tools
)
NODE_MINIMUM=20.19.0
LOG=build/setup.log

usage() {
  cat <<'TEXT'
Usage: scripts/setup.sh [--build-only] [--help]

Installs what is missing and builds what is stale:
  1. Debian packages   (only missing ones; needs root)
  2. npm packages      (npm ci, when package-lock.json changed)
  3. the addon         (CMake and Ninja, build/native/sluice.node)
  4. the BPF programs  (clang, build/bpf/)
  5. TypeScript        (tsc, dist/)

  --build-only   steps 3 to 5 alone
  --help         this text

Details of each step go to build/setup.log.
TEXT
}

build_only=false
for argument in "$@"; do
  case "$argument" in
    --build-only) build_only=true ;;
    --help|-h) usage; exit 0 ;;
    *) echo "setup: unknown option $argument; --help lists them" >&2; exit 2 ;;
  esac
done

fail() {
  printf '\nsetup: %s\n' "$1" >&2
  if [ -n "${2:-}" ]; then printf '       %s\n' "$2" >&2; fi
  exit 1
}

# step TITLE REMEDY COMMAND...: runs a command with its output in the log; says when it takes long, and how it ended.
step() {
  local title=$1 remedy=$2 started=$SECONDS said=$SECONDS pid status=0
  shift 2
  printf '%s …' "$title"
  printf '\n=== %s (%s)\n' "$title" "$(date -Is)" >>"$LOG"
  "$@" >>"$LOG" 2>&1 </dev/null 9>&- &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.05
    if (( SECONDS - said >= 10 )); then said=$SECONDS; printf ' %d s …' $((SECONDS - started)); fi
  done
  wait "$pid" || status=$?
  if (( status != 0 )); then
    printf ' failed after %d s\n' $((SECONDS - started))
    echo "--- last lines of $LOG ---" >&2
    tail -n 25 "$LOG" >&2
    fail "$title: exit code $status" "$remedy"
  fi
  printf ' done, %d s\n' $((SECONDS - started))
}

check_node() {
  command -v node >/dev/null || fail "Node.js is missing" "Install Node.js $NODE_MINIMUM or later: https://nodejs.org/en/download"
  node -e '
    const have = process.versions.node.split(".").map(Number), need = process.argv[1].split(".").map(Number);
    const first = have.findIndex((part, i) => part !== need[i]);
    process.exit(first < 0 || have[first] > need[first] ? 0 : 1);
  ' "$NODE_MINIMUM" || fail "Node.js $(node --version) is too old" "Install Node.js $NODE_MINIMUM or later: https://nodejs.org/en/download"
}

missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n' 2>/dev/null | awk '$1 == "installed" { sub(/:.*/, "", $2); print $2 }')
  comm -23 <(printf '%s\n' "${PACKAGES[@]}" | sort) <(sort -u <<<"$installed")
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  local options=(-y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install --no-install-recommends "$@"
  # Tests start these programs themselves; as services of this machine nobody asked for them.
  local unit
  for unit in rsyslog nfdump; do
    if [[ " $* " == *" $unit "* ]] && command -v systemctl >/dev/null; then systemctl disable --now "$unit" || true; fi
  done
}

debian_step() {
  command -v dpkg-query >/dev/null || fail "this is no Debian: dpkg-query is missing" \
    "Sluice builds on Debian 12. Elsewhere, install these by hand and run scripts/setup.sh --build-only: ${PACKAGES[*]}"
  local missing
  mapfile -t missing < <(missing_packages)
  (( ${#missing[@]} )) || return 0
  (( EUID == 0 )) || fail "Debian packages are missing, and installing them needs root: ${missing[*]}" \
    "Run this again as root, or let an administrator run: apt-get install ${missing[*]}"
  echo "Installing Debian packages: ${missing[*]}"
  step "Debian packages" "Check the network and /etc/apt/sources.list, then run the set-up again." install_packages "${missing[@]}"
}

npm_step() {
  local stamp=node_modules/.sluice-stamp key
  key=$(cat package-lock.json <(node --version) | sha256sum | cut -d' ' -f1)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then return 0; fi
  step "npm packages (npm ci)" "Check the network and the npm registry's address (npm config get registry), then run the set-up again." \
    npm ci --no-audit --no-fund --include=dev
  echo "$key" >"$stamp"
}

addon_step() {
  if [ ! -f build/native/build.ninja ]; then
    rm -f build/native/CMakeCache.txt
    step "Configuring the packet engine (CMake)" "The log names the part that is missing." cmake -S native -B build/native -G Ninja
  fi
  step "Packet engine (C++)" "Delete build/native and run the set-up again; else the compiler's message above says where." cmake --build build/native --target sluice_addon
}

bpf_step() {
  step "Steering programs (BPF)" "The compiler's message above says where." bash scripts/build-bpf.sh
}

typescript_step() {
  local stamp=dist/.stamp
  # Directories count too: theirs is the time at which a file was deleted.
  if [ -f "$stamp" ] && [ -z "$(find src lab bench tsconfig.json package-lock.json -newer "$stamp" -print -quit)" ]; then return 0; fi
  local now
  now=$(mktemp build/.stamp.XXXXXX)
  step "Control plane (TypeScript)" "The compiler's message above says where." \
    node node_modules/typescript/bin/tsc --incremental --tsBuildInfoFile dist/.tsbuildinfo
  mv "$now" "$stamp"
}

mkdir -p build 2>/dev/null && [ -w build ] || fail "cannot write in $PWD/build" "Run this as the owner of the checkout, or as root."
exec 9>build/.setup.lock
if ! flock -n 9; then echo "Another set-up runs in this checkout; waiting for it."; flock 9; fi
: >"$LOG"
check_node
if ! $build_only; then
  debian_step
  npm_step
fi
[ -d node_modules ] || fail "npm packages are missing" "Run npm run setup first, or npm ci."
addon_step
bpf_step
typescript_step
echo "Set-up is complete ($SECONDS s)."
