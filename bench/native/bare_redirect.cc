// SPDX-License-Identifier: Apache-2.0
// Peer: bare XDP redirect from one netdev to another with MAC addresses set, nothing else. Ends with standard input.
#include "../bpf/traffic.h"
#include "tool.h"

using namespace bench;

static const char help[] =
    "usage: bare_redirect --in NETDEV --out NETDEV --destination-mac MAC --source-mac MAC\n"
    "  --in NETDEV             netdev that receives\n"
    "  --out NETDEV            netdev that sends\n"
    "  --destination-mac MAC   of the next hop\n"
    "  --source-mac MAC        of the outgoing netdev\n"
    "  --bpf FILE              BPF object (build/bench/forwarders.bpf.o)\n";

int main(int count, char **words) {
  Options options(count, words, help);
  forward_config config{};
  options.mac("destination-mac", config.destination_mac);
  options.mac("source-mac", config.source_mac);
  config.ifindex = options.netdev("out");
  bpf_object *object = open_object(options, "forwarders");
  set_config(object, config);
  attach(load_program(object, "redirect"), options.netdev("in"));
  answer_samples([] { return "{}"; });
}
