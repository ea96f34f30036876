// SPDX-License-Identifier: Apache-2.0
// steer.cc: see steer.h. Order: load and pin → attach → maps.
#include "io/steer.h"

#include "flow/memory.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string_view>

namespace sluice {
namespace {

constexpr size_t nat_port_bytes = SL_NAT_PORT_WORDS * sizeof(uint64_t);
const std::string program_pins = "program-";  // and the object's SHA-256

std::string errno_text(int error) { return std::strerror(error < 0 ? -error : error); }

// What the engine and the pins call a map; nullptr: libbpf's own. The program's variable `flow` is the value of a map, too.
const char* name_of(const bpf_map* map) {
  if (!bpf_map__is_internal(map)) return bpf_map__name(map);
  return std::string_view(bpf_map__name(map)).ends_with(".bss") ? "flow_header" : nullptr;
}

// The header of flow memory in a map of ours, as far as its value is large enough to have one like ours.
bool read_header(int fd, sl_flow_header* header) {
  bpf_map_info info{};
  __u32 bytes = sizeof info;
  if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &bytes) != 0 || info.value_size < sizeof *header) return false;
  void* p = mmap(nullptr, sizeof *header, PROT_READ, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return false;
  std::memcpy(header, p, sizeof *header);
  munmap(p, sizeof *header);
  return true;
}

// The object's content as a pin can name it; empty: it cannot be read.
std::string digest_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string content(std::istreambuf_iterator<char>(file), {});
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned bytes = 0;
  if (content.empty() || EVP_Digest(content.data(), content.size(), digest, &bytes, EVP_sha256(), nullptr) != 1) return "";
  std::string text;
  for (unsigned i = 0; i < bytes; ++i) for (unsigned nibble : {digest[i] >> 4, digest[i] & 15}) text += "0123456789abcdef"[nibble];
  return text;
}

int collect_log(enum libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_WARN) std::vfprintf(stderr, format, arguments);
  return 0;
}

std::string program_name(uint32_t id) {
  int fd = bpf_prog_get_fd_by_id(id);
  if (fd < 0) return "of id " + std::to_string(id);
  bpf_prog_info info{};
  __u32 bytes = sizeof info;
  std::string name = bpf_obj_get_info_by_fd(fd, &info, &bytes) == 0 ? info.name : "";
  close(fd);
  return "'" + name + "' (id " + std::to_string(id) + ")";
}

}  // namespace

// ---- load ---------------------------------------------------------------------------------------------------------------

