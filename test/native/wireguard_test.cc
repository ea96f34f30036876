// SPDX-License-Identifier: Apache-2.0
// wireguard_test.cc: two tables that talk: messages there and back, sessions' lives, what must not get through, several workers at once.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "tunnel/aead.h"
#include "wireguard_sides.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint64_t now = wireguard_now_ns, second = 1'000'000'000;

bool all(const uint8_t* p, size_t bytes, uint8_t value) { return std::all_of(p, p + bytes, [&](uint8_t b) { return b == value; }); }

TEST_CASE("wireguard: what one table seals, another one opens, of each length") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  uint64_t counter = 0;
  for (uint32_t length = 0; length <= 1420; length += length < 70 || length > 1400 ? 1 : 37) {
    CAPTURE(length);
    const std::vector<uint8_t> message = wireguard_sealed(a, a.sending(), length);
    // Section 5.4.6: type, three zero bytes, the receiver's index, the counter; then the padded packet and its tag.
    REQUIRE(message.size() == 32 + std::min((length + 15) / 16 * 16, 1420u));
    CHECK(load32_raw(message.data()) == 4);
    CHECK(load32_raw(message.data() + 4) == a.sending()->remote_index);
    CHECK(load64_raw(message.data() + 8) == counter++);
    const wireguard_opened o = wireguard_open(b, message);
    REQUIRE(o.item.reason == SL_DROP_NONE);
    REQUIRE(o.item.packet_bytes == message.size() - 32);
    CHECK(o.item.packet == o.copy.data() + 16);
    CHECK(all(o.item.packet, length, 0x5a));
    CHECK(all(o.item.packet + length, o.item.packet_bytes - length, 0));  // the whitepaper wants zero padding
    CHECK(o.item.peer == &b.peer());
  }
  CHECK(a.table->records()[0].current_sent == counter);
}

TEST_CASE("wireguard: padding stays below the tunnel's MTU") {
  CHECK(wireguard_padded(0, 1420) == 0);
  CHECK(wireguard_padded(1, 1420) == 16);
  CHECK(wireguard_padded(16, 1420) == 16);
  CHECK(wireguard_padded(1408, 1420) == 1408);
  CHECK(wireguard_padded(1409, 1420) == 1420);
  CHECK(wireguard_padded(1420, 1420) == 1420);
  CHECK(wireguard_padded(1500, 1420) == 1500);
}

TEST_CASE("wireguard: a batch of several peers, in any order, and both directions") {
  wireguard_side a(1, 3), b(1, 3);
  for (uint32_t id = 100; id < 103; ++id) REQUIRE(wireguard_connect(a, b, static_cast<uint8_t>(id), id));
  // 200 packets: runs of one peer longer than a batch, and peers that alternate.
  std::vector<wireguard_buffer> buffers;
  std::vector<seal_item> seal;
  for (unsigned i = 0; i < 200; ++i) buffers.emplace_back(20 + i, static_cast<uint8_t>(i));
  for (unsigned i = 0; i < 200; ++i) seal.push_back(buffers[i].sealing(a.sending(i < 100 ? 100 : 100 + i % 3)));
  a.table->seal(0, seal, now);
  std::vector<open_item> open;
  for (seal_item& s : seal) open.push_back({s.message, s.message_bytes, wireguard_from(1), SL_DROP_NONE, nullptr, 0, nullptr, false});
  b.table->open(0, open, now);
  unsigned wrong = 0, confirmed = 0;
  for (unsigned i = 0; i < 200; ++i) {
    wrong += open[i].reason != SL_DROP_NONE || open[i].peer != &b.peer(i < 100 ? 100 : 100 + i % 3) || !all(open[i].packet, 20 + i, static_cast<uint8_t>(i));
    confirmed += open[i].confirmed;
  }
  CHECK(wrong == 0);
  CHECK(confirmed == 3);
  uint64_t packets = 0, bytes = 0, expected = 0;
  for (const seal_item& s : seal) expected += s.message_bytes;
  for (const sl_wireguard_peer_record& r : b.table->records()) {
    packets += r.rx_packets;
    bytes += r.rx_bytes;
    CHECK(r.last_received_ns == now);
    CHECK(r.last_data_received_ns == now);
    CHECK(r.last_sent_ns == 0);
  }
  CHECK(packets == 200);
  CHECK(bytes == expected);
  // And back: the sessions are confirmed, so b sends with them.
  const wireguard_opened back = wireguard_open(a, wireguard_sealed(b, b.sending(101), 100));
  CHECK(back.item.reason == SL_DROP_NONE);
  CHECK(back.item.peer == &a.peer(101));
}

