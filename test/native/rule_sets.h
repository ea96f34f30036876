// SPDX-License-Identifier: Apache-2.0
//
// rule_sets.h: made-up rule sets shaped like ClassBench's seeds (access lists, firewalls, Linux chains), a shape of our own
// with lists everywhere, keys that meet them at their corners, and edits. For the classifier's tests and bench; one
// thread; seeded, so that each failure repeats.
//
// The shares of protocols, port classes, ports and pairs of prefix lengths are rounded from ClassBench's parameter files
// acl1, fw1 and ipc1 (D. Taylor, J. Turner, "ClassBench: A Packet Classification Benchmark", IEEE INFOCOM 2005). Addresses
// repeat and nest as there: few networks have most of the rules. What ClassBench does not know is added: some rules name
// zones, and a share of the rules, as the caller says, is IPv6's (/0 stays, /8 to /16 become /32 to /48, /32 /128).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <unordered_set>
#include <vector>

#include "policy/classifier.h"

namespace sluice::rule_sets {

enum class shape { acl, fw, ipc, random };

// A seed: shares are in percent, and need not add up to 100: the last of each takes the rest.
struct share_of_lengths { unsigned percent; uint8_t source, destination; };
struct share_of_ports { unsigned percent; uint16_t src_lo, src_hi, dst_lo, dst_hi; };
struct share_of_protocol { unsigned percent; uint16_t protocol; };
struct seed {
  std::vector<share_of_protocol> protocols;
  std::vector<share_of_ports> ports;    // of TCP and UDP; lo > hi: a port of its own, drawn from a few well-known and many others
  std::vector<share_of_lengths> lengths; // as of IPv4
};


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

// Part of the definition: see first_match().
inline bool covers(const sl_prefix& prefix, const sl_address& address) {
  static constexpr std::array<uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (prefix.length < 96 && std::equal(mapped.begin(), mapped.end(), address.bytes))
    return false;
  for (unsigned byte = 0; byte < prefix.length / 8u; ++byte)
    if (prefix.address.bytes[byte] != address.bytes[byte])
      return false;
  const unsigned rest = prefix.length % 8;
  return rest == 0 || ((prefix.address.bytes[prefix.length / 8] ^ address.bytes[prefix.length / 8]) & (0xff00 >> rest & 0xff)) == 0;
}

class maker {
public:
  explicit maker(uint64_t seed) : random_(seed) {}

  uint32_t below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }
  bool chance(unsigned percent) { return below(100) < percent; }

