#!/usr/bin/env bash
# Compiles the traffic programs of the benches: bench/bpf/*.bpf.c -> build/bench/*.bpf.o. Only what is out of date.
set -euo pipefail
if [[ ${1:-} == --help ]]; then
  echo "usage: bench/build.sh   compile bench/bpf/*.bpf.c into build/bench (the C++ tools belong to the CMake build)"
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
