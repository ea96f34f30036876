// SPDX-License-Identifier: Apache-2.0
// wireguard_worker.h: what a worker has of the table for itself. Included by the files of wireguard_table alone.
#pragma once
#include <atomic>
#include <memory>

#include "tunnel/aead.h"
#include "tunnel/wireguard.h"

namespace sluice {

struct wireguard_table::worker_part {
  std::unique_ptr<aead> cipher;
  message_ring messages;
  notice_ring notices;
  std::atomic<uint64_t> lost{0};
};

}  // namespace sluice
