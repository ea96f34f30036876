// SPDX-License-Identifier: Apache-2.0
// capture.cc: see capture.h. The filter reads the frame itself, not the parsed packet: what leaves has other addresses than what came in.
#include "capture.h"

#include "flow/key.h"

namespace sluice {
namespace {

struct seen { sl_address src, dst; uint16_t src_port = 0, dst_port = 0; uint8_t protocol = 0; bool has_ports = false; bool is_ip = false; };

seen read_frame(const uint8_t* frame, unsigned length) {
  seen s{};
  unsigned l3 = ethernet_bytes;
  if (length < l3) return s;
  uint16_t type = load16(frame + 12);
  if (type == 0x8100 && length >= l3 + vlan_bytes) { type = load16(frame + 16); l3 += vlan_bytes; }
  unsigned l4;
  bool later_fragment = false;
  if (type == 0x0800 && length >= l3 + ipv4_bytes_min) {
    const uint8_t* ip = frame + l3;
    set_ipv4(s.src, ip + 12);
    set_ipv4(s.dst, ip + 16);
    s.protocol = ip[9];
    const unsigned header = (ip[0] & 15) * 4u;
    l4 = header >= ipv4_bytes_min ? l3 + header : length;
    later_fragment = load16(ip + 6) & 0x1fff;
  } else if (type == 0x86dd && length >= l3 + ipv6_bytes) {
    const uint8_t* ip = frame + l3;
    std::memcpy(s.src.bytes, ip + 8, 16);
    std::memcpy(s.dst.bytes, ip + 24, 16);
    unsigned offset = ipv6_bytes;
    ipv6_chain chain{};
    const bool whole = walk_ipv6_extensions(ip, length - l3, &offset, &chain) == SL_DROP_NONE;
    s.protocol = whole ? chain.protocol : ip[6];  // of headers that cannot be read through only the addresses count
    l4 = whole ? l3 + offset : length;
    later_fragment = chain.fragment_offset != 0;
  } else {
    return s;
  }
  s.is_ip = true;
  if ((s.protocol == protocol_tcp || s.protocol == protocol_udp) && !later_fragment && length >= l4 + 4) {
    s.src_port = load16(frame + l4);
    s.dst_port = load16(frame + l4 + 2);
    s.has_ports = true;
  }
  return s;
}

bool takes(const sl_capture_filter& f, const seen& s) {
  if (f.protocol != SL_PROTOCOL_ANY && (!s.is_ip || s.protocol != f.protocol)) return false;
  if ((f.flags & SL_CAPTURE_PORT) && (!s.has_ports || (s.src_port != f.port && s.dst_port != f.port))) return false;
  if (f.source.length == 0 && f.destination.length == 0) return true;
  if (!s.is_ip) return false;
  auto holds = [](const sl_prefix& prefix, const sl_address& a) { return prefix.length == 0 || in_prefix(a, prefix.address, prefix.length); };
  return (holds(f.source, s.src) && holds(f.destination, s.dst)) || ((f.flags & SL_CAPTURE_BOTH_WAYS) && holds(f.source, s.dst) && holds(f.destination, s.src));
}

}  // namespace

uint8_t captures_of(const capture_set& set, const uint8_t* frame, unsigned length, uint32_t interface_id, uint8_t direction) {
  uint8_t mask = 0;
  const seen s = read_frame(frame, length);
  for (unsigned i = 0; i < SL_CAPTURES_MAX; ++i) {
    const sl_capture_filter& f = set.filters[i];
    if (set.active[i] && (f.directions & direction) && (f.interface == 0 || f.interface == interface_id) && takes(f, s)) mask |= static_cast<uint8_t>(1u << i);
  }
  return mask;
}

sl_captured* capture_ring::reserve(unsigned bytes) {
  if (!memory_) return nullptr;
  const uint32_t wanted = (static_cast<uint32_t>(sizeof(sl_captured)) + bytes + 7) & ~7u;
  const uint64_t head = head_.load(std::memory_order_relaxed);
  const uint32_t to_end = capture_ring_bytes - static_cast<uint32_t>(head % capture_ring_bytes);
  skipped_ = to_end < wanted ? to_end : 0;
  if (head + skipped_ + wanted - tail_.load(std::memory_order_acquire) > capture_ring_bytes) return nullptr;
  // A record that would run over the end leaves a gap: `captures` 0, or no room even for that.
  if (skipped_ >= sizeof(sl_captured)) { auto* gap = reinterpret_cast<sl_captured*>(at(head)); *gap = {}; gap->record_bytes = skipped_; }
  auto* record = reinterpret_cast<sl_captured*>(at(head + skipped_));
  *record = {};
  record->record_bytes = wanted;
  record->bytes = static_cast<uint16_t>(bytes);
  return record;
}

size_t capture_ring::drain(uint8_t* into, size_t max) {
  uint64_t tail = tail_.load(std::memory_order_relaxed);
  const uint64_t head = head_.load(std::memory_order_acquire);
  size_t used = 0;
  while (tail != head) {
    const uint32_t to_end = capture_ring_bytes - static_cast<uint32_t>(tail % capture_ring_bytes);
    if (to_end < sizeof(sl_captured)) { tail += to_end; continue; }
    const auto* record = reinterpret_cast<const sl_captured*>(at(tail));
    if (record->captures) {
      if (used + record->record_bytes > max) break;
      std::memcpy(into + used, record, record->record_bytes);
      used += record->record_bytes;
    }
    tail += record->record_bytes;
  }
  tail_.store(tail, std::memory_order_release);
  return used;
}

}  // namespace sluice
