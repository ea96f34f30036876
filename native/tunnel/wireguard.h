// SPDX-License-Identifier: Apache-2.0
// wireguard.h: WireGuard's transport: peers, their sessions, and messages sealed and opened in place. No sockets and no pipeline in here:
// the pipeline hands in runs of buffers, handshakes are TypeScript's (src/wireguard), which installs the keys it made.
//
// The way of a packet out: routes.peer_of(destination) → peer(slot) → sending(now) → seal(). In: routes.listening(port) →
//   type 4: open() (index → session → replay check → AEAD → replay update → confirm, roam, count) → routes.peer_of(source) == slot.
//   others: handshake() (handshake_gate.h) → an event for TypeScript, or an answer to send, or nothing.
//
// Threads: "main" calls come from one thread (Node's main thread); "worker" calls from any worker between two quiescent points, with its
//   number. The main thread, too, seals and opens: its number is main_worker(). It holds no reference over a call that reclaims (install,
//   forget, apply, records).
// Ownership: a peer lives from the apply() that names it to the one that does not, a session until it is displaced or forgotten; their
//   memory is freed, keys wiped, when each worker has passed a quiescent point since (epochs). Pointers hold until the worker's next one.
// Errors: bool or null and a text from main calls; workers get an SL_DROP_* reason.
// Sources: the WireGuard whitepaper (sections 5.4 and 6); names of limits are its own.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi/dataplane.h"
#include "counters.h"
#include "flow/table.h"
#include "tunnel/replay.h"
#include "tunnel/shared_endpoint.h"
#include "tunnel/wireguard_routes.h"

namespace sluice {

struct snapshot;
class aead;
class handshake_gate;
class wireguard_table;
struct wireguard_peer;

// ---- messages, section 5.4: type in the first byte, three zero bytes, all numbers little-endian ----------------------------------------

enum wireguard_type : uint8_t { wireguard_initiation = 1, wireguard_response = 2, wireguard_cookie = 3, wireguard_transport = 4 };
inline constexpr unsigned wireguard_header_bytes = 16;  // type 4: type, receiver index, counter
inline constexpr unsigned wireguard_tag_bytes = 16;
inline constexpr unsigned wireguard_overhead_bytes = wireguard_header_bytes + wireguard_tag_bytes;
inline constexpr unsigned wireguard_padding_bytes = 16;
inline constexpr unsigned wireguard_initiation_bytes = 148, wireguard_response_bytes = 92, wireguard_cookie_bytes = 64;
inline constexpr unsigned wireguard_handshake_bytes_max = wireguard_initiation_bytes;

// ---- limits, section 6.1 ---------------------------------------------------------------------------------------------------------------

inline constexpr uint64_t wireguard_reject_after_ns = 180'000'000'000;           // REJECT_AFTER_TIME
inline constexpr uint64_t wireguard_reject_after_messages = UINT64_MAX - (1u << 13);  // 2^64 - 2^13 - 1: the first counter that is not sent
inline constexpr uint64_t wireguard_wanted_interval_ns = 1'000'000'000;          // one WANTED event a peer
inline constexpr uint64_t wireguard_quoted_messages = 1u << 16;                  // who quotes a message of ours quotes one of the last ones
inline constexpr unsigned wireguard_batch_max = 64;                              // messages of one peer that take their counters at once
static_assert(workers_max * wireguard_batch_max < 1u << 13, "all workers at once cannot pass the counter's end");

// How long a packet is when it is sealed: padded to 16, but not above the tunnel's MTU. A longer one stays as it is.
constexpr uint32_t wireguard_padded(uint32_t length, uint32_t mtu_bytes) {
  const uint32_t padded = (length + wireguard_padding_bytes - 1) / wireguard_padding_bytes * wireguard_padding_bytes;
  return padded <= mtu_bytes ? padded : length > mtu_bytes ? length : mtu_bytes;
}

// ---- sessions --------------------------------------------------------------------------------------------------------------------------

// A session's keys and counters. Everything but the two atomics is written before anybody finds it.
struct wireguard_session {
  wireguard_peer* peer = nullptr;
  uint32_t local_index = 0, remote_index = 0;
  uint64_t created_ns = 0;
  bool initiator = false;
  uint8_t send_key[32], receive_key[32];
  alignas(64) std::atomic<uint64_t> send_counter{0};  // messages sent: the next one's counter
  alignas(64) replay_filter received;