std::unique_ptr<steering> steering::open(const std::string& object_path, const std::string& pin_directory, uint32_t sessions, std::string* error) {
  libbpf_set_print(collect_log);
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  std::unique_ptr<steering> s(new steering);
  s->pin_directory_ = pin_directory;
  s->object_ = bpf_object__open_file(object_path.c_str(), nullptr);
  if (!s->object_) { *error = "cannot open the steering program " + object_path + " (" + errno_text(errno) + "); run `npm run build`"; return nullptr; }
  const flow_sizes sizes = flow_sizes::of(sessions);
  const std::pair<const char*, uint32_t> sized[] = {{"flow_buckets", sizes.buckets}, {"sessions", sizes.sessions}, {"nat_mappings", sizes.sessions}};
  for (auto [name, entries] : sized)
    if (bpf_map* map = bpf_object__find_map_by_name(s->object_, name)) bpf_map__set_max_entries(map, entries);
  s->inherited_ = s->reuse_pinned_maps(sizes);
  const std::string pin = pin_directory.empty() ? "" : s->pin_path(program_pins + digest_of(object_path));
  bpf_program* program = bpf_object__find_program_by_name(s->object_, "sluice_steer");
  if (s->inherited_) s->program_fd_ = s->kept_program_fd_ = s->reuse_pinned_program(pin);
  if (program && s->kept_program_fd_ >= 0) bpf_program__set_autoload(program, false);
  if (int result = bpf_object__load(s->object_); result == -ENOMEM) {
    *error = "no memory for the maps of " + std::to_string(sessions) + " sessions: they need " + std::to_string(sizes.bytes() >> 20) + " MiB of the kernel's; lower limits.sessions, or give the machine or the service's control group more";
    return nullptr;
  } else if (result != 0) {
    *error = "the kernel refused the steering program (" + errno_text(result) + "); root or CAP_BPF and CAP_NET_ADMIN are needed, and Linux 5.15 or later";
    return nullptr;
  }
  if (program && s->kept_program_fd_ < 0) s->program_fd_ = bpf_program__fd(program);
  const std::pair<const char*, int steering::*> maps[] = {{"xsks", &steering::xsks_}, {"tx_ports", &steering::tx_ports_}, {"ports", &steering::ports_}, {"vlans", &steering::vlans_},
                                                         {"local_addresses", &steering::local_}, {"nat_ports", &steering::nat_ports_}, {"steer_counters", &steering::counters_}};
  for (auto [name, field] : maps) {
    (*s).*field = bpf_object__find_map_fd_by_name(s->object_, name);
    if ((*s).*field < 0 || s->program_fd_ < 0) { *error = object_path + " lacks its program or the map '" + name + "'; run `npm run build`"; return nullptr; }
  }
  bpf_map* map;
  bpf_object__for_each_map(map, s->object_) {
    if (pin_directory.empty() || s->inherited_ || !name_of(map)) continue;
    std::string path = s->pin_path(std::string("map-") + name_of(map));
    unlink(path.c_str());
    if (bpf_obj_pin(bpf_map__fd(map), path.c_str()) != 0) { *error = "cannot pin " + path + " (" + errno_text(errno) + "); is the directory a bpffs?"; return nullptr; }
  }
  if (!pin_directory.empty()) s->remove_pins_of_others();
  if (!pin.empty() && s->kept_program_fd_ < 0) s->pin_program(pin);
  s->nat_port_words_ = static_cast<uint64_t*>(s->map_memory("nat_ports", nat_port_bytes, error));
  s->engine_port_words_ = static_cast<uint64_t*>(s->map_memory("engine_ports", SL_ENGINE_PORTS_WORDS * sizeof(uint64_t), error));
  if (!s->nat_port_words_ || !s->engine_port_words_) return nullptr;
  s->cpus_ = std::max(1, libbpf_num_possible_cpus());
  return s;
}

// All or none: maps refer to one another. What the header of flow memory says must be what this engine would write: maps of
// another layout may well have the same sizes, and the program that is attached still works on them.
bool steering::reuse_pinned_maps(const flow_sizes& sizes) {
  if (pin_directory_.empty()) return false;
  std::vector<std::pair<bpf_map*, int>> found;
  bool fit = true;
  int header_fd = -1;
  bpf_map* map;
  bpf_object__for_each_map(map, object_) {
    if (!name_of(map)) continue;
    int fd = bpf_obj_get(pin_path(std::string("map-") + name_of(map)).c_str());
    bpf_map_info info{};
    __u32 bytes = sizeof info;
    fit = fit && fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &bytes) == 0 && info.type == static_cast<__u32>(bpf_map__type(map)) && info.key_size == bpf_map__key_size(map) &&
          info.value_size == bpf_map__value_size(map) && info.max_entries == bpf_map__max_entries(map);
    if (fd < 0) continue;
    found.push_back({map, fd});
    if (std::string_view(name_of(map)) == "flow_header") header_fd = fd;
  }
  sl_flow_header header{};
  const bool readable = read_header(header_fd, &header);
  const bool same = header.version == SL_FLOW_MEMORY_VERSION && header.capacity == sizes.sessions && header.bucket_mask == sizes.buckets - 1;
  if (!found.empty() && !(fit && same) && (header.version || !readable)) {
    if (!readable || header.version != SL_FLOW_MEMORY_VERSION) given_up_ = "their memory layout is another version's";
    else if (header.capacity != sizes.sessions) given_up_ = "limits.sessions was " + std::to_string(header.capacity) + " and is " + std::to_string(sizes.sessions);
    else given_up_ = "the maps of the steering program have another shape";
  }
  fit = fit && same;
  for (auto [m, fd] : found) {
    if (fit && bpf_map__reuse_fd(m, fd) != 0) fit = false;
    close(fd);
  }
  return fit && !found.empty();
}

// Maps that another version called otherwise. No engine comes back to them: ours has its own by now, and what of the old program is still
// attached keeps its maps without their pins.
void steering::remove_pins_of_others() {
  std::set<std::string> ours;
  bpf_map* map;
  bpf_object__for_each_map(map, object_) if (name_of(map)) ours.insert(std::string("map-") + name_of(map));
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(pin_directory_, ignored)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("map-") && !ours.contains(name)) unlink(entry.path().c_str());
  }
}

