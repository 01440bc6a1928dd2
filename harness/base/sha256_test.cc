#include "harness/base/sha256.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "harness/base/error.h"
#include "harness/base/random.h"
#include "harness/base/testing/test_seed.h"

namespace tandem {
namespace {

// Case ids and content keys would differ from every other SHA-256 (vectors: FIPS 180-4 examples, NIST CAVS).
TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// Padding is wrong at one length only if the block arithmetic is: every length around two blocks, whole and
// in pieces.
TEST(Sha256, PiecesAgreeWithWhole) {
  const uint64_t seed = test_seed();
  for (size_t length = 0; length <= 130; ++length) {
    std::string text(length, '\0');
    for (size_t i = 0; i < length; ++i) text[i] = static_cast<char>(random_bits(seed, i));
    Sha256 pieces;
    for (size_t at = 0, n = 1; at < length; at += n, n = n * 2 + 1) {
      pieces.update(std::string_view(text).substr(at, n));
    }
    EXPECT_EQ(pieces.hex(), sha256_hex(text)) << "length " << length;
  }
}

// A checkpoint's or sweep file's id would not follow its content, or a missing file would hash as empty.
TEST(Sha256, File) {
  const std::string path = ::testing::TempDir() + "tandem_sha256_test_" + std::to_string(getpid());
  std::ofstream(path, std::ios::binary) << std::string(1000000, 'a');
  EXPECT_EQ(sha256_file_hex(path), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::filesystem::remove(path);
  EXPECT_THROW(sha256_file_hex(path), IoError);
}

}  // namespace
}  // namespace tandem