TEST_CASE("wireguard: a keepalive counts as sent and received, not as data") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const std::vector<uint8_t> message = wireguard_sealed(a, a.sending(), 0);
  CHECK(message.size() == 32);
  const wireguard_opened o = wireguard_open(b, message, now + 5);
  CHECK(o.item.reason == SL_DROP_NONE);
  CHECK(o.item.packet_bytes == 0);
  const sl_wireguard_peer_record sent = a.table->records()[0], received = b.table->records()[0];
  CHECK(sent.last_sent_ns == now);
  CHECK(sent.last_data_sent_ns == 0);
  CHECK(sent.tx_bytes == 32);
  CHECK(received.last_received_ns == now + 5);
  CHECK(received.last_data_received_ns == 0);
}

TEST_CASE("wireguard: each changed bit is noticed, and changes nothing") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const std::vector<uint8_t> good = wireguard_sealed(a, a.sending(), 100);
  unsigned through = 0;
  for (size_t at = 0; at < good.size(); ++at)
    for (unsigned bit = 0; bit < 8; ++bit) {
      std::vector<uint8_t> bad = good;
      bad[at] ^= static_cast<uint8_t>(1u << bit);
      const wireguard_opened o = wireguard_open(b, bad);
      const sl_drop_reason expected = at < 4 ? SL_DROP_WIREGUARD_MALFORMED : at < 8 ? SL_DROP_WIREGUARD_UNKNOWN_INDEX : SL_DROP_WIREGUARD_AUTHENTICATION;
      // The counter's highest bits make it one that is never sent.
      through += o.item.reason != expected && !(at >= 8 && at < 16 && o.item.reason == SL_DROP_WIREGUARD_REPLAY);
      through += o.item.peer != nullptr || o.item.packet_bytes != 0;
    }
  CHECK(through == 0);
  CHECK(b.events().empty());
  const sl_wireguard_peer_record r = b.table->records()[0];
  CHECK(r.rx_packets == 0);
  CHECK(r.last_received_ns == 0);
  CHECK(r.has_next == 1);
  CHECK(is_unspecified(r.endpoint.address));
  CHECK(wireguard_open(b, good).item.reason == SL_DROP_NONE);
}

TEST_CASE("wireguard: no other length of a message gets through") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const std::vector<uint8_t> good = wireguard_sealed(a, a.sending(), 64);
  for (size_t length = 0; length <= good.size() + 40; ++length) {
    if (length == good.size()) continue;
    CAPTURE(length);
    std::vector<uint8_t> bad = good;
    bad.resize(length);
    CHECK(wireguard_open(b, bad).item.reason == (length < 32 ? SL_DROP_WIREGUARD_MALFORMED : SL_DROP_WIREGUARD_AUTHENTICATION));
  }
  CHECK(wireguard_open(b, good).item.reason == SL_DROP_NONE);
}

TEST_CASE("wireguard: a message counts once, also within a batch, in any order") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  std::vector<std::vector<uint8_t>> messages;
  for (unsigned i = 0; i < 300; ++i) messages.push_back(wireguard_sealed(a, a.sending(), 40, static_cast<uint8_t>(i)));
  const auto once = messages;
  for (unsigned more = 0; more < 2; ++more) messages.insert(messages.end(), once.begin(), once.end());
  std::shuffle(messages.begin(), messages.end(), std::mt19937(7));
  std::vector<open_item> open;
  for (auto& m : messages) open.push_back({m.data(), static_cast<uint32_t>(m.size()), wireguard_from(1), SL_DROP_NONE, nullptr, 0, nullptr, false});
  b.table->open(0, open, now);
  CHECK(std::count_if(open.begin(), open.end(), [](const open_item& o) { return o.reason == SL_DROP_NONE; }) == 300);
  CHECK(std::count_if(open.begin(), open.end(), [](const open_item& o) { return o.reason == SL_DROP_WIREGUARD_REPLAY; }) == 600);
  CHECK(b.table->records()[0].rx_packets == 300);
}