// The program that an engine before us loaded from the same object, over the maps that we took over: the kernel has verified it already,
// which is half of what starting an engine costs. -1: there is none.
int steering::reuse_pinned_program(const std::string& pin) const {
  const int fd = bpf_obj_get(pin.c_str());
  if (fd < 0) return -1;
  auto id_of = [](int map_fd) {
    bpf_map_info info{};
    __u32 bytes = sizeof info;
    return bpf_obj_get_info_by_fd(map_fd, &info, &bytes) == 0 ? info.id : 0;
  };
  std::set<__u32> ours;
  bpf_map* map;
  bpf_object__for_each_map(map, object_) if (name_of(map)) ours.insert(id_of(bpf_map__fd(map)));
  __u32 used[64];
  bpf_prog_info info{};
  __u32 bytes = sizeof info;
  info.map_ids = reinterpret_cast<uintptr_t>(used);
  info.nr_map_ids = std::size(used);
  if (bpf_obj_get_info_by_fd(fd, &info, &bytes) == 0 && info.type == BPF_PROG_TYPE_XDP && info.nr_map_ids > 0 && info.nr_map_ids <= std::size(used) &&
      std::all_of(used, used + info.nr_map_ids, [&](__u32 id) { return ours.contains(id); }))
    return fd;
  close(fd);
  return -1;
}

// For the next engine; without it, that one loads the program anew.
void steering::pin_program(const std::string& pin) const {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(pin_directory_, ignored))
    if (entry.path().filename().string().starts_with(program_pins)) unlink(entry.path().c_str());
  bpf_obj_pin(program_fd_, pin.c_str());
}

void* steering::map_memory(const char* name, size_t bytes, std::string* error) {
  int fd = map_fd(name);
  void* p = fd < 0 ? MAP_FAILED : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) { *error = std::string("cannot map the memory of ") + name + " (" + errno_text(errno) + ")"; return nullptr; }
  mapped_.push_back({p, bytes});
  return p;
}

steering::~steering() {
  for (auto [p, bytes] : mapped_) munmap(p, bytes);
  for (attached& a : attached_) if (a.link_fd >= 0) close(a.link_fd);
  if (kept_program_fd_ >= 0) close(kept_program_fd_);
  if (object_) bpf_object__close(object_);
}

int steering::map_fd(const char* name) const {
  bpf_map* map;
  bpf_object__for_each_map(map, object_)
    if (name_of(map) && std::string_view(name_of(map)) == name) return bpf_map__fd(map);
  return -1;
}

// ---- attach ---------------------------------------------------------------------------------------------------------------

namespace {

// The netdev that a pinned XDP link is attached to: 0 when the netdev is gone, or the pin is none of an XDP link.
uint32_t linked_ifindex(int link_fd) {
  bpf_link_info info{};
  __u32 bytes = sizeof info;
  return bpf_obj_get_info_by_fd(link_fd, &info, &bytes) == 0 && info.type == BPF_LINK_TYPE_XDP ? info.xdp.ifindex : 0;
}

// Frees a pin's name. To remove the pin of a link that is still attached would open its netdev: netdevs were renamed,
// and it waits under another name until its own turn to be attached comes.
void make_room(const std::string& pin) {
  int fd = bpf_obj_get(pin.c_str());
  if (fd < 0) return;
  if (uint32_t ifindex = linked_ifindex(fd)) rename(pin.c_str(), (pin.substr(0, pin.rfind('/')) + "/link-ifindex" + std::to_string(ifindex)).c_str());
  else unlink(pin.c_str());
  close(fd);
}

}  // namespace

// The link that an engine before us left on this netdev, whatever the netdev was called then; the program in it is
// exchanged in one step. -1: there is none; -1 with *error: there is one, and it stays as it is.
int steering::take_over(uint32_t ifindex, const std::string& pin, std::string* error) {
  if (pin_directory_.empty()) return -1;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(pin_directory_, ignored)) {
    const std::string found = entry.path();
    if (entry.path().filename().string().rfind("link-", 0) != 0) continue;
    int fd = bpf_obj_get(found.c_str());
    if (fd < 0) continue;
    if (linked_ifindex(fd) != ifindex) { close(fd); continue; }
    if (bpf_link_update(fd, program_fd_, nullptr) != 0) {
      *error = "cannot put the new steering program into " + found + " (" + errno_text(errno) + "); the old one stays attached and drops what it would steer here. Remove that file to start afresh";
      close(fd);
      return -1;
    }
    if (found != pin) {
      make_room(pin);
      rename(found.c_str(), pin.c_str());
    }
    return fd;
  }
  return -1;
}

