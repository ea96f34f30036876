// SPDX-License-Identifier: Apache-2.0
// inherit_test.cc: an engine that dies at any instruction. A child process with threads opens, translates and ends sessions in memory
// that it shares with the test, and is killed; the next table and the next NAT mappings are opened over what it left, again and again.
// Nothing that was whole may be missing, nothing that was not may be found, no port may be given out twice.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <thread>

#include "flow/table.h"
#include "flow_check.h"
#include "nat/mapping.h"
#include "packets.h"

namespace sluice {
namespace {

using namespace testing;

constexpr uint32_t capacity = 4096;
constexpr unsigned child_threads = 2, kills = 60;

// What the child has finished, written after or before it did it: the test knows what must be there.
enum step : uint8_t { nothing = 0, inserting = 1, whole = 2, removing = 3 };

struct shared_memory {
  struct mapped { void* at; size_t bytes; };
  std::vector<std::pair<std::string, mapped>> parts;
  std::atomic<uint8_t>* steps;  // a session index
  shared_memory() { steps = static_cast<std::atomic<uint8_t>*>(take("steps", capacity)); }
  ~shared_memory() { for (auto& [name, part] : parts) munmap(part.at, part.bytes); }
  void* take(const std::string& name, size_t bytes) {
    for (auto& [known, part] : parts) if (known == name) return part.at;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    parts.push_back({name, {at, bytes}});
    return at;
  }
  std::unique_ptr<flow_memory> open(uint32_t sessions = capacity) {
    std::string error;
    auto m = flow_memory::of_maps(sessions, [&](const char* name, size_t bytes, std::string*) { return take(name, bytes); }, &error);
    REQUIRE_MESSAGE(m, error);
    return m;
  }
};

struct life {
  std::unique_ptr<flow_memory> memory;
  epochs epoch;
  session_table table;
  mapping_table mappings;
  std::shared_ptr<nat_pool> pool;
  uint32_t lost_mappings = 0;
  // As engine::open and engine::inherit do it.
  explicit life(shared_memory& shared) : memory(shared.open()) {
    epoch.set_workers(child_threads);
    table.open(*memory, child_threads, &epoch);
    mappings.open(memory->mappings, capacity, memory->header->seed);
    pool = std::make_shared<nat_pool>(sl_nat_address{address_of("203.0.113.5"), 10000, 12999, SL_NAT_SLOT_NONE, 0}, child_threads, 120, nullptr);
    if (!memory->inherited) return;
    mappings.inherit({pool});
    for (uint32_t i = 0; i < table.high_water(); ++i) {
      session& s = table.at(i);
      if (!s.live.load() || s.mapping == mapping_none || mappings.inherit_reference(s.mapping)) continue;
      ++lost_mappings;
      s.flags.fetch_or(session_ended);
      table.remove(0, i);
    }
    mappings.inherited(100);
  }
};

// One worker of the child, until it is killed.
[[noreturn]] void work(life& l, shared_memory& shared, unsigned worker, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> mine;
  for (uint32_t n = 0;; ++n) {
    l.epoch.quiescent(worker);
    l.table.reclaim(worker);
    if (mine.size() < 700 && random() % 3) {
      const uint32_t index = l.table.allocate(worker);
      if (index == session_none) continue;
      session& s = l.table.at(index);
      shared.steps[index].store(inserting);
      s.key0.src = address_of(worker ? "10.0.1.11" : "10.0.1.10");
      s.key0.dst = address_of("198.51.100.10");
      // Few inside endpoints: sessions share mappings; each session is another by its destination port.
      s.key0.src_port = static_cast<uint16_t>(1000 + random() % 64);
      s.key0.dst_port = static_cast<uint16_t>(random());
      s.key0.protocol = protocol_udp;
      s.key1 = reversed(s.key0);
      s.mapping = mapping_none;
      s.state.store(SL_STATE_ESTABLISHED);
      if (random() & 1) {
        s.mapping = l.mappings.acquire_inside(s.key0.src, s.key0.src_port, protocol_udp, [](const mapping&) { return true; });
        if (s.mapping == mapping_none) {
          if (auto port = l.pool->allocate(worker, 1, 100, s.key0.src_port)) {
            s.mapping = l.mappings.create(s.key0.src, s.key0.src_port, protocol_udp, l.pool, *port, SL_FILTERING_ENDPOINT, true, 1);
            if (s.mapping == mapping_none) l.pool->release(1, *port, 100, true);
          }
        }
        if (s.mapping != mapping_none) {
          s.key1.dst = l.mappings.at(s.mapping).outside;
          s.key1.dst_port = l.mappings.at(s.mapping).outside_port;
        }
      }
      const uint32_t held = s.mapping;
      if (l.table.insert(index) != session_table::insert_result::inserted) {
        s.mapping = mapping_none;
        shared.steps[index].store(nothing);
        l.table.discard(worker, index);
        if (held != mapping_none) l.mappings.release(held, 100, false);
        continue;
      }
      l.table.deadline(index) = 1;
      if (random() & 1) s.offload.store(SL_OFFLOAD_ON);
      shared.steps[index].store(whole);
      mine.push_back(index);
    } else if (!mine.empty()) {
      const size_t at = random() % mine.size();
      const uint32_t index = mine[at];
      mine[at] = mine.back();
      mine.pop_back();
      session& s = l.table.at(index);
      shared.steps[index].store(removing);
      s.flags.fetch_or(session_ended);
      const uint32_t held = s.mapping;
      l.table.remove(worker, index);
      if (held != mapping_none) l.mappings.release(held, 100, false);
      shared.steps[index].store(nothing);
    }
  }
}

uint32_t run_and_kill(shared_memory& shared, uint32_t round) {
  int ready[2];
  REQUIRE(pipe(ready) == 0);
  shared.open();  // mapped before the fork, or each would have its own
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    life l(shared);
    std::thread second([&] { work(l, shared, 1, round * 2 + 1); });
    (void)!write(ready[1], "r", 1);
    work(l, shared, 0, round * 2);
  }
  char c;
  REQUIRE(read(ready[0], &c, 1) == 1);
  close(ready[0]);
  close(ready[1]);
  usleep(200 + (round * 7919u) % 6000);
  REQUIRE(kill(child, SIGKILL) == 0);
  int status;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  uint32_t wholes = 0;
  for (uint32_t i = 0; i < capacity; ++i) wholes += shared.steps[i].load() == whole;
  return wholes;
}

TEST_CASE("inherit: killed at any instruction, nothing whole is missing and nothing half is found") {
  shared_memory shared;
  uint32_t total = 0, largest = 0, interrupted = 0;
  for (uint32_t round = 0; round < kills; ++round) {
    const uint32_t wholes = run_and_kill(shared, round);
    total += wholes;
    for (uint32_t i = 0; i < capacity; ++i) interrupted += shared.steps[i].load() == inserting || shared.steps[i].load() == removing;
    life next(shared);
    INFO("round ", round);
    REQUIRE(next.memory->inherited);
    REQUIRE(flow_memory_fault(*next.memory) == "");
    REQUIRE(mapping_fault(*next.memory) == "");
    REQUIRE(next.lost_mappings == 0);
    uint32_t live = 0;
    for (uint32_t i = 0; i < capacity; ++i) {
      const session& s = next.table.at(i);
      live += s.live.load();
      if (shared.steps[i].load() == whole) {
        REQUIRE(s.live.load() == 1);
        for (unsigned direction = 0; direction < 2; ++direction) {
          session_ref r;
          REQUIRE(next.table.find(s.key(direction), next.table.hash_of(s.key(direction)), &r));
          REQUIRE(r.index == i);
          REQUIRE(r.direction == direction);
        }
        if (s.mapping != mapping_none) {
          REQUIRE(next.pool->space(1).is_in_use(s.key1.dst_port));
          REQUIRE(next.mappings.acquire_outside(s.key1.dst, s.key1.dst_port, protocol_udp) == s.mapping);
          next.mappings.release(s.mapping, 100, false);
        }
      } else if (shared.steps[i].load() == nothing) {
        REQUIRE(s.live.load() == 0);
      }
      // The next child works on with what is there.
      shared.steps[i].store(s.live.load() ? whole : nothing);
    }
    REQUIRE(live == next.table.inherited());
    largest = std::max(largest, live);
    REQUIRE(next.table.live() == live);
    // Ports: exactly those of live mappings.
    REQUIRE(next.pool->space(1).in_use() == next.mappings.live());
    // Room again, so that each child has work to do.
    if (live > capacity / 2) {
      for (uint32_t i = 0; i < capacity; ++i) {
        session& s = next.table.at(i);
        if (!s.live.load()) continue;
        s.flags.fetch_or(session_ended);
        const uint32_t held = s.mapping;
        next.table.remove(0, i);
        if (held != mapping_none) next.mappings.release(held, 100, false);
        shared.steps[i].store(nothing);
      }
      REQUIRE(next.mappings.live() == 0);
      REQUIRE(flow_memory_fault(*next.memory) == "");
    }
  }
  MESSAGE(kills, " kills, ", total, " whole sessions found again, ", largest, " at most at a time, ", interrupted, " changes interrupted");
  CHECK(total > kills);
}

TEST_CASE("inherit: what was half done is mended") {
  shared_memory shared;
  uint32_t indices[6];
  {
    life l(shared);
    for (uint32_t n = 0; n < 6; ++n) {
      indices[n] = l.table.allocate(0);
      session& s = l.table.at(indices[n]);
      s.key0.src = address_of("2001:db8::1");
      s.key0.dst = address_of("2001:db8::2");
      s.key0.src_port = static_cast<uint16_t>(n);
      s.key0.protocol = protocol_tcp;
      s.key1 = reversed(s.key0);
      s.mapping = mapping_none;
      REQUIRE(l.table.insert(indices[n]) == session_table::insert_result::inserted);
      s.offload.store(SL_OFFLOAD_ON);
    }
    flow_memory& m = *l.memory;
    REQUIRE(flow_memory_fault(m) == "");
    auto forget = [&](uint32_t reference) {
      for (uint64_t i = 0; i <= m.header->bucket_mask; ++i)
        for (unsigned slot = 0; slot < SL_FLOW_BUCKET_SLOTS; ++slot)
          if (m.buckets[i].tag[slot] && m.buckets[i].reference[slot] == reference) { m.buckets[i].tag[slot] = 0; return; }
      FAIL("no such reference");
    };
    m.sessions[indices[1]].live.store(0);                                       // died before the last step of an insertion
    m.sessions[indices[2]].live.store(0), forget(indices[2] << 1);              // in the middle of a removal
    m.sessions[indices[3]].flags.fetch_or(session_ended);                       // before the first step of one
    forget(indices[4] << 1 | 1);                                                // cannot happen; is mended
    m.buckets[7].lock = 1;                                                      // inside a bucket
    REQUIRE(flow_memory_fault(m) != "");
  }
  life next(shared);
  CHECK(flow_memory_fault(*next.memory) == "");
  CHECK(next.table.inherited() == 3);
  for (uint32_t n = 0; n < 6; ++n) {
    CAPTURE(n);
    session& s = next.table.at(indices[n]);
    const bool stays = n == 0 || n == 4 || n == 5;
    CHECK(s.live.load() == stays);
    CHECK(s.offload.load() == (stays ? SL_OFFLOAD_ON : SL_OFFLOAD_NOT_YET));
    session_ref r;
    CHECK(next.table.find(s.key0, next.table.hash_of(s.key0), &r) == stays);
    CHECK(next.table.find(s.key1, next.table.hash_of(s.key1), &r) == stays);
  }
}

TEST_CASE("inherit: memory of another size or version is not taken for ours") {
  shared_memory shared;
  CHECK_FALSE(shared.open()->inherited);
  CHECK(shared.open()->inherited);
  auto m = shared.open();
  m->header->version = SL_FLOW_MEMORY_VERSION + 1;
  CHECK_FALSE(shared.open()->inherited);
}

TEST_CASE("inherit: a mapping whose address is gone is void, and its session is said to be") {
  shared_memory shared;
  {
    life l(shared);
    const uint32_t index = l.table.allocate(0);
    session& s = l.table.at(index);
    s.key0.src = address_of("10.0.1.10");
    s.key0.dst = address_of("198.51.100.10");
    s.key0.protocol = protocol_udp;
    s.key1 = reversed(s.key0);
    auto elsewhere = std::make_shared<nat_pool>(sl_nat_address{address_of("203.0.113.99"), 10000, 10999, SL_NAT_SLOT_NONE, 0}, child_threads, 120, nullptr);
    s.mapping = l.mappings.create(s.key0.src, 1, protocol_udp, elsewhere, 10001, SL_FILTERING_ENDPOINT, true, 1);
    s.key1.dst = address_of("203.0.113.99");
    s.key1.dst_port = 10001;
    REQUIRE(l.table.insert(index) == session_table::insert_result::inserted);
  }
  life next(shared);
  CHECK(next.lost_mappings == 1);
  CHECK(next.mappings.live() == 0);
  CHECK(flow_memory_fault(*next.memory) == "");
}

}  // namespace
}  // namespace sluice
