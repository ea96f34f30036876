// SPDX-License-Identifier: Apache-2.0
// What the bench tools have in common: options, traffic programs loaded from build/bench, JSON lines, time.
// A tool prints one JSON object a line. Long-lived tools print {"ready":true}, answer each line on standard input
// with a sample, and end when standard input ends: none outlives the bench that started it.
#pragma once
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <net/if.h>
#include <poll.h>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

namespace bench {

[[noreturn]] inline void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

inline uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1000000000u + now.tv_nsec;
}

inline double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// Options of the form `--name value` or `--flag`; what the help text does not name is refused.
class Options {
 public:
  Options(int count, char **words, const char *help) : help_(help) {
    for (int i = 1; i < count; i++) {
      std::string word = words[i];
      if (word == "--help") {
        fputs(help, stdout);
        exit(0);
      }
      if (word.rfind("--", 0) != 0 || help_.find(" " + word + " ") == std::string::npos) {
        fprintf(stderr, "unknown option %s\n%s", words[i], help);
        exit(2);
      }
      bool has_value = i + 1 < count && strncmp(words[i + 1], "--", 2) != 0;
      values_[word.substr(2)] = has_value ? words[++i] : "1";
    }
  }
  bool has(const char *name) const { return values_.count(name) != 0; }
  std::string text(const char *name, const char *otherwise) const {
    auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }
  std::string required(const char *name) const {
    if (!has(name)) {
      fprintf(stderr, "--%s is required\n%s", name, help_.c_str());
      exit(2);
    }
    return text(name, "");
  }
  uint64_t number(const char *name, uint64_t otherwise) const {
    auto found = values_.find(name);
    if (found == values_.end())
      return otherwise;
    char *end;
    uint64_t value = strtoull(found->second.c_str(), &end, 10);
    switch (*end) {
      case 'K': value <<= 10, end++; break;
      case 'M': value <<= 20, end++; break;
      case 'G': value <<= 30, end++; break;
    }
    if (*end)
      fail("--%s takes a number, optionally with K, M or G, not %s", name, found->second.c_str());
    return value;
  }
  unsigned netdev(const char *name) const {
    unsigned index = if_nametoindex(required(name).c_str());
    if (!index)
      fail("--%s: no netdev %s in this network namespace", name, required(name).c_str());
    return index;
  }
  void mac(const char *name, uint8_t into[6]) const {
    if (sscanf(required(name).c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", into, into + 1, into + 2, into + 3, into + 4, into + 5) != 6)
      fail("--%s takes a MAC address such as 02:00:00:00:00:01", name);
  }
  void mac_or(const char *name, const char *otherwise, uint8_t into[6]) const { mac(has(name) ? name : otherwise, into); }

 private:
  std::string help_;
  std::map<std::string, std::string> values_;
};

// Opens build/bench/NAME.bpf.o (the tools stand in build/<something>/), or the object of --bpf.
inline bpf_object *open_object(const Options &options, const char *name) {
  namespace fs = std::filesystem;
  fs::path tool = fs::read_symlink("/proc/self/exe").parent_path();
  std::string path = options.text("bpf", (tool.parent_path() / "bench" / (std::string(name) + ".bpf.o")).c_str());
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  bpf_object *object = bpf_object__open_file(path.c_str(), nullptr);
  if (!object)
    fail("%s: %s; bench/build.sh makes it", path.c_str(), strerror(errno));
  return object;
}

inline bpf_map *internal_map(bpf_object *object, const char *section) {
  bpf_map *map;
  bpf_object__for_each_map(map, object) {
    std::string name = bpf_map__name(map);
    if (name.size() >= strlen(section) && name.compare(name.size() - strlen(section), std::string::npos, section) == 0)
      return map;
  }
  fail("BPF object has no %s", section);
}

// The object's only constant is its configuration.
template <class Config> void set_config(bpf_object *object, const Config &config) {
  bpf_map *map = internal_map(object, ".rodata");
  if (bpf_map__value_size(map) != sizeof(Config))
    fail("BPF object is older or newer than this tool: run bench/build.sh and build again");
  if (bpf_map__set_initial_value(map, &config, sizeof(Config)))
    fail("cannot set the configuration of the BPF object: %s", strerror(errno));
}

// Loads the object with one of its programs.
inline bpf_program *load_program(bpf_object *object, const char *name) {
  bpf_program *program, *wanted = nullptr;
  bpf_object__for_each_program(program, object) {
    bool is_wanted = strcmp(bpf_program__name(program), name) == 0;
    bpf_program__set_autoload(program, is_wanted);
    if (is_wanted)
      wanted = program;
  }
  if (!wanted || bpf_object__load(object))
    fail("cannot load XDP program %s: %s", name, strerror(errno));
  return wanted;
}

inline void attach(bpf_program *program, unsigned ifindex) {
  if (!bpf_program__attach_xdp(program, ifindex))
    fail("cannot attach XDP to netdev %u: %s", ifindex, strerror(errno));
}

inline void print_line(const std::string &line) {
  fputs((line + "\n").c_str(), stdout);
  fflush(stdout);
}

__attribute__((format(printf, 1, 2))) inline std::string format(const char *text, ...) {
  char buffer[1024];
  va_list arguments;
  va_start(arguments, text);
  vsnprintf(buffer, sizeof buffer, text, arguments);
  va_end(arguments);
  return buffer;
}

// Answers lines on standard input with samples until it ends.
template <class Sample> void answer_samples(Sample sample) {
  char line[256];
  print_line("{\"ready\":true}");
  while (fgets(line, sizeof line, stdin))
    print_line(sample());
}

}  // namespace bench