// A new link; refused where a program that is none of ours is attached.
int steering::create_link(uint32_t ifindex, const std::string& name, xdp_mode wanted, std::string* warning, std::string* error) {
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  if (int result = bpf_xdp_query(static_cast<int>(ifindex), 0, &query); result != 0) { *error = "cannot ask for XDP on " + name + ": " + errno_text(result); return -1; }
  if (uint32_t foreign = query.prog_id ? query.prog_id : query.drv_prog_id ? query.drv_prog_id : query.skb_prog_id ? query.skb_prog_id : query.hw_prog_id) {
    *error = name + " carries a foreign XDP program " + program_name(foreign) + "; stop what attached it (`bpftool link` and `bpftool net` show it; `ip link set dev " + name + " xdp off` removes one without a link), or leave the interface out of the configuration";
    return -1;
  }
  LIBBPF_OPTS(bpf_link_create_opts, options);
  int fd = -1;
  if (wanted == xdp_mode::native) {
    options.flags = XDP_FLAGS_DRV_MODE;
    fd = bpf_link_create(program_fd_, static_cast<int>(ifindex), BPF_XDP, &options);
    if (fd < 0) *warning = name + " takes no native XDP program (" + errno_text(errno) + "): generic mode, which is slower; check MTU, LRO and driver";
  }
  if (fd < 0) {
    options.flags = XDP_FLAGS_SKB_MODE;
    fd = bpf_link_create(program_fd_, static_cast<int>(ifindex), BPF_XDP, &options);
  }
  if (fd < 0) *error = "cannot attach the steering program to " + name + ": " + errno_text(errno) + "; another program may have been attached meanwhile";
  return fd;
}

bool steering::attach(uint32_t ifindex, const std::string& name, unsigned slot, xdp_mode* mode, std::string* warning, std::string* error) {
  if (slot >= SL_PORTS_MAX) { *error = "port slot out of range"; return false; }
  const xdp_mode wanted = *mode;
  const std::string pin = pin_path("link-" + name);
  error->clear();
  int fd = take_over(ifindex, pin, error);
  if (!error->empty()) return false;
  if (fd < 0) {
    fd = create_link(ifindex, name, wanted, warning, error);
    if (fd < 0) return false;
    if (!pin_directory_.empty()) {
      make_room(pin);
      if (bpf_obj_pin(fd, pin.c_str()) != 0) {
        *error = "cannot pin " + pin + " (" + errno_text(errno) + "); is the directory a bpffs?";
        close(fd);
        return false;
      }
    }
  }
  LIBBPF_OPTS(bpf_xdp_query_opts, query);
  if (bpf_xdp_query(static_cast<int>(ifindex), 0, &query) == 0) *mode = query.attach_mode == XDP_ATTACHED_SKB ? xdp_mode::generic : xdp_mode::native;
  if (*mode != wanted && warning->empty()) *warning = name + " keeps the mode in which its program was attached before; only a stop and a start change it";
  if (attached_[slot].link_fd >= 0) close(attached_[slot].link_fd);
  attached_[slot] = {name, ifindex, fd};
  return true;
}

void steering::detach(unsigned slot) {
  attached& a = attached_[slot];
  if (a.link_fd < 0) return;
  bpf_link_detach(a.link_fd);
  if (!pin_directory_.empty()) unlink(pin_path("link-" + a.name).c_str());
  close(a.link_fd);
  set_vlans(a.ifindex, {});
  uint32_t place = a.ifindex % SL_STEER_PORTS, key = slot;
  sl_steer_port none{};
  bpf_map_update_elem(ports_, &place, &none, BPF_ANY);
  bpf_map_delete_elem(tx_ports_, &key);
  a = {};
}

// ---- maps -------------------------------------------------------------------------------------------------------------------

