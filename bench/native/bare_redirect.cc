// SPDX-License-Identifier: Apache-2.0
// Peer: bare XDP redirect between two netdevs with MAC addresses set, nothing else. Ends with standard input.
#include "../bpf/traffic.h"
#include "tool.h"

using namespace bench;

static const char help[] =
    "usage: bare_redirect --in NETDEV --out NETDEV --destination-mac MAC --source-mac MAC [options]\n"
    "  --in NETDEV                    netdev that receives\n"
    "  --out NETDEV                   netdev that sends; what it receives goes back to --in\n"
    "  --destination-mac MAC          of the next hop\n"
    "  --source-mac MAC               of the outgoing netdev\n"
    "  --return-destination-mac MAC   of the next hop of what goes back (--destination-mac)\n"
    "  --return-source-mac MAC        of --in (--source-mac)\n"
    "  --bpf FILE                     BPF object (build/bench/forwarders.bpf.o)\n";

static void redirect(const Options &options, const char *in, const char *out, const std::string &prefix) {
  forward_config config{};
  options.mac_or((prefix + "destination-mac").c_str(), "destination-mac", config.destination_mac);
  options.mac_or((prefix + "source-mac").c_str(), "source-mac", config.source_mac);
  config.ifindex = options.netdev(out);
  bpf_object *object = open_object(options, "forwarders");
  set_config(object, config);
  attach(load_program(object, "redirect"), options.netdev(in));
}

int main(int count, char **words) {
  Options options(count, words, help);
  redirect(options, "in", "out", "");
  redirect(options, "out", "in", "return-");
  answer_samples([] { return "{}"; });
}