  // May a message be sent with it? Then its counter is taken by seal(), which can still fail.
  bool usable(uint64_t now_ns) const { return !expired(now_ns) && send_counter.load(std::memory_order_relaxed) < wireguard_reject_after_messages; }
  // Clocks of workers differ by microseconds: a session may be from the future.
  bool expired(uint64_t now_ns) const { return now_ns >= created_ns + wireguard_reject_after_ns; }
  ~wireguard_session();  // wipes the keys
};

struct alignas(64) wireguard_peer {
  uint32_t id = 0, interface_id = 0, slot = 0;

  // The session to send with, or nullptr: none, or none that may be used any more. Workers.
  wireguard_session* sending(uint64_t now_ns) const {
    wireguard_session* s = current.load(std::memory_order_acquire);
    return s && s->usable(now_ns) ? s : nullptr;
  }
  // A message that is no transport message (a handshake) was sent to the peer: for the transfer counters alone. Any thread.
  void count_sent(uint32_t bytes) { tx_packets.fetch_add(1, std::memory_order_relaxed); tx_bytes.fetch_add(bytes, std::memory_order_relaxed); }

  shared_endpoint endpoint;
  std::atomic<uint32_t> waiting{0};           // packets held for a session; the pipeline counts
  std::atomic<uint64_t> wanted_ns{0};         // last WANTED event

  // Which session is which changes under `mutex`; section 6.3 and wireguard_sessions.cc. All are found by their index as long as they stand here.
  std::mutex mutex;
  std::atomic<wireguard_session*> current{nullptr}, previous{nullptr}, next{nullptr};
  std::atomic<wireguard_session*> older{nullptr};  // displaced by handshakes of both sides at once: its last messages are still on their way

  // Times: CLOCK_MONOTONIC in ns, 0: never. Written once a run of messages.
  alignas(64) std::atomic<uint64_t> last_sent_ns{0}, last_data_sent_ns{0}, tx_packets{0}, tx_bytes{0};
  alignas(64) std::atomic<uint64_t> last_received_ns{0}, last_data_received_ns{0}, rx_packets{0}, rx_bytes{0};
};

// ---- what workers hand in --------------------------------------------------------------------------------------------------------------

// A packet to encrypt, in place. 16 bytes before `packet` are overwritten by the header; behind it there is room for wireguard_padding_bytes - 1
// and the tag. An empty packet makes a keepalive.
struct seal_item {
  uint8_t* packet;             // the inner IP packet
  uint32_t length;             // its bytes
  uint32_t mtu_bytes;          // the tunnel's: padding does not go beyond
  wireguard_session* session;  // of peer->sending()
  // Result: the message, and its bytes (0: not sealed, WIREGUARD_NO_SESSION: the session's counter is used up).
  uint8_t* message;
  uint32_t message_bytes;
};

// A transport message to decrypt, in place.
struct open_item {
  uint8_t* message;            // UDP payload, which begins with type 4
  uint32_t length;             // its bytes
  sl_wireguard_endpoint from;  // where it came from, and `local`: the address it came to. The peer's endpoint becomes this when it is authentic
  // Result. reason SL_DROP_NONE: the inner packet stands at `packet`, in place; `packet_bytes` with padding; 0: a keepalive, which ends here.
  sl_drop_reason reason;
  uint8_t* packet;
  uint32_t packet_bytes;
  wireguard_peer* peer;
  bool confirmed;              // this message made the session the current one: packets that wait for the peer can go
};

// What became of a handshake message.
struct handshake_verdict {
  sl_drop_reason reason = SL_DROP_NONE;  // NONE: TypeScript has it; otherwise to be dropped
  bool answer = false;                   // send `reply` (wireguard_cookie_bytes) back to where it came from; it is dropped all the same
};

// ---- the table -------------------------------------------------------------------------------------------------------------------------

class wireguard_table {
 public:
  // Nullptr and a text when the AEAD does not pass its own test on this machine. epochs outlives the table and has its workers set.
  static std::unique_ptr<wireguard_table> open(unsigned workers, epochs* epochs, std::string* error);
  ~wireguard_table();  // no worker runs any more
  wireguard_table(const wireguard_table&) = delete;