bool steering::add_port(uint32_t ifindex, uint16_t slot, std::string* error) {
  uint32_t place = ifindex % SL_STEER_PORTS;
  sl_steer_port value{};
  bpf_map_lookup_elem(ports_, &place, &value);
  if (value.ifindex && value.ifindex != ifindex) {
    char name[IF_NAMESIZE];
    if (if_indextoname(value.ifindex, name)) {
      *error = "netdevs " + std::to_string(ifindex) + " and " + std::to_string(value.ifindex) + " (" + name + ") cannot be ports together: their indices differ by a multiple of " + std::to_string(SL_STEER_PORTS) + "; create one of them anew";
      return false;
    }
  }
  if (value.ifindex == ifindex && value.slot == slot) return true;
  return set_port(ifindex, slot, 0);
}

bool steering::set_port(uint32_t ifindex, uint16_t slot, uint16_t flags, uint16_t interface) {
  uint32_t place = ifindex % SL_STEER_PORTS, key = slot;
  sl_steer_port value{ifindex, slot, flags, interface, 0};
  bool may_send = bpf_map_update_elem(tx_ports_, &key, &ifindex, BPF_ANY) == 0;
  return bpf_map_update_elem(ports_, &place, &value, BPF_ANY) == 0 && may_send;
}

bool steering::set_vlans(uint32_t ifindex, const std::vector<std::pair<uint16_t, uint16_t>>& vlans) {
  bool ok = true;
  for (auto [id, interface] : vlans) {
    sl_steer_vlan key{ifindex, id};
    ok = bpf_map_update_elem(vlans_, &key, &interface, BPF_ANY) == 0 && ok;
  }
  std::vector<sl_steer_vlan> gone;
  sl_steer_vlan key{};
  for (sl_steer_vlan* previous = nullptr; bpf_map_get_next_key(vlans_, previous, &key) == 0; previous = &key)
    if (key.ifindex == ifindex && std::none_of(vlans.begin(), vlans.end(), [&](const auto& v) { return v.first == key.vlan_id; })) gone.push_back(key);
  for (const sl_steer_vlan& k : gone) bpf_map_delete_elem(vlans_, &k);
  return ok;
}

bool steering::set_xsk(unsigned slot, unsigned queue, int fd, std::string* error) {
  uint32_t key = slot * SL_QUEUES_MAX + queue;
  if (bpf_map_update_elem(xsks_, &key, &fd, BPF_ANY) == 0) return true;
  *error = "cannot steer a queue to its socket: " + errno_text(errno);
  return false;
}

void steering::clear_xsk(unsigned slot, unsigned queue) {
  uint32_t key = slot * SL_QUEUES_MAX + queue;
  bpf_map_delete_elem(xsks_, &key);
}

bool steering::set_local_addresses(const std::vector<std::pair<sl_address, sl_local_address>>& addresses, std::string* error) {
  std::set<std::string_view> wanted;
  auto text = [](const sl_address& a) { return std::string_view(reinterpret_cast<const char*>(a.bytes), sizeof a.bytes); };
  for (const auto& [address, value] : addresses) wanted.insert(text(address));
  if (wanted.size() > SL_LOCAL_ADDRESSES_MAX) {
    *error = std::to_string(wanted.size()) + " addresses of the appliance; the steering program holds " + std::to_string(SL_LOCAL_ADDRESSES_MAX);
    return false;
  }
  std::vector<sl_address> gone;
  sl_address key{};
  for (sl_address* previous = nullptr; bpf_map_get_next_key(local_, previous, &key) == 0; previous = &key)
    if (!wanted.contains(text(key))) gone.push_back(key);
  for (const sl_address& k : gone) bpf_map_delete_elem(local_, &k);
  for (const auto& [address, value] : addresses) {
    if (bpf_map_update_elem(local_, &address, &value, BPF_ANY) == 0) continue;
    *error = "cannot tell the steering program an address of ours: " + errno_text(errno);
    return false;
  }
  return true;
}

void steering::read_counters(unsigned slot, uint64_t* out) const {
  std::vector<uint64_t> rows(static_cast<size_t>(cpus_) * SL_STEER_KEYS);
  uint32_t key = slot;
  std::fill(out, out + SL_STEER_KEYS, 0);
  if (bpf_map_lookup_elem(counters_, &key, rows.data()) != 0) return;
  for (size_t i = 0; i < rows.size(); ++i) out[i % SL_STEER_KEYS] += rows[i];
}

}  // namespace sluice