TEST_CASE("wireguard: what is older than the window does not count") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const std::vector<uint8_t> oldest = wireguard_sealed(a, a.sending(), 40), second_oldest = wireguard_sealed(a, a.sending(), 40);
  a.sending()->send_counter.store(replay_window);
  CHECK(wireguard_open(b, wireguard_sealed(a, a.sending(), 40)).item.reason == SL_DROP_NONE);
  CHECK(wireguard_open(b, oldest).item.reason == SL_DROP_WIREGUARD_REPLAY);
  CHECK(wireguard_open(b, second_oldest).item.reason == SL_DROP_NONE);
}

TEST_CASE("wireguard: a session ends with its last counter") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  wireguard_session* const s = a.sending();
  s->send_counter.store(wireguard_reject_after_messages - 2);
  std::vector<wireguard_buffer> buffers(5, wireguard_buffer(40));
  std::vector<seal_item> seal;
  for (auto& buffer : buffers) seal.push_back(buffer.sealing(s));
  a.table->seal(0, seal, now);
  for (unsigned i = 0; i < 5; ++i) {
    CAPTURE(i);
    CHECK((seal[i].message_bytes != 0) == (i < 2));
    if (seal[i].message_bytes) CHECK(wireguard_open(b, {seal[i].message, seal[i].message + seal[i].message_bytes}).item.reason == SL_DROP_NONE);
  }
  CHECK(a.sending() == nullptr);
  CHECK(a.table->records()[0].tx_packets == 2);
  // However often it is tried, the counter does not come round.
  for (unsigned i = 0; i < 1000; ++i) a.table->seal(0, seal, now);
  CHECK(s->send_counter.load() < UINT64_MAX - 4096);
  CHECK(seal[4].message_bytes == 0);
}

TEST_CASE("wireguard: counters from REJECT_AFTER_MESSAGES on are not received either") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const wireguard_session* const s = a.sending();
  std::string error;
  const auto cipher = aead::open(&error);
  for (const uint64_t counter : {wireguard_reject_after_messages - 1, wireguard_reject_after_messages, UINT64_MAX}) {
    CAPTURE(counter);
    std::vector<uint8_t> message(32, 0);
    store32_raw(message.data(), wireguard_transport);
    store32_raw(message.data() + 4, s->remote_index);
    store64_raw(message.data() + 8, counter);
    aead_item item{message.data() + 16, 0, 0, nullptr, s->send_key};
    item.set_counter(counter);
    cipher->seal({&item, 1});
    CHECK(wireguard_open(b, message).item.reason == (counter < wireguard_reject_after_messages ? SL_DROP_NONE : SL_DROP_WIREGUARD_REPLAY));
  }
}

TEST_CASE("wireguard: REJECT_AFTER_TIME ends sending and receiving") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const std::vector<uint8_t> first = wireguard_sealed(a, a.sending(), 40), later = wireguard_sealed(a, a.sending(), 40);
  CHECK(wireguard_open(b, first, now + 180 * second - 1).item.reason == SL_DROP_NONE);
  CHECK(wireguard_open(b, later, now + 180 * second).item.reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  CHECK(a.sending(100, now + 180 * second - 1) != nullptr);
  CHECK(a.sending(100, now + 180 * second) == nullptr);
  // Who kept the session from before notices when it is sealed.
  wireguard_buffer buffer(40);
  seal_item item = buffer.sealing(a.sending());
  a.table->seal(0, {&item, 1}, now + 180 * second);
  CHECK(item.message_bytes == 0);
}

// ---- sessions' lives ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("wireguard: who answered a handshake sends when the first message came") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  CHECK(a.sending() != nullptr);
  CHECK(b.sending() == nullptr);
  CHECK(b.table->records()[0].has_next == 1);
  CHECK(b.table->records()[0].current_created_ns == 0);
  const wireguard_opened first = wireguard_open(b, wireguard_sealed(a, a.sending(), 0));
  CHECK(first.item.confirmed);
  CHECK(b.sending() != nullptr);
  CHECK(b.table->records()[0].has_next == 0);
  CHECK(b.table->records()[0].current_created_ns == now);
  CHECK(b.table->records()[0].current_initiator == 0);
  CHECK(a.table->records()[0].current_initiator == 1);
  CHECK_FALSE(wireguard_open(b, wireguard_sealed(a, a.sending(), 0)).item.confirmed);
  const auto events = b.events();
  REQUIRE(events.size() == 2);
  CHECK(events[0].first.event == SL_WIREGUARD_CONFIRMED);
  CHECK(events[0].first.peer_id == 100);
  CHECK(events[0].first.interface == 1);
  CHECK(events[1].first.event == SL_WIREGUARD_ROAMED);
  CHECK(is_ipv4(events[1].first.from.address));
}

