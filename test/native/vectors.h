// SPDX-License-Identifier: Apache-2.0
// vectors.h: published test vectors of test/wireguard/vectors for native tests. No JSON reader: those files have one test a line, an array of a
// number and texts. Of a file of another form too few tests are found, and the tests that want them say so.
#pragma once
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace sluice::testing {

inline std::vector<uint8_t> bytes_of_hex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

struct aead_vector { std::string id, key, nonce, aad, plain, sealed, result; };

inline std::vector<aead_vector> aead_vectors(const char* name) {
  std::ifstream file(std::filesystem::path(__FILE__).parent_path().parent_path() / "wireguard" / "vectors" / name);
  std::vector<aead_vector> all;
  for (std::string line; std::getline(file, line);) {
    const size_t begin = line.find('['), comma = line.find(',');
    if (begin == std::string::npos || comma == std::string::npos || comma < begin || line.find(':') != std::string::npos) continue;
    std::vector<std::string> fields{line.substr(begin + 1, comma - begin - 1)};
    std::istringstream rest(line);
    bool quoted = false;
    for (std::string part; std::getline(rest, part, '"'); quoted = !quoted) if (quoted) fields.push_back(part);
    if (fields.size() == 7) all.push_back({fields[0], fields[1], fields[2], fields[3], fields[4], fields[5], fields[6]});
  }
  return all;
}

}  // namespace sluice::testing
