// SPDX-License-Identifier: Apache-2.0
// snapshot_fuzz.cc: compile_snapshot() on arbitrary bytes. An input is a list of edits of a valid snapshot (u16 offset,
// u8 length, bytes), so that mutations reach behind the header; the first byte decides whether the buffer is also cut.
// What must hold: no sanitizer's complaint; a refusal has a text; what is taken can be looked up in.
#include <cstdio>
#include <cstdlib>

#include "policy/snapshot.h"
#include "snapshot_builder.h"

using namespace sluice;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<uint8_t> valid = testing::sample().build();
  std::vector<uint8_t> buffer = valid;
  uint8_t mode = size ? data[0] : 0;
  if (size) { ++data; --size; }
  while (size >= 3) {
    size_t offset = data[0] | data[1] << 8, length = data[2] & 31;
    data += 3;
    size -= 3;
    if (length > size) length = size;
    for (size_t i = 0; i < length && offset + i < buffer.size(); ++i) buffer[offset + i] = data[i];
    data += length;
    size -= length;
  }
  if (mode & 1) buffer.resize(buffer.size() * (mode >> 1) / 128);
  if (buffer.size() >= sizeof(sl_snapshot_header) && !(mode & 128)) {
    sl_snapshot_header h;
    std::memcpy(&h, buffer.data(), sizeof h);
    h.magic = SL_SNAPSHOT_MAGIC;
    h.abi_version = SL_ABI_VERSION;
    h.bytes = static_cast<uint32_t>(buffer.size());
    std::memcpy(buffer.data(), &h, sizeof h);
  }
  std::string error;
  auto s = compile_snapshot(buffer.data(), buffer.size(), &error);
  if (!s) {
    if (error.empty()) { std::fprintf(stderr, "refused without a text\n"); std::abort(); }
    return 0;
  }
  for (const char* text : {"10.0.1.10", "203.0.113.6", "198.51.100.10", "2001:db8:2::10", "::"}) {
    sl_address a = testing::address_of(text);
    uint32_t route = s->route_table->lookup(a);
    if (route != lpm::no_route && route >= s->routes.size()) std::abort();
    classify_key k{};
    k.src = testing::address_of("10.0.1.10");
    k.dst = a;
    k.protocol = 6;
    k.dst_port = 8443;
    uint32_t rule = s->rule_classifier->match(k);
    if (rule != classifier::no_rule && rule >= s->rules.size()) std::abort();
    (void)s->destination_classifier->match(k);
    (void)s->static_out_classifier->match(k);
  }
  return 0;
}