TEST_CASE("wireguard: a rekey loses nothing that is on its way") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b, 1));
  CHECK(wireguard_open(b, wireguard_sealed(a, a.sending(), 40)).item.reason == SL_DROP_NONE);
  std::vector<std::vector<uint8_t>> to_a, to_b;
  to_b.push_back(wireguard_sealed(a, a.sending(), 40));
  to_a.push_back(wireguard_sealed(b, b.sending(), 40));
  REQUIRE(wireguard_connect(a, b, 2));                     // a sends with the new one, b not yet
  to_b.push_back(wireguard_sealed(a, a.sending(), 40));
  to_a.push_back(wireguard_sealed(b, b.sending(), 40));
  CHECK(load32_raw(to_b[0].data() + 4) != load32_raw(to_b[1].data() + 4));
  CHECK(load32_raw(to_a[0].data() + 4) == load32_raw(to_a[1].data() + 4));
  std::reverse(to_b.begin(), to_b.end());
  for (const auto& m : to_b) CHECK(wireguard_open(b, m).item.reason == SL_DROP_NONE);
  to_a.push_back(wireguard_sealed(b, b.sending(), 40));
  CHECK(load32_raw(to_a[2].data() + 4) != load32_raw(to_a[1].data() + 4));
  std::reverse(to_a.begin(), to_a.end());
  for (const auto& m : to_a) CHECK(wireguard_open(a, m).item.reason == SL_DROP_NONE);
}

TEST_CASE("wireguard: both initiate at once, and neither loses what is on its way") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b, 1));
  REQUIRE(wireguard_open(b, wireguard_sealed(a, a.sending(), 0)).item.confirmed);
  std::vector<std::vector<uint8_t>> to_a{wireguard_sealed(b, b.sending(), 40)}, to_b{wireguard_sealed(a, a.sending(), 40)};
  wireguard_handshake of_a = wireguard_keys(a, b, 2), of_b = wireguard_keys(b, a, 3);
  std::string error;
  REQUIRE(b.table->install(&of_a.b, now, &error));  // each answers the other's initiation
  REQUIRE(a.table->install(&of_b.b, now, &error));
  REQUIRE(a.table->install(&of_a.a, now, &error));  // each gets the other's answer
  REQUIRE(b.table->install(&of_b.a, now, &error));
  CHECK(a.table->records()[0].current_initiator == 1);
  CHECK(b.table->records()[0].current_initiator == 1);
  to_b.push_back(wireguard_sealed(a, a.sending(), 40));
  to_a.push_back(wireguard_sealed(b, b.sending(), 40));
  for (unsigned order = 0; order < 2; ++order) {
    for (const auto& m : to_b) CHECK(wireguard_open(b, m).item.reason == (order ? SL_DROP_WIREGUARD_REPLAY : SL_DROP_NONE));
    for (const auto& m : to_a) CHECK(wireguard_open(a, m).item.reason == (order ? SL_DROP_WIREGUARD_REPLAY : SL_DROP_NONE));
  }
  CHECK(wireguard_open(b, wireguard_sealed(a, a.sending(), 40)).item.reason == SL_DROP_NONE);
  CHECK(wireguard_open(a, wireguard_sealed(b, b.sending(), 40)).item.reason == SL_DROP_NONE);
}

TEST_CASE("wireguard: a forgotten peer's messages open no more, and its index is none") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  const std::vector<uint8_t> message = wireguard_sealed(a, a.sending(), 40);
  CHECK(b.table->forget(100));
  CHECK(wireguard_open(b, message).item.reason == SL_DROP_WIREGUARD_UNKNOWN_INDEX);
  CHECK(b.table->records()[0].has_next == 0);
  CHECK(a.table->forget(100));
  CHECK(a.sending() == nullptr);
  CHECK_FALSE(a.table->forget(99));
}

