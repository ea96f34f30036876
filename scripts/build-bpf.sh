#!/usr/bin/env bash
# Compiles bpf/steer.bpf.c to build/bpf/steer.bpf.o and checks its struct layouts against native/abi/dataplane.h.
set -euo pipefail
if [ "${1:-}" = --help ]; then
  echo "usage: scripts/build-bpf.sh     compiles the XDP program into build/bpf/ (needs clang, libbpf-dev, bpftool, node)"
  exit 0
fi
cd "$(dirname "$0")/.."
mkdir -p build/bpf
# clang's BPF target does not know where the machine's own <asm/types.h> stands.
clang -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror \
  -Inative/abi -Ibpf "-I/usr/include/$(cc -dumpmachine)" \
  -c bpf/steer.bpf.c -o build/bpf/steer.bpf.o.new
node scripts/check-btf.mjs build/bpf/steer.bpf.o.new
mv build/bpf/steer.bpf.o.new build/bpf/steer.bpf.o