  unsigned main_worker() const { return workers_; }
  // A snapshot's peers can all be others than those of the one before; the slots of the one before that may still rest.
  static constexpr uint32_t slots_max = 3 * SL_WIREGUARD_PEERS_MAX;

  // ---- main thread
  // Binds a compiled snapshot before it is published: peers that it names for the first time get a slot, those that it does not name end,
  // with their sessions (peer() of their slot is null from here on; the slot is given away again only when the snapshot before is out of use).
  // The result belongs to the snapshot. Nullptr and a text when allowed IPs are no prefixes.
  std::unique_ptr<const wireguard_routes> apply(const snapshot& snap, std::string* error);
  // A fresh index for a handshake that begins; 0: none is left. One that is not installed within REJECT_AFTER_TIME is void.
  uint32_t index(uint64_t now_ns);
  // Takes over a session and wipes *keypair, also when it is refused: unknown peer, or an index that is not out.
  bool install(sl_wireguard_keypair* keypair, uint64_t now_ns, std::string* error);
  // Ends all sessions of a peer. False: unknown.
  bool forget(uint32_t peer_id);
  bool set_endpoint(uint32_t peer_id, const sl_wireguard_endpoint& endpoint);
  // Static keys that an interface answers to, at most two; `key` of an event is the place in this list. None: every handshake message is dropped.
  bool set_gate(uint32_t interface_id, std::span<const sl_wireguard_gate_key> keys, std::string* error);
  // Whole sl_wireguard_event_record with their messages into `into`; returns bytes. Call again until it returns 0. A worker's notices come before
  // its messages, each in their order.
  size_t events(uint8_t* into, size_t bytes);
  std::vector<sl_wireguard_peer_record> records();
  uint32_t slot_of(uint32_t peer_id) const;  // wireguard_peer_none: unknown
  uint64_t events_lost() const;
  // Set before workers start: called, by any thread, when there is something for events() and nobody was told since the last call of it.
  std::function<void()> on_event;

  // ---- workers, and the main thread as main_worker()
  wireguard_peer* peer(uint32_t slot) const { return slot < slots_max ? peers_[slot].load(std::memory_order_acquire) : nullptr; }
  // Encrypts in the order given; items of one session that follow one another are cheapest. Counts, and notes the times.
  void seal(unsigned worker, std::span<seal_item> items, uint64_t now_ns);
  // Decrypts in the order given.
  void open(unsigned worker, std::span<open_item> items, uint64_t now_ns);
  // A message of type 1 to 3, or of none: length, mac1, cookie, source's rate (handshake_gate.h). Passed ones become MESSAGE events.
  handshake_verdict handshake(unsigned worker, const wireguard_routes::tunnel& tunnel, const uint8_t* message, uint32_t length,
                              const sl_wireguard_endpoint& from, uint64_t now_ns, uint8_t reply[wireguard_cookie_bytes]);
  // Packets wait for a session with this peer: an event, at most one a second.
  void wanted(unsigned worker, wireguard_peer& peer, uint64_t now_ns);
  // The peer at an endpoint to which a message of ours went lately: `message` is its beginning, wireguard_header_bytes of it, as somebody quotes
  // it. nullptr: none did. It looks at each peer.
  wireguard_peer* sent_to(const sl_address& address, uint16_t port, const uint8_t* message) const;