  rule_set make(shape kind, std::size_t count, unsigned ipv6_percent = 20) {
    rule_set set;
    ipv6_percent_ = ipv6_percent;
    used_ = {};
    // Objects repeat in real sets: addresses come from networks in use, services from a few well known.
    networks_.clear();
    for (std::size_t i = 0; i < std::max<std::size_t>(4, count / 20); ++i)
      networks_.push_back(below(4) == 0 ? 0x0a000000 | below(1 << 24) : static_cast<uint32_t>(random_()));
    if (kind == shape::random) {
      for (std::size_t i = 0; i < count; ++i)
        set.rules.push_back(rule(kind, set));
      return set;
    }
    // As ClassBench has it: no rule twice, and of rules that overlap the more specific one mostly first.
    std::unordered_set<std::string> seen;
    std::vector<std::pair<uint32_t, classifier_rule>> ordered;
    for (std::size_t i = 0, tries = 0; i < count; tries = 0, ++i) {
      classifier_rule made = rule(kind, set);
      for (; !seen.insert(text_of(set, made)).second && tries < 20; ++tries)
        made = rule(kind, set);
      ordered.emplace_back(bits_of(set, made) + below(16), made);
    }
    std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& [bits, made] : ordered)
      set.rules.push_back(made);
    return set;
  }

  // One rule added, taken away, edited or moved, as a commit does.
  void edit(shape kind, rule_set& set) {
    const auto place = [&](std::size_t bound) { return set.rules.begin() + below(static_cast<uint32_t>(bound)); };
    const uint32_t what = set.rules.empty() ? 0 : below(5);
    if (what == 0) {
      const classifier_rule made = rule(kind, set);
      set.rules.insert(place(set.rules.size() + 1), made);
    } else if (what == 1) {
      set.rules.erase(place(set.rules.size()));
    } else if (what == 2) {
      const classifier_rule made = rule(kind, set);
      *place(set.rules.size()) = made;
    } else if (what == 3) { // one field of it
      const classifier_rule made = rule(kind, set);
      classifier_rule& edited = *place(set.rules.size());
      edited.services = made.services;
      if (chance(30))
        edited.from_zones = zones();
    } else {
      const auto from = place(set.rules.size());
      const classifier_rule moved = *from;
      set.rules.erase(from);
      set.rules.insert(place(set.rules.size() + 1), moved);
    }
  }

  // The same rules with their lists at other places, as the control plane lays them out anew each time.
  static rule_set laid_out_anew(const rule_set& set) {
    rule_set made;
    const auto copy = [](const auto& from, auto& to, sl_span span) {
      if (span.count == 0)
        return sl_span{0, 0};
      to.insert(to.end(), from.begin() + span.first, from.begin() + span.first + span.count);
      return sl_span{static_cast<uint32_t>(to.size() - span.count), span.count};
    };
    for (const classifier_rule& rule : set.rules)
      made.rules.push_back({rule.from_zones, rule.to_zones, copy(set.prefixes, made.prefixes, rule.sources),
                            copy(set.prefixes, made.prefixes, rule.destinations), copy(set.services, made.services, rule.services)});
    return made;
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

  static const seed& seed_of(shape kind) {
    constexpr uint16_t one = 1, none = 0; // one > none: an exact port
    static const seed acl{
        {{87, 6}, {1, 17}, {3, 1}, {9, SL_PROTOCOL_ANY}},
        {{58, 0, 65535, one, none}, {2, 0, 65535, 1600, 1649}, {2, 0, 65535, 1300, 1350}, {2, 0, 65535, 7500, 7599}, {1, 0, 65535, 1025, 65535},
         {2, 0, 65535, 61000, 61009}, {2, 0, 65535, 62200, 62239}, {1, 0, 65535, 5001, 65535}, {30, 0, 65535, 0, 65535}},
        {{75, 32, 32}, {5, 32, 22}, {5, 23, 32}, {3, 32, 24}, {3, 31, 32}, {2, 23, 16}, {1, 30, 22}, {1, 32, 31}, {1, 32, 30}, {1, 0, 32},
         {1, 32, 0}, {2, 31, 24}}};
    static const seed fw{
        {{57, 6}, {32, 17}, {4, 1}, {6, 47}, {1, SL_PROTOCOL_ANY}},
        {{57, 0, 65535, one, none}, {21, 0, 65535, 0, 65535}, {10, one, none, 0, 65535}, {6, 1024, 65535, 1024, 65535}, {2, one, none, one, none},
         {2, 1024, 65535, one, none}, {2, one, none, 1024, 65535}},
        {{55, 0, 32}, {15, 32, 0}, {7, 0, 0}, {6, 32, 32}, {2, 30, 0}, {2, 32, 21}, {2, 21, 0}, {2, 23, 0}, {2, 27, 0}, {2, 28, 32}, {2, 0, 30},
         {3, 0, 28}}};
    static const seed ipc{
        {{26, 6}, {38, 17}, {1, 1}, {1, 47}, {34, SL_PROTOCOL_ANY}},
        {{35, 0, 65535, one, none}, {15, one, none, 0, 65535}, {7, 0, 65535, 1024, 65535}, {2, 0, 65535, 20, 23}, {1, 0, 65535, 109, 110},
         {1, 20, 23, 0, 65535}, {1, 1645, 1646, 0, 65535}, {38, 0, 65535, 0, 65535}},
        {{24, 32, 32}, {10, 24, 24}, {9, 24, 32}, {6, 32, 24}, {4, 0, 32}, {4, 23, 24}, {4, 23, 32}, {3, 24, 16}, {3, 24, 0}, {4, 16, 24},
         {5, 26, 26}, {3, 32, 16}, {2, 0, 24}, {3, 22, 26}, {3, 28, 32}, {3, 32, 28}, {2, 17, 25}, {2, 25, 23}, {6, 24, 28}}};
    return kind == shape::acl ? acl : kind == shape::fw ? fw : ipc;
  }

  template <class Share>
  const Share& drawn(const std::vector<Share>& shares) {
    uint32_t at = below(100);
    for (const Share& share : shares) {
      if (at < share.percent)
        return share;
      at -= share.percent;
    }
    return shares.back();
  }

  static std::string text_of(const rule_set& set, const classifier_rule& rule) {
    std::string text(reinterpret_cast<const char*>(&rule.from_zones), 16);
    for (const sl_span span : {rule.sources, rule.destinations})
      if (text += '|'; span.count > 0)
        text.append(reinterpret_cast<const char*>(&set.prefixes[span.first]), sizeof(sl_prefix));
    if (text += '|'; rule.services.count > 0)
      text.append(reinterpret_cast<const char*>(&set.services[rule.services.first]), sizeof(sl_service));
    return text;
  }

  static uint32_t bits_of(const rule_set& set, const classifier_rule& rule) {
    uint32_t bits = 0;
    for (const sl_span span : {rule.sources, rule.destinations})
      if (span.count > 0) {
        const unsigned length = set.prefixes[span.first].length; // an IPv6 prefix is as specific as the IPv4 one it is drawn for
        bits += covers(prefix(ipv4(0), 96), set.prefixes[span.first].address) ? length - 96 : length / 4;
      }
    if (rule.services.count > 0)
      bits += set.services[rule.services.first].dst_lo == set.services[rule.services.first].dst_hi ? 12 : 4;
    return bits;
  }

  // Early ones of all are drawn most: a few have most of the rules.
  uint32_t skewed(uint32_t bound) {
    const double at = static_cast<double>(below(1u << 24)) / (1u << 24);
    return std::min(bound - 1, static_cast<uint32_t>(at * at * bound));
  }

  // A prefix of this length in a network in use; the same one as before now and then.
  sl_span seed_prefix(rule_set& set, unsigned length, bool ipv6) {
    if (length == 0 && !ipv6)
      return {0, 0};
    std::vector<uint32_t>& used = used_[(ipv6 ? 64 : 0) + length];
    if (!used.empty() && chance(40))
      return {used[skewed(static_cast<uint32_t>(used.size()))], 1};
    uint32_t address = networks_[skewed(static_cast<uint32_t>(networks_.size()))] & 0xffff0000u;
    address |= skewed(256) << 8 | below(256);
    used.push_back(static_cast<uint32_t>(set.prefixes.size()));
    if (!ipv6) {
      set.prefixes.push_back(prefix(ipv4(address), 96 + length));
    } else {
      sl_address wide{{0x20, 0x01, 0x0d, 0xb8, static_cast<uint8_t>(address >> 24), static_cast<uint8_t>(address >> 16),
                       static_cast<uint8_t>(address >> 8), 0, 0, 0, 0, 0, 0, 0, 0, static_cast<uint8_t>(address)}};
      set.prefixes.push_back(prefix(wide, length == 0 ? 0 : length < 20 ? 48 : length < 28 ? 56 : length < 32 ? 64 : 128));
    }
    return {used.back(), 1};
  }

  sl_span seed_service(rule_set& set, const seed& of) {
    sl_service made{drawn(of.protocols).protocol, 0, 0xffff, 0, 0xffff, 0};
    if (made.protocol == 6 || made.protocol == 17) {
      const share_of_ports& ports = drawn(of.ports);
      const auto exact = [this] { return chance(60) ? well_known() : static_cast<uint16_t>(1 + skewed(9000)); };
      if (made.src_lo = ports.src_lo, made.src_hi = ports.src_hi; made.src_lo > made.src_hi)
        made.src_lo = made.src_hi = exact();
      if (made.dst_lo = ports.dst_lo, made.dst_hi = ports.dst_hi; made.dst_lo > made.dst_hi)
        made.dst_lo = made.dst_hi = exact();
    } else if (made.protocol == SL_PROTOCOL_ANY) {
      return {0, 0};
    }
    set.services.push_back(made);
    return {static_cast<uint32_t>(set.services.size() - 1), 1};
  }

  classifier_rule rule(shape kind, rule_set& set) {
    if (kind != shape::random) {
      const seed& of = seed_of(kind);
      const auto [percent, source, destination] = drawn(of.lengths);
      const bool ipv6 = chance(ipv6_percent_);
      const uint64_t from = chance(90) ? ~uint64_t{0} : zones(), to = chance(90) ? ~uint64_t{0} : zones();
      return {from, to, seed_prefix(set, source, ipv6), seed_prefix(set, destination, ipv6), seed_service(set, of)};
    }
    // Lists everywhere, long ones now and then.
    classifier_rule made{zones(), zones(), {}, {}, {}};
    made.sources = prefixes(set, 20, 30, chance(5) ? below(300) : 1 + below(4));
    made.destinations = prefixes(set, 20, 30, chance(5) ? below(300) : 1 + below(4));
    made.services = services(set, 20, 30, chance(5) ? below(60) : 1 + below(4));
    if (chance(1))
      made.from_zones = 0;
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
  unsigned ipv6_percent_ = 0;
  std::array<std::vector<uint32_t>, 128> used_; // by length and family: prefixes drawn before
};

// The definition: the first rule whose parts all match. Shares nothing with the classifier.
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
