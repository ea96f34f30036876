// SPDX-License-Identifier: Apache-2.0
//
// rule_sets.h: made-up rule sets shaped like those of the packet classification papers (access lists, firewalls, Linux
// chains), and keys that meet them at their corners. For the classifier's tests and bench; one thread; seeded, so that
// each failure repeats.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "policy/classifier.h"

namespace sluice::rule_sets {

enum class shape { acl, fw, ipc, random };

struct rule_set {
  std::vector<classifier_rule> rules;
  std::vector<sl_prefix> prefixes;
  std::vector<sl_service> services;
};

inline sl_address ipv4(uint32_t value) {
  return {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, static_cast<uint8_t>(value >> 24), static_cast<uint8_t>(value >> 16),
           static_cast<uint8_t>(value >> 8), static_cast<uint8_t>(value)}};
}

inline sl_address cut(sl_address address, unsigned length) {
  for (unsigned bit = length; bit < 128; ++bit)
    address.bytes[bit / 8] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
  return address;
}

inline sl_prefix prefix(const sl_address& address, unsigned length) {
  return {cut(address, length), static_cast<uint8_t>(length), {}};
}

class maker {
public:
  explicit maker(uint64_t seed) : random_(seed) {}

  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }
  bool chance(unsigned percent) { return below(100) < percent; }

  rule_set make(shape kind, std::size_t count) {
    rule_set set;
    // Objects repeat in real sets: addresses come from networks in use, services from a few well known.
    networks_.clear();
    for (std::size_t i = 0; i < std::max<std::size_t>(4, count / 20); ++i)
      networks_.push_back(below(4) == 0 ? 0x0a000000 | below(1 << 24) : static_cast<uint32_t>(random_()));
    for (std::size_t i = 0; i < count; ++i)
      set.rules.push_back(rule(kind, set));
    return set;
  }

  // Half of the keys are made from a rule, at the first, last, or next value of one of each field's ranges.
  classify_key key(const rule_set& set) {
    classify_key made{};
    made.src = address();
    made.dst = address();
    made.src_port = static_cast<uint16_t>(random_());
    made.dst_port = chance(50) ? well_known() : static_cast<uint16_t>(random_());
    made.protocol = protocol();
    made.from_zone = static_cast<uint8_t>(below(4));
    made.to_zone = static_cast<uint8_t>(below(4));
    if (set.rules.empty() || chance(30))
      return made;
    const classifier_rule& rule = set.rules[below(static_cast<uint32_t>(set.rules.size()))];
    if (rule.sources.count > 0)
      made.src = corner(set.prefixes[rule.sources.first + below(rule.sources.count)]);
    if (rule.destinations.count > 0)
      made.dst = corner(set.prefixes[rule.destinations.first + below(rule.destinations.count)]);
    if (rule.services.count > 0) {
      const sl_service& service = set.services[rule.services.first + below(rule.services.count)];
      if (service.protocol != SL_PROTOCOL_ANY)
        made.protocol = static_cast<uint8_t>(service.protocol);
      made.src_port = corner(service.src_lo, service.src_hi);
      made.dst_port = corner(service.dst_lo, service.dst_hi);
    }
    return made;
  }