 private:
  struct worker_part;
  // Two rings a worker, so that no flood of messages takes the room of what is told about peers. TypeScript does some hundred handshakes a second.
  static constexpr uint32_t ring_records = 1024;
  struct message_event { sl_wireguard_event_record record; uint8_t message[(wireguard_handshake_bytes_max + 7) / 8 * 8]; };
  using message_ring = record_ring<message_event, ring_records>;
  using notice_ring = record_ring<sl_wireguard_event_record, ring_records>;

  // The low bits of an index say where its session stands, the others make it a new one each time.
  static constexpr uint32_t index_bits = 17;
  static constexpr uint32_t index_places = 1u << index_bits;
  static_assert(index_places >= 2 * 4 * SL_WIREGUARD_PEERS_MAX, "four sessions a peer, and as many handshakes on their way");
  struct index_place {
    std::atomic<wireguard_session*> session{nullptr};
    std::atomic<uint32_t> out{0};  // given out by index(), not installed yet
    uint32_t last = 0;             // the index that stood here last; main thread
  };
  struct issued { uint32_t index; uint64_t until_ns; };
  struct retired { wireguard_session* session; wireguard_peer* peer; uint64_t epoch; };

  static constexpr uint64_t installed_ahead_ns = 1'000'000'000;  // clocks are read at different moments
  static constexpr unsigned gate_keys_max = 2;

  wireguard_table(unsigned workers, epochs* epochs);
  uint32_t place_peer(uint32_t id, uint32_t interface_id);
  void remove_peer(uint32_t slot);
  wireguard_peer* peer_of(uint32_t peer_id) const;
  wireguard_session* session_of(uint32_t index) const {
    wireguard_session* const s = places_[index & (index_places - 1)].session.load(std::memory_order_acquire);
    return s && s->local_index == index ? s : nullptr;
  }
  bool index_is_out(uint32_t index) const { return index != 0 && places_[index & (index_places - 1)].out.load(std::memory_order_relaxed) == index; }
  bool confirm(wireguard_session& s);
  void displace(wireguard_peer& peer, wireguard_session* s);
  void end_sessions(wireguard_peer& peer);
  void retire(wireguard_session* s);
  void retire(wireguard_peer* p);
  void reclaim();
  void free_retired(const retired& r);
  void tell();
  void notice(unsigned worker, sl_wireguard_event what, const wireguard_peer& peer, const sl_wireguard_endpoint& from, uint64_t now_ns);
  void seal_run(aead& cipher, wireguard_session& s, std::span<seal_item> items, uint64_t now_ns);
  void open_batch(unsigned worker, std::span<open_item> items, uint64_t now_ns);

  const unsigned workers_;
  epochs* const epochs_;
  std::unique_ptr<std::atomic<wireguard_peer*>[]> peers_;  // by slot
  std::atomic<uint32_t> next_slot_{0};                     // written by the main thread
  std::unique_ptr<index_place[]> places_;
  std::unique_ptr<handshake_gate> gate_;
  std::vector<std::unique_ptr<worker_part>> parts_;        // a worker's cipher and events; the last one is the main thread's
  std::atomic<bool> told_{false};                          // on_event was called, events() was not yet

  // Main thread alone.
  std::unordered_map<uint32_t, uint32_t> slots_;           // peer id → slot
  std::vector<uint32_t> free_slots_;
  struct limbo { uint32_t slot; uint64_t epoch; };         // epoch 0: the snapshot that named it may still be in force
  std::vector<limbo> limbo_slots_;
  size_t events_first_ = 0;                                // the worker whose events are taken first
  std::deque<uint32_t> free_places_;
  std::deque<issued> issued_;
  uint32_t next_place_ = 0;

  std::mutex retired_mutex_;
  std::vector<retired> retired_;
};

}  // namespace sluice