TEST_CASE("wireguard: install takes what fits, wipes what it was given, says what is wrong") {
  wireguard_side a, b;
  const sl_wireguard_keypair nothing{};
  const auto refused = [&](sl_wireguard_keypair k, const char* why) {
    std::string error;
    CHECK_FALSE(a.table->install(&k, now, &error));
    CHECK_MESSAGE(error.find(why) != std::string::npos, error);
    CHECK(std::memcmp(&k, &nothing, sizeof k) == 0);
  };
  sl_wireguard_keypair k = wireguard_keys(a, b).a;
  sl_wireguard_keypair wrong = k;
  wrong.peer_id = 7;
  refused(wrong, "does not name");
  wrong = k;
  wrong.local_index ^= 1u << 31;
  refused(wrong, "not out");
  wrong = k;
  wrong.local_index = 0;
  refused(wrong, "not out");
  wrong = k;
  wrong.created_ns = now - 180 * second;
  refused(wrong, "time");
  wrong.created_ns = now + 2 * second;
  refused(wrong, "time");
  sl_wireguard_keypair again = k;
  std::string error;
  CHECK(a.table->install(&k, now, &error));
  CHECK(std::memcmp(&k, &nothing, sizeof k) == 0);
  refused(again, "not out");
}

TEST_CASE("wireguard: indexes are fresh, run out, and come back") {
  wireguard_side a;
  std::set<uint32_t> seen;
  uint32_t index, last = 0;
  while ((index = a.table->index(now)) != 0) {
    REQUIRE(seen.insert(index).second);
    last = index;
  }
  CHECK(seen.size() == 1u << 17);
  CHECK(a.table->index(now + 180 * second - 1) == 0);
  const uint32_t fresh = a.table->index(now + 180 * second);
  CHECK(fresh != 0);
  CHECK_FALSE(seen.contains(fresh));
  sl_wireguard_keypair k{100, last, 1, 1, {}, now + 180 * second, {}, {}};
  std::string error;
  CHECK_FALSE(a.table->install(&k, now + 180 * second, &error));  // void by now
}

TEST_CASE("wireguard: a worker may use what it found until it says that it is through") {
  wireguard_side a(2), b;
  REQUIRE(wireguard_connect(a, b));
  a.epoch.quiescent(0);
  a.epoch.quiescent(1);
  wireguard_session* const held = a.sending();  // worker 1 has it
  wireguard_peer* const peer = &a.peer();
  CHECK(a.table->forget(100));
  std::string error;
  REQUIRE(a.table->apply(wireguard_plan{}.snap, &error) != nullptr);
  a.epoch.quiescent(0);
  a.table->records();
  // A sanitizer would say so if either were gone.
  wireguard_buffer buffer(40);
  seal_item item = buffer.sealing(held);
  a.table->seal(1, {&item, 1}, now);
  CHECK(item.message_bytes == 32 + 48);
  CHECK(peer->tx_packets.load() == 1);
  a.epoch.quiescent(1);
  a.table->records();
}

// ---- snapshots ---------------------------------------------------------------------------------------------------------------------------

TEST_CASE("wireguard: a peer keeps its slot, sessions and counters over snapshots") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  wireguard_sealed(a, a.sending(), 40);
  const uint32_t slot = a.table->slot_of(100);
  wireguard_plan more;
  more.interface(2, 51821);
  more.peer(200, {wireguard_prefix(0x0b000000, 8)});
  more.interface(1, 51830);
  more.peer(150, {wireguard_prefix(0x0c000000, 8)});
  more.peer(100, {wireguard_prefix(0x0a000000, 8)});
  std::string error;
  const auto routes = a.table->apply(more.snap, &error);
  REQUIRE(routes != nullptr);
  CHECK(a.table->slot_of(100) == slot);
  CHECK(a.sending() != nullptr);
  CHECK(a.peer().tx_packets.load() == 1);
  CHECK(routes->listening(51820) == nullptr);
  REQUIRE(routes->listening(51830) != nullptr);
  CHECK(routes->listening(51830)->interface_id == 1);
  CHECK(routes->of_interface(0)->interface_id == 2);
  CHECK(routes->of_interface(1)->peer_of(wireguard_ipv4(0x0a010203)) == slot);
  CHECK(routes->of_interface(1)->peer_of(wireguard_ipv4(0x0b010203)) == wireguard_peer_none);
  CHECK(routes->of_interface(0)->peer_of(wireguard_ipv4(0x0b010203)) == a.table->slot_of(200));
  CHECK(routes->of_interface(7) == nullptr);
}

