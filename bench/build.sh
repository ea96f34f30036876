#!/usr/bin/env bash
# Compiles what the benches need beside the engine: bench/bpf/*.bpf.c -> build/bench/*.bpf.o, bench/native/*.cc ->
# build/native: the tools named, or all. Only what is out of date.
set -euo pipefail
if [[ ${1:-} == --help ]]; then
  echo "usage: bench/build.sh [TOOL...]   compile the traffic programs (build/bench) and the C++ tools (build/native): those named, or all"
  exit 0
fi
cd "$(dirname "$0")/.."
mkdir -p build/bench
for source in bench/bpf/*.bpf.c; do
  object=build/bench/$(basename "${source%.c}").o
  if [[ -f $object && -z $(find "$source" bench/bpf/*.h -newer "$object") ]]; then
    continue
  fi
  clang -O2 -g -Wall -Werror -target bpf -mcpu=v3 -I"/usr/include/$(uname -m)-linux-gnu" -Ibench/bpf -c "$source" -o "$object"
done
if (( $# == 0 )); then set -- benches; fi
cmake --build build/native --target "$@" >/dev/null
