// SPDX-License-Identifier: Apache-2.0
//
// classifier_parts.h: what the classifier's files share: masks, hashes, entries, and the arrays that snapshots share.
//
// Who:    classifier.cc (match), classifier_build.cc (build and update), classifier_tables.cc, classifier_lists.cc.
// Thread: one thread builds and updates; what it has published it never writes again. `paged` copies a page before it
//         writes one that another snapshot reads; `chunked` only appends, and readers have their own list of its chunks.
// Bounds: named at each.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "abi/dataplane.h"

namespace sluice::classifier_parts {

struct mask128 { uint64_t hi, lo; };

inline constexpr auto prefix_masks = [] {
  std::array<mask128, 129> masks{};
  for (unsigned length = 1; length <= 128; ++length)
    masks[length] = length <= 64 ? mask128{~uint64_t{0} << (64 - length), 0}
                                 : mask128{~uint64_t{0}, ~uint64_t{0} << (128 - length)};
  return masks;
}();

inline constexpr unsigned ipv4_length_base = 96;

inline mask128 halves(const sl_address& address) {
  mask128 value;
  std::memcpy(&value.hi, address.bytes, 8);
  std::memcpy(&value.lo, address.bytes + 8, 8);
  return {__builtin_bswap64(value.hi), __builtin_bswap64(value.lo)};
}

constexpr bool is_ipv4(uint64_t hi, uint64_t lo) { return hi == 0 && lo >> 32 == 0xffff; }

inline bool covers(uint64_t prefix_hi, uint64_t prefix_lo, unsigned length, uint64_t hi, uint64_t lo) {
  const mask128& mask = prefix_masks[length];
  return (((hi ^ prefix_hi) & mask.hi) | ((lo ^ prefix_lo) & mask.lo)) == 0;
}

inline uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

/// A packet's fields, or an entry's, as the tables hash them.
struct wide_key {
  uint64_t src_hi, src_lo, dst_hi, dst_lo;
  uint64_t ports; ///< src_port << 48 | dst_port << 32 | protocol << 16 | from_zone << 8 | to_zone
  bool operator==(const wide_key&) const = default;
};

constexpr uint64_t port_word(uint16_t src_port, uint16_t dst_port, uint8_t protocol, uint8_t from, uint8_t to) {
  return uint64_t{src_port} << 48 | uint64_t{dst_port} << 32 | uint64_t{protocol} << 16 | uint64_t{from} << 8 | to;
}

/// Upper half: the bucket; of it the top byte, which no table is large enough to use for that: the tag.
inline uint64_t hash(const wide_key& key, const wide_key& mask) {
  const uint64_t src = mix((key.src_hi & mask.src_hi) ^ 0x9e3779b97f4a7c15, (key.src_lo & mask.src_lo) ^ 0xe7037ed1a0b428db);
  const uint64_t dst = mix((key.dst_hi & mask.dst_hi) ^ 0x8ebc6af09c88c6e3, (key.dst_lo & mask.dst_lo) ^ 0x589965cc75374cc3);
  // Ports alone differ in few bits: without the last multiplication they crowd.
  return mix(mix(src ^ 0xa0761d6478bd642f, dst ^ 0x2d358dccaa6c78a5), (key.ports & mask.ports) ^ 0xd6e8feb86659fd93) * 0x9e3779b97f4a7c15;
}

inline uint32_t bucket_of(uint64_t hashed) { return static_cast<uint32_t>(hashed >> 32); }

enum entry_flag : uint8_t {
  source_list = 1, // the entry has what the list has in common: the list itself is looked up in the rule's record
  destination_list = 2,
  service_list = 4,
  source_ipv6_only = 8, // the prefix covers ::ffff:0:0/96 by its bits, but is IPv6's
  destination_ipv6_only = 16,
  any_protocol = 32,
  run_goes_on = 64, // the next entry in memory is of the same hash, and has a higher precedence
};

/// One source x one destination x one service of a rule. One cache line: what verifies a match exactly, but for lists.
struct alignas(64) entry {
  uint64_t src_hi, src_lo, dst_hi, dst_lo;
  uint64_t precedence; ///< the lower wins; grows with the rules' order and has room between two rules for new ones
  uint32_t rule;       ///< its record
  uint32_t zones;
  uint16_t src_port_lo, src_port_hi, dst_port_lo, dst_port_hi;
  uint8_t src_length, dst_length;
  uint8_t protocol;
  uint8_t flags;
  uint8_t reserved[4];
};
static_assert(sizeof(entry) == 64);

constexpr uint32_t upper(uint64_t precedence) { return static_cast<uint32_t>(precedence >> 32); }

struct zone_pair { uint64_t from, to; };

/// A prefix of a reduced list. `ipv4`: 1, 0, or family_any for the one that covers both families.
struct flat_prefix { uint64_t hi, lo; uint32_t length; uint32_t ipv4; };
inline constexpr uint32_t family_any = 2;

/// The lists that stand behind a rule's entries; a field that is expanded has none. Prefixes: sorted and disjoint.
struct rule_lists {
  std::span<const flat_prefix> sources, destinations;
  std::span<const sl_service> services;
};

/// A rule as the tables know it. Its number never changes while its place among the rules may.
struct rule_record {
  uint64_t precedence;
  const rule_lists* lists; ///< null: all fields are expanded
  uint32_t entry_count;
  bool sources_expanded, destinations_expanded, services_expanded;
};

/// Seven runs: entries of one hash in one table, behind each other, the lowest precedence first. They share a cache line
/// of tags, first entries and the upper halves of these' precedences. Tag 0: free.
struct alignas(64) bucket {
  static constexpr unsigned places = 7;
  uint8_t tags[places];
  uint8_t passed; ///< 0xff: some run that belongs here stands in a bucket behind; stays when it goes
  uint32_t runs[places];
  uint32_t before[places];

