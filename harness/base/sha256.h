// SHA-256 (FIPS 180-4): case ids, content keys of caches, digests of outputs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tandem {

/// Takes a message in pieces.
class Sha256 {
 public:
  void update(std::string_view bytes);
  /// 64 lower-case hex digits of everything given so far. The object is used up by it.
  std::string hex();

 private:
  void compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  size_t pending_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

/// 64 lower-case hex digits.
std::string sha256_hex(std::string_view bytes);
/// The same over a file's content, read in pieces. Throws IoError.
std::string sha256_file_hex(const std::filesystem::path& path);

}  // namespace tandem
