#!/usr/bin/env bash
# Opens a shell (or runs a command) in a node of the running lab: npm run lab:shell client
set -euo pipefail
LABS=/run/sluice-lab

usage() {
  cat <<'TEXT'
Usage: lab/shell.sh NODE [COMMAND...]

NODE is one of client, server, internet, far, nva. Without COMMAND, a shell. SLUICE_LAB=ID chooses among several labs.
TEXT
}

case "${1:-}" in
  "") usage >&2; exit 2 ;;
  --help|-h) usage; exit 0 ;;
esac
node=$1
shift
lab=${SLUICE_LAB:-$(ls -t "$LABS" 2>/dev/null | head -n 1)}
if [ -z "$lab" ]; then
  echo "lab: no lab runs here; start one with npm start" >&2
  exit 1
fi
namespace=/run/netns/sl-$lab-$node
if [ ! -e "$namespace" ]; then
  echo "lab: the lab $lab has no node $node; it has: $(cd /run/netns && ls -d "sl-$lab-"* | sed "s/^sl-$lab-//" | tr '\n' ' ')" >&2
  exit 1
fi
(( EUID == 0 )) || { echo "lab: entering a network namespace needs root" >&2; exit 1; }
export SLUICE_DIR=$LABS/$lab/nva
if (( $# )); then exec nsenter "--net=$namespace" -- "$@"; fi
export PS1="[$node] \\w # "
exec nsenter "--net=$namespace" -- bash --norc -i