private:
  uint8_t protocol() {
    static constexpr std::array<uint8_t, 6> used{6, 6, 6, 17, 17, 1};
    return chance(95) ? used[below(used.size())] : static_cast<uint8_t>(random_());
  }

  uint16_t well_known() {
    static constexpr std::array<uint16_t, 12> used{80, 443, 53, 22, 25, 123, 161, 389, 1433, 3306, 3389, 8080};
    return used[below(used.size())];
  }

  sl_address address() {
    if (chance(15)) { // IPv6, near the mapped space now and then
      sl_address made{};
      if (chance(80))
        made.bytes[0] = 0x20, made.bytes[1] = 0x01, made.bytes[2] = 0x0d, made.bytes[3] = 0xb8;
      for (unsigned i = 4; i < 16; ++i)
        made.bytes[i] = static_cast<uint8_t>(below(chance(50) ? 2 : 256));
      return made;
    }
    return ipv4(networks_.empty() || chance(20) ? static_cast<uint32_t>(random_())
                                                : networks_[below(static_cast<uint32_t>(networks_.size()))] ^ below(256));
  }

  sl_prefix network(unsigned host_percent) {
    const sl_address base = address();
    const bool mapped = base.bytes[10] == 0xff && base.bytes[11] == 0xff && base.bytes[0] == 0;
    if (!mapped) {
      static constexpr std::array<uint8_t, 8> lengths{0, 32, 48, 56, 64, 64, 127, 128};
      return prefix(base, lengths[below(lengths.size())]);
    }
    if (chance(host_percent))
      return prefix(base, 128);
    static constexpr std::array<uint8_t, 10> lengths{8, 12, 16, 16, 20, 22, 24, 24, 24, 28};
    return prefix(base, 96u + (chance(10) ? below(33) : lengths[below(lengths.size())]));
  }

  sl_span prefixes(rule_set& set, unsigned any_percent, unsigned host_percent, unsigned count) {
    if (chance(any_percent))
      return {0, 0};
    if (!set.prefixes.empty() && chance(15)) { // an object used before
      const uint32_t first = below(static_cast<uint32_t>(set.prefixes.size()));
      return {first, std::min<uint32_t>(count, static_cast<uint32_t>(set.prefixes.size()) - first)};
    }
    const auto first = static_cast<uint32_t>(set.prefixes.size());
    for (unsigned i = 0; i < count; ++i)
      set.prefixes.push_back(network(host_percent));
    return {first, count};
  }

  sl_service service(unsigned range_percent) {
    sl_service made{protocol(), 0, 0xffff, 0, 0xffff, 0};
    if (chance(5))
      made.protocol = SL_PROTOCOL_ANY;
    if (chance(range_percent)) {
      static constexpr std::array<std::pair<uint16_t, uint16_t>, 5> common{
          {{1024, 65535}, {0, 1023}, {6000, 6063}, {5000, 5009}, {49152, 65535}}};
      const auto [lo, hi] = common[below(common.size())];
      made.dst_lo = lo;
      made.dst_hi = hi;
      if (chance(30)) {
        made.dst_lo = static_cast<uint16_t>(random_());
        made.dst_hi = static_cast<uint16_t>(std::min<uint32_t>(0xffff, made.dst_lo + below(3000)));
      }
    } else if (chance(85)) {
      made.dst_lo = made.dst_hi = chance(70) ? well_known() : static_cast<uint16_t>(random_());
    }
    if (chance(8))
      made.src_lo = made.src_hi = well_known();
    return made;
  }

  sl_span services(rule_set& set, unsigned any_percent, unsigned range_percent, unsigned count) {
    if (chance(any_percent))
      return {0, 0};
    const auto first = static_cast<uint32_t>(set.services.size());
    for (unsigned i = 0; i < count; ++i)
      set.services.push_back(service(range_percent));
    return {first, count};
  }

  uint64_t zones() {
    if (chance(40))
      return ~uint64_t{0};
    return chance(80) ? uint64_t{1} << below(4) : 1 + below(15);
  }

  classifier_rule rule(shape kind, rule_set& set) {
    classifier_rule made{zones(), zones(), {}, {}, {}};
    switch (kind) {
    case shape::acl: // specific pairs, exact destination ports
      made.sources = prefixes(set, 5, 20, 1);
      made.destinations = prefixes(set, 2, 60, 1);
      made.services = services(set, 10, 10, 1);
      break;
    case shape::fw: // wildcards and ranges
      made.sources = prefixes(set, 40, 30, 1);
      made.destinations = prefixes(set, made.sources.count == 0 ? 5 : 30, 40, 1);
      made.services = services(set, 8, 35, 1);
      break;
    case shape::ipc: // between the two
      made.sources = prefixes(set, 15, 35, 1);
      made.destinations = prefixes(set, 15, 40, 1);
      made.services = services(set, 15, 20, 1);
      break;
    case shape::random: // lists everywhere, long ones now and then
      made.sources = prefixes(set, 20, 30, chance(5) ? below(300) : 1 + below(4));
      made.destinations = prefixes(set, 20, 30, chance(5) ? below(300) : 1 + below(4));
      made.services = services(set, 20, 30, chance(5) ? below(60) : 1 + below(4));
      if (chance(1))
        made.from_zones = 0;
      break;
    }
    return made;
  }

  sl_address corner(const sl_prefix& of) {
    sl_address made = of.address;
    const unsigned kind = below(4);
    for (unsigned bit = of.length; bit < 128; ++bit)
      if (kind == 1 || (kind == 2 && chance(50)))
        made.bytes[bit / 8] |= static_cast<uint8_t>(0x80 >> bit % 8);
    if (kind == 3 && of.length > 0) // its neighbour
      made.bytes[(of.length - 1) / 8] ^= static_cast<uint8_t>(0x80 >> (of.length - 1) % 8);
    return made;
  }

  uint16_t corner(uint16_t lo, uint16_t hi) {
    switch (below(5)) {
    case 0: return lo;
    case 1: return hi;
    case 2: return static_cast<uint16_t>(lo - 1);
    case 3: return static_cast<uint16_t>(hi + 1);
    default: return static_cast<uint16_t>(lo + below(hi - lo + 1u));
    }
  }

  std::mt19937_64 random_;
  std::vector<uint32_t> networks_;
};

// The definition: the first rule whose parts all match. Shares nothing with the classifier.
inline bool covers(const sl_prefix& prefix, const sl_address& address) {
  static constexpr std::array<uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (prefix.length < 96 && std::equal(mapped.begin(), mapped.end(), address.bytes))
    return false;
  for (unsigned bit = 0; bit < prefix.length; ++bit)
    if (((prefix.address.bytes[bit / 8] ^ address.bytes[bit / 8]) & 0x80 >> bit % 8) != 0)
      return false;
  return true;
}

inline uint32_t first_match(const rule_set& set, const classify_key& key) {
  const auto any_prefix = [&](sl_span span, const sl_address& address) {
    bool found = span.count == 0;
    for (uint32_t i = 0; i < span.count && !found; ++i)
      found = covers(set.prefixes[span.first + i], address);
    return found;
  };
  const auto any_service = [&](sl_span span) {
    bool found = span.count == 0;
    for (uint32_t i = 0; i < span.count && !found; ++i) {
      const sl_service& service = set.services[span.first + i];
      found = (service.protocol == SL_PROTOCOL_ANY || service.protocol == key.protocol) && key.src_port >= service.src_lo &&
              key.src_port <= service.src_hi && key.dst_port >= service.dst_lo && key.dst_port <= service.dst_hi;
    }
    return found;
  };
  for (uint32_t i = 0; i < set.rules.size(); ++i) {
    const classifier_rule& rule = set.rules[i];
    if ((rule.from_zones >> key.from_zone & rule.to_zones >> key.to_zone & 1) != 0 && any_service(rule.services) &&
        any_prefix(rule.sources, key.src) && any_prefix(rule.destinations, key.dst))
      return i;
  }
  return classifier::no_rule;
}

inline std::string name_of(shape kind) {
  return std::array<std::string, 4>{"acl", "fw", "ipc", "random"}[static_cast<std::size_t>(kind)];
}

} // namespace sluice::rule_sets