TEST_CASE("wireguard: a peer that is not named ends; its slot rests until its snapshot is out of use") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  a.epoch.quiescent(0);
  const uint32_t slot = a.table->slot_of(100);
  const auto one = [&](uint32_t id) {
    wireguard_plan plan;
    plan.interface(1, 51820);
    plan.peer(id, {});
    std::string error;
    REQUIRE(a.table->apply(plan.snap, &error) != nullptr);
    return a.table->slot_of(id);
  };
  CHECK(one(101) != slot);
  CHECK(a.table->slot_of(100) == wireguard_peer_none);
  CHECK(a.table->peer(slot) == nullptr);
  CHECK(one(102) != slot);  // the worker was not seen since
  a.epoch.quiescent(0);
  CHECK(one(103) == slot);
  CHECK(a.peer(103).sending(now) == nullptr);
}

TEST_CASE("wireguard: as many peers as there may be, all replaced at once") {
  wireguard_side a;
  for (uint32_t round = 0; round < 4; ++round) {
    CAPTURE(round);
    wireguard_plan plan;
    plan.interface(1, 51820);
    for (uint32_t i = 0; i < SL_WIREGUARD_PEERS_MAX; ++i) plan.peer(1000 + round * SL_WIREGUARD_PEERS_MAX + i, {wireguard_prefix(0x0a000000 + i, 32)});
    std::string error;
    a.epoch.quiescent(0);
    const auto routes = a.table->apply(plan.snap, &error);
    REQUIRE_MESSAGE(routes != nullptr, error);
    a.epoch.quiescent(0);
    CHECK(routes->tunnels()[0].peer_of(wireguard_ipv4(0x0a000000 + 77)) == a.table->slot_of(1000 + round * SL_WIREGUARD_PEERS_MAX + 77));
    a.epoch.quiescent(0);
  }
}

TEST_CASE("wireguard: the longest allowed IP decides, and equal ones belong to the first peer") {
  wireguard_side a;
  wireguard_plan plan;
  plan.interface(1, 51820);
  plan.peer(100, {wireguard_prefix(0, 0), wireguard_prefix(0x0a000000, 8)});
  plan.peer(101, {wireguard_prefix(0x0a010000, 16), wireguard_prefix(0x0a000000, 8)});
  plan.peer(102, {{sl_address{{0x20, 0x01, 0x0d, 0xb8}}, 32, {}}});
  std::string error;
  const auto routes = a.table->apply(plan.snap, &error);
  REQUIRE(routes != nullptr);
  const auto& t = routes->tunnels()[0];
  CHECK(t.peer_of(wireguard_ipv4(0x08080808)) == a.table->slot_of(100));
  CHECK(t.peer_of(wireguard_ipv4(0x0a020304)) == a.table->slot_of(100));
  CHECK(t.peer_of(wireguard_ipv4(0x0a010304)) == a.table->slot_of(101));
  CHECK(t.peer_of(sl_address{{0x20, 0x01, 0x0d, 0xb8, 1}}) == a.table->slot_of(102));
  CHECK(t.peer_of(sl_address{{0x20, 0x02}}) == wireguard_peer_none);
  plan.snap.prefixes[1].address.bytes[15] = 1;
  CHECK(a.table->apply(plan.snap, &error) == nullptr);
  CHECK(error.find("allowed IPs") != std::string::npos);
}

// ---- endpoints and events ----------------------------------------------------------------------------------------------------------------

