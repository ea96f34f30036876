// SPDX-License-Identifier: Apache-2.0
/*
 * steer: loads the steering program (bpf/steer.bpf.c), attaches it to netdevs and writes its maps.
 *
 * Who calls it: `engine`, from its one thread; set_xsk and clear_xsk also from a worker's thread while that thread runs
 * the engine's task. nat_port_words() and engine_port_words() are memory shared with the program: any thread, atomic operations.
 *
 * Pins, in a directory on a bpffs: `link-IFNAME` keeps the program attached when this process dies, so that a dead
 * engine means closed. The next engine finds the link and exchanges the program in it, atomically: there is no moment
 * without one. `map-NAME` are flow memory and all else that both sides know, taken over when it fits; those of a version that called them
 * otherwise go. `program-HASH` is the program itself, by its object's SHA-256: the same one need not pass the verifier again, for which
 * packets would wait. Without a pin directory everything ends with the object.
 *
 * Errors: false or nullptr and a text that says what was wrong and what to do.
 */
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "abi/dataplane.h"

struct bpf_object;

namespace sluice {

struct flow_sizes;

enum class xdp_mode { native, generic };

class steering {
 public:
  // sessions: how many flow memory holds. Maps that an earlier engine pinned are taken over, with all that is in them, when
  // each has the shape that this program wants; else all are made anew.
  static std::unique_ptr<steering> open(const std::string& object_path, const std::string& pin_directory, uint32_t sessions, std::string* error);
  ~steering();
  steering(const steering&) = delete;
  steering& operator=(const steering&) = delete;

  // Attaches to a netdev, or takes over the link that an earlier engine pinned. *mode: wanted, then what it became;
  // *warning: why it became generic. A foreign program on the netdev is refused by its name.
  bool attach(uint32_t ifindex, const std::string& name, unsigned slot, xdp_mode* mode, std::string* warning, std::string* error);
  // Detaches and unpins; the netdev's own traffic then reaches the host unsteered.
  void detach(unsigned slot);

  // Makes a netdev known, unless it is already in this slot: then what an earlier engine said of it stays in force.
  bool add_port(uint32_t ifindex, uint16_t slot, std::string* error);
  // flags: SL_STEER_PORT_*; interface: slot of the interface that takes untagged frames.
  bool set_port(uint32_t ifindex, uint16_t slot, uint16_t flags, uint16_t interface = 0);
  // The VLAN ids of a netdev with the slots of their interfaces, all of them: others are removed.
  bool set_vlans(uint32_t ifindex, const std::vector<std::pair<uint16_t, uint16_t>>& vlans);
  bool set_xsk(unsigned slot, unsigned queue, int fd, std::string* error);
  void clear_xsk(unsigned slot, unsigned queue);
  // The appliance's addresses, all of them: what is gone is removed first, so that a full list can follow a full one.
  // An address in both lists is never missing in between. At most SL_LOCAL_ADDRESSES_MAX.
  bool set_local_addresses(const std::vector<std::pair<sl_address, sl_local_address>>& addresses, std::string* error);
  // SL_NAT_PORT_WORDS words, mapped until the object goes.
  uint64_t* nat_port_words() { return nat_port_words_; }
  // SL_ENGINE_PORTS_WORDS words, the same.
  uint64_t* engine_port_words() { return engine_port_words_; }
  // Adds up a port's counters over all CPUs into out[SL_STEER_KEYS].
  void read_counters(unsigned slot, uint64_t* out) const;
  // A map's memory, mapped until the object goes.
  void* map_memory(const char* name, size_t bytes, std::string* error);
  // Maps were taken over: they hold what an earlier engine knew.
  bool inherited() const { return inherited_; }
  // Why pinned maps were not taken over, in words; empty: they were, or there were none.
  const std::string& given_up() const { return given_up_; }
  int program_fd() const { return program_fd_; }
  int map_fd(const char* name) const;

 private:
  steering() = default;
  struct attached { std::string name; uint32_t ifindex = 0; int link_fd = -1; };
  std::string pin_path(const std::string& name) const { return pin_directory_ + "/" + name; }
  int take_over(uint32_t ifindex, const std::string& pin, std::string* error);
  bool reuse_pinned_maps(const flow_sizes& sizes);
  void remove_pins_of_others();
  int reuse_pinned_program(const std::string& pin) const;
  void pin_program(const std::string& pin) const;
  int create_link(uint32_t ifindex, const std::string& name, xdp_mode wanted, std::string* warning, std::string* error);

  bpf_object* object_ = nullptr;
  std::string pin_directory_;
  int kept_program_fd_ = -1;  // the same as program_fd_ when it is an earlier engine's, and ours to close
  int program_fd_ = -1, xsks_ = -1, tx_ports_ = -1, ports_ = -1, vlans_ = -1, local_ = -1, nat_ports_ = -1, counters_ = -1;
  uint64_t *nat_port_words_ = nullptr, *engine_port_words_ = nullptr;
  int cpus_ = 1;
  bool inherited_ = false;
  std::string given_up_;
  std::vector<std::pair<void*, size_t>> mapped_;
  attached attached_[SL_PORTS_MAX];
};

}  // namespace sluice
