// SPDX-License-Identifier: Apache-2.0
// snapshot_fuzz.cc: compile_snapshot() on arbitrary bytes, alone and after another snapshot. An input is a mode and a list of edits of a valid
// snapshot, so that mutations reach behind the header:
//   u8 mode | records of u16 place (little-endian), u8 length, bytes
// mode: bit 0 cuts the buffer to (mode >> 1) / 128, bit 7 leaves magic and size as the edits made them. place: bits 12-15 a section (0 to 10 in
// the header's order, else the whole buffer), bits 0-11 a byte of it. length: bits 0-4; bit 6 makes the edit one of the second snapshot only.
// What must hold: no sanitizer's complaint; a refusal has a text; what is taken can be looked up in; and a snapshot that shares with the one
// before what did not change gives the answers of one that was made from nothing.
#include <cstdio>
#include <cstdlib>

#include "policy/snapshot.h"
#include "snapshot_builder.h"

using namespace sluice;

namespace {

constexpr unsigned sections = 11;

[[noreturn]] void violated(const char* what) {
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

struct edited {
  std::vector<uint8_t> buffer;
  sl_section places[sections];

  edited() {
    static const std::vector<uint8_t> valid = [] {
      testing::snapshot_builder b = testing::sample();
      const uint16_t tunnel = b.wireguard(5, 4, 51820);
      b.address(tunnel, "10.100.0.1", 120);
      b.route("10.7.0.0", 112, "::", tunnel);
      b.peer(6, {{"10.7.0.0", 112}, {"2001:db8:7::", 48}});
      return b.build();
    }();
    buffer = valid;
    std::memcpy(places, buffer.data() + offsetof(sl_snapshot_header, interfaces), sizeof places);
    static_assert(offsetof(sl_snapshot_header, interfaces) + sizeof places == sizeof(sl_snapshot_header));
  }
  void edit(unsigned place, const uint8_t* bytes, size_t length) {
    const unsigned section = place >> 12;
    const size_t at = (section < sections ? places[section].offset : 0) + (place & 0xfff);
    for (size_t i = 0; i < length && at + i < buffer.size(); ++i) buffer[at + i] = bytes[i];
  }
  void finish(uint8_t mode) {
    if (mode & 1) buffer.resize(buffer.size() * (mode >> 1) / 128);
    if (buffer.size() < sizeof(sl_snapshot_header) || (mode & 128)) return;
    sl_snapshot_header h;
    std::memcpy(&h, buffer.data(), sizeof h);
    h.magic = SL_SNAPSHOT_MAGIC;
    h.abi_version = SL_ABI_VERSION;
    h.bytes = static_cast<uint32_t>(buffer.size());
    std::memcpy(buffer.data(), &h, sizeof h);
  }
  std::unique_ptr<snapshot> compile(const snapshot* previous = nullptr) const {
    std::string error;
    auto s = compile_snapshot(buffer.data(), buffer.size(), &error, previous);
    if (!s && error.empty()) violated("refused without a text");
    return s;
  }
};

// Addresses that the snapshot itself speaks of, and their neighbours; a few of nowhere.
std::vector<sl_address> addresses_of(const snapshot& s) {
  std::vector<sl_address> out;
  for (const char* text : {"10.0.1.10", "203.0.113.6", "198.51.100.10", "2001:db8:2::10", "::"}) out.push_back(testing::address_of(text));
  for (size_t i = 0; i < s.prefixes.size() && i < 12; ++i) {
    sl_address a = s.prefixes[i].address;
    out.push_back(a);
    a.bytes[15] ^= 1;
    out.push_back(a);
  }
  return out;
}

void look_up(const snapshot& s, const snapshot* same) {
  const std::vector<sl_address> addresses = addresses_of(s);
  for (size_t i = 0; i < addresses.size(); ++i) {
    const sl_address& a = addresses[i];
    const uint32_t route = s.route_table->lookup(a);
    if (route != lpm::no_route && route >= s.routes.size()) violated("a route that is none");
    if (same && same->route_table->lookup(a) != route) violated("routes differ");
    for (uint16_t port : {443, 8443, 53, 23, 4000}) {
      classify_key k{};
      k.src = addresses[(i * 7 + port) % addresses.size()];
      k.dst = a;
      k.protocol = port == 53 || port == 4000 ? 17 : 6;
      k.src_port = 5000;
      k.dst_port = port;
      k.from_zone = static_cast<uint8_t>((i + port) % 5);
      k.to_zone = static_cast<uint8_t>((i / 5 + port) % 5);
      const struct { const classifier& mine; const classifier* theirs; size_t count; } each[] = {
          {*s.rule_classifier, same ? same->rule_classifier.get() : nullptr, s.rules.size()},
          {*s.source_classifier, same ? same->source_classifier.get() : nullptr, s.source_rules.size()},
          {*s.destination_classifier, same ? same->destination_classifier.get() : nullptr, s.destination_rules.size()},
          {*s.static_in_classifier, same ? same->static_in_classifier.get() : nullptr, s.static_rules.size()},
          {*s.static_out_classifier, same ? same->static_out_classifier.get() : nullptr, s.static_rules.size()}};
      for (const auto& one : each) {
        const uint32_t rule = one.mine.match(k);
        if (rule != classifier::no_rule && rule >= one.count) violated("a rule that is none");
        if (one.theirs && one.theirs->match(k) != rule) violated("an updated classifier answers otherwise");
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const uint8_t mode = size ? data[0] : 0;
  if (size) { ++data; --size; }
  edited first, second;
  while (size >= 3) {
    const unsigned place = data[0] | data[1] << 8;
    const bool later = data[2] & 0x40;
    size_t length = data[2] & 31;
    data += 3;
    size -= 3;
    if (length > size) length = size;
    if (!later) first.edit(place, data, length);
    second.edit(place, data, length);
    data += length;
    size -= length;
  }
  first.finish(mode);
  second.finish(mode);
  auto before = first.compile();
  if (before) look_up(*before, nullptr);
  auto fresh = second.compile();
  auto updated = second.compile(before.get());
  if (!fresh != !updated) violated("taken after one snapshot and refused after another");
  before.reset();  // either may be freed first
  if (fresh) look_up(*updated, fresh.get());
  return 0;
}