  /// Bit 8 * place + 7 is set where the tag is equal.
  uint64_t find(uint8_t tag) const {
    constexpr uint64_t low = 0x7f7f7f7f7f7f7f7f;
    uint64_t all;
    std::memcpy(&all, tags, sizeof(all));
    const uint64_t x = (all ^ tag * 0x0101010101010101ull) & (~uint64_t{0} >> 8);
    return ~(((x & low) + low) | x | low) & ~uint64_t{0} >> 8;
  }
};
static_assert(sizeof(bucket) == 64 && offsetof(bucket, passed) == bucket::places);
static_assert(std::endian::native == std::endian::little); // place of a tag = place of its byte

inline uint8_t tag_of(uint64_t hashed) {
  const auto tag = static_cast<uint8_t>(hashed >> 56);
  return tag == 0 ? 1 : tag;
}

/// An array whose copies share pages until they write. Copies are made and written by one thread; all threads read.
template <class T, std::size_t page_items>
class paged {
public:
  static_assert(std::has_single_bit(page_items));
  struct alignas(64) page { T items[page_items]; };

  paged() = default;
  explicit paged(std::size_t size) {
    const std::size_t count = (size + page_items - 1) / page_items;
    const std::shared_ptr<page[]> slab(new page[count]()); // together: pages of one build are read together
    pages_.reserve(count);
    for (std::size_t i = 0; i < count; ++i)
      pages_.push_back(std::shared_ptr<page>(slab, &slab[i]));
    owned_.assign(count, true);
  }

  const T& operator[](std::size_t i) const { return pages_[i / page_items]->items[i % page_items]; }

  T& write(std::size_t i) {
    const std::size_t at = i / page_items;
    if (!owned_[at]) {
      pages_[at] = std::make_shared<page>(*pages_[at]);
      owned_[at] = true;
    }
    return pages_[at]->items[i % page_items];
  }

  /// From now on others read these pages too.
  void publish() { owned_.assign(pages_.size(), false); }
  std::size_t bytes() const { return pages_.size() * (sizeof(page) + sizeof(pages_[0])); }

private:
  std::vector<std::shared_ptr<page>> pages_;
  std::vector<bool> owned_;
};

/// An array that only grows, so that its items may be read while others are appended.
template <class T, unsigned chunk_bits>
class chunked {
public:
  static constexpr std::size_t chunk_items = std::size_t{1} << chunk_bits;