TEST_CASE("wireguard: only an authentic message moves the endpoint") {
  wireguard_side a, b;
  REQUIRE(wireguard_connect(a, b));
  REQUIRE(b.table->set_endpoint(100, wireguard_from(0x01010101)));
  CHECK_FALSE(b.table->set_endpoint(99, wireguard_from(0x01010101)));
  const std::vector<uint8_t> first = wireguard_sealed(a, a.sending(), 40), forged = [&] { auto m = first; m.back() ^= 1; return m; }();
  uint32_t version, later;
  b.peer().endpoint.load(&version);
  wireguard_open(b, forged, now, wireguard_from(0x02020202));
  CHECK(b.peer().endpoint.equals(wireguard_from(0x01010101)));
  CHECK(wireguard_open(b, first, now, wireguard_from(0x01010101)).item.reason == SL_DROP_NONE);
  b.peer().endpoint.load(&later);
  CHECK(later == version);
  CHECK(b.events().size() == 1);  // confirmed, not roamed
  // Address, port, or our own address: each is another way.
  sl_wireguard_endpoint other = wireguard_from(0x01010101);
  for (unsigned what = 0; what < 3; ++what) {
    if (what == 0) other.address = wireguard_ipv4(0x03030303);
    if (what == 1) other.port = 4000;
    if (what == 2) other.local = wireguard_ipv4(0x04040404);
    CHECK(wireguard_open(b, wireguard_sealed(a, a.sending(), 40), now, other).item.reason == SL_DROP_NONE);
    CHECK(b.peer().endpoint.equals(other));
    const auto events = b.events();
    REQUIRE(events.size() == 1);
    CHECK(events[0].first.event == SL_WIREGUARD_ROAMED);
    CHECK(std::memcmp(&events[0].first.from, &other, sizeof other) == 0);
  }
  wireguard_open(b, first, now, wireguard_from(0x05050505));  // a replay moves nothing
  CHECK(b.peer().endpoint.equals(other));
}

TEST_CASE("wireguard: readers see whole endpoints while others write") {
  shared_endpoint e;
  std::atomic<bool> stop{false};
  std::atomic<unsigned> torn{0}, reads{0};
  e.store(wireguard_from(1, 1));
  std::thread reader([&] {
    while (!stop.load()) {
      const sl_wireguard_endpoint there = e.load();
      torn += static_cast<uint16_t>(load32(there.address.bytes + 12)) != there.port;
      ++reads;
    }
  });
  while (reads.load() == 0) std::this_thread::yield();
  std::vector<std::thread> writers;
  for (unsigned t = 0; t < 2; ++t)
    writers.emplace_back([&, t] { for (uint32_t i = 0; i < 400'000; ++i) e.store(wireguard_from(i * 2 + t, static_cast<uint16_t>(i * 2 + t))); });
  for (std::thread& t : writers) t.join();
  stop.store(true);
  reader.join();
  CHECK(torn.load() == 0);
}

TEST_CASE("wireguard: a session is asked for once a second") {
  wireguard_side a(1, 2);
  unsigned told = 0;
  a.table->on_event = [&] { ++told; };
  for (uint64_t ms = 0; ms < 2500; ++ms) a.table->wanted(0, a.peer(), now + ms * 1'000'000);
  a.table->wanted(0, a.peer(101), now);
  const auto events = a.events();
  REQUIRE(events.size() == 4);
  for (const auto& [record, message] : events) {
    CHECK(record.event == SL_WIREGUARD_WANTED);
    CHECK(record.record_bytes == sizeof record);
    CHECK(message.empty());
  }
  CHECK(std::count_if(events.begin(), events.end(), [](const auto& e) { return e.first.peer_id == 100; }) == 3);
  CHECK(told == 1);  // nobody looked in between
  a.table->wanted(0, a.peer(), now + 10 * second);
  CHECK(told == 2);
}

TEST_CASE("wireguard: events that nobody takes are counted, and a small buffer takes whole ones") {
  wireguard_side a;
  for (unsigned i = 0; i < 1030; ++i) a.table->wanted(0, a.peer(), now + i * second);
  CHECK(a.table->events_lost() == 6);
  std::vector<uint8_t> small(sizeof(sl_wireguard_event_record) * 3 + 10);
  CHECK(a.table->events(small.data(), small.size()) == sizeof(sl_wireguard_event_record) * 3);
  CHECK(a.table->events(small.data(), 10) == 0);
  CHECK(a.events().size() == 1021);
}

// ---- several workers ---------------------------------------------------------------------------------------------------------------------

TEST_CASE("wireguard: workers share a session: each counter is sent once, each message opens once") {
  constexpr unsigned workers = 3, batches = 60, batch = 40, bytes = 64;
  wireguard_side a(workers), b(workers);
  REQUIRE(wireguard_connect(a, b));
  wireguard_session* const s = a.sending();
  std::vector<std::vector<std::vector<uint8_t>>> sealed(workers);
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      for (unsigned i = 0; i < batches; ++i) {
        std::vector<wireguard_buffer> buffers(batch, wireguard_buffer(bytes, static_cast<uint8_t>(w)));
        std::vector<seal_item> seal;
        for (auto& buffer : buffers) seal.push_back(buffer.sealing(s));
        a.table->seal(w, seal, now);
        for (const seal_item& item : seal) sealed[w].emplace_back(item.message, item.message + item.message_bytes);
      }
    });
  for (std::thread& t : threads) t.join();
  threads.clear();
  std::set<uint64_t> counters;
  std::vector<std::vector<uint8_t>> everything;
  for (const auto& of_worker : sealed)
    for (const auto& m : of_worker) {
      counters.insert(load64_raw(m.data() + 8));
      everything.push_back(m);
    }
  REQUIRE(counters.size() == workers * batches * batch);
  REQUIRE(counters.size() < replay_window);
  CHECK(*counters.rbegin() == counters.size() - 1);

  // Each worker gets all of them, in an order of its own.
  std::atomic<unsigned> opened{0}, replayed{0}, other{0}, confirmed{0};
  for (unsigned w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      std::vector<std::vector<uint8_t>> mine = everything;
      std::shuffle(mine.begin(), mine.end(), std::mt19937(w));
      for (size_t at = 0; at < mine.size(); at += batch) {
        std::vector<open_item> open;
        for (size_t i = at; i < std::min(mine.size(), at + batch); ++i)
          open.push_back({mine[i].data(), static_cast<uint32_t>(mine[i].size()), wireguard_from(1), SL_DROP_NONE, nullptr, 0, nullptr, false});
        b.table->open(w, open, now);
        for (const open_item& o : open) {
          if (o.reason == SL_DROP_NONE) ++opened;
          else if (o.reason == SL_DROP_WIREGUARD_REPLAY) ++replayed;
          else ++other;
          confirmed += o.confirmed;
        }
        b.epoch.quiescent(w);
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(opened.load() == everything.size());
  CHECK(replayed.load() == (workers - 1) * everything.size());
  CHECK(other.load() == 0);
  CHECK(confirmed.load() == 1);
  CHECK(b.table->records()[0].rx_packets == everything.size());
}

TEST_CASE("wireguard: sessions come and go under workers that seal and open") {
  constexpr unsigned workers = 2;
  wireguard_side a(workers), b(workers);
  REQUIRE(wireguard_connect(a, b));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> opened{0}, failed{0}, rounds[workers]{};
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      while (!stop.load()) {
        std::vector<wireguard_buffer> buffers(8, wireguard_buffer(100));
        std::vector<seal_item> seal;
        for (auto& buffer : buffers) seal.push_back(buffer.sealing(a.peer().sending(now)));
        a.table->seal(w, seal, now);
        std::vector<open_item> open;
        for (const seal_item& item : seal) open.push_back({item.message, item.message_bytes, wireguard_from(1), SL_DROP_NONE, nullptr, 0, nullptr, false});
        b.table->open(w, open, now);
        // A worker that was held up finds its messages behind the window: the others went on.
        for (const open_item& o : open) {
          if (o.reason == SL_DROP_NONE) ++opened;
          else if (o.reason != SL_DROP_WIREGUARD_REPLAY) ++failed;
        }
        a.epoch.quiescent(w);
        b.epoch.quiescent(w);
        ++rounds[w];
      }
      a.epoch.sleep(w);
      b.epoch.sleep(w);
    });
  // The main thread rekeys. No worker is more than two rekeys behind with what it holds sealed: so long a session is received with.
  unsigned refused = 0;
  for (unsigned rekeys = 0; rekeys < 300; ++rekeys) {
    const uint64_t before[workers] = {rounds[0].load(), rounds[1].load()};
    refused += !wireguard_connect(a, b, static_cast<uint8_t>(rekeys));
    for (unsigned w = 0; w < workers; ++w)
      while (rounds[w].load() < before[w] + 1) std::this_thread::yield();
    b.events();
  }
  stop.store(true);
  for (std::thread& t : threads) t.join();
  CHECK(refused == 0);
  CHECK(failed.load() == 0);
  CHECK(opened.load() > 0);
}

}  // namespace
}  // namespace sluice