  /// What a snapshot reads it by.
  class view {
  public:
    const T& operator[](std::size_t i) const { return chunks_[i >> chunk_bits][i & (chunk_items - 1)]; }
    void follow(const chunked& all) {
      for (std::size_t i = chunks_.size(); i < all.chunks_.size(); ++i)
        chunks_.push_back(all.chunks_[i].get());
    }
    std::size_t bytes() const { return chunks_.size() * sizeof(chunks_[0]); }

  private:
    std::vector<const T*> chunks_;
  };

  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return chunks_[i >> chunk_bits][i & (chunk_items - 1)]; }
  std::size_t push_back(const T& item) {
    if (size_ == chunks_.size() * chunk_items)
      chunks_.push_back(std::make_unique_for_overwrite<T[]>(chunk_items));
    (*this)[size_] = item;
    return size_++;
  }
  /// Place for so many behind each other; at most chunk_items.
  std::size_t reserve(std::size_t count) {
    if (size_ + count > chunks_.size() * chunk_items) {
      size_ = chunks_.size() * chunk_items;
      chunks_.push_back(std::make_unique_for_overwrite<T[]>(chunk_items));
    }
    return std::exchange(size_, size_ + count);
  }
  std::size_t bytes() const { return chunks_.size() * chunk_items * sizeof(T); }

private:
  std::vector<std::unique_ptr<T[]>> chunks_;
  std::size_t size_ = 0;
};

/// Which tables can hold a match, by one address alone: bit i stands for table i. A prefix stands at the longest level
/// that is no longer than it, under the hash of its bits there; prefixes shorter than all levels are in `any`. What
/// hashes alike shares a mask, and a mask forgets nothing: it may name tables too many, never one too few.
class address_sieve {
public:
  static constexpr unsigned levels_max = 4; // a family
  static constexpr std::size_t page_masks = 512;
  struct level {
    uint32_t length = 0;
    uint32_t mask = 0;
    paged<uint64_t, page_masks> tables;
  };
  struct family {
    uint64_t any = 0;
    std::vector<level> levels; // longest first
  };
  std::array<family, 2> families; // IPv6, IPv4

  static uint32_t place(const level& at, uint64_t hi, uint64_t lo) {
    const mask128& mask = prefix_masks[at.length];
    return static_cast<uint32_t>(mix((hi & mask.hi) ^ 0x9e3779b97f4a7c15, (lo & mask.lo) ^ 0x8ebc6af09c88c6e3)) & at.mask;
  }

  uint64_t tables(uint64_t hi, uint64_t lo, bool ipv4) const {
    const family& of = families[ipv4];
    uint64_t found = of.any;
    for (const level& at : of.levels)
      found |= at.tables[place(at, hi, lo)];
    return found;
  }

  void add(uint64_t hi, uint64_t lo, unsigned length, bool both_families, bool ipv4, uint64_t table_bit) {
    if (both_families) {
      families[0].any |= table_bit;
      families[1].any |= table_bit;
      return;
    }
    for (level& at : families[ipv4].levels)
      if (at.length <= length) {
        const uint32_t i = place(at, hi, lo);
        if ((at.tables[i] & table_bit) == 0) // else the page need not become our own
          at.tables.write(i) |= table_bit;
        return;
      }
    families[ipv4].any |= table_bit;
  }

  void publish() {
    for (family& of : families)
      for (level& at : of.levels)
        at.tables.publish();
  }
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const family& of : families)
      for (const level& at : of.levels)
        sum += at.tables.bytes();
    return sum;
  }
};

/// A tuple: the bits of the key that its entries have in common hash them.
struct table {
  static constexpr std::size_t page_buckets = 64;
  wide_key mask;
  uint64_t best;        ///< no entry of it has a lower precedence
  uint32_t bucket_mask; ///< buckets - 1
  uint32_t entry_count, run_count;
  paged<bucket, page_buckets> buckets;
};

} // namespace sluice::classifier_parts
