#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <set>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/phase.h"
#include "harness/base/precision.h"
#include "harness/base/random.h"
#include "harness/base/sha256.h"
#include "harness/base/tensor.h"
#include "harness/base/test_seed.h"

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

// Weights rounded on the host would differ from the card's own conversion.
template <uint16_t (*to_half)(float), float (*to_float)(uint16_t)>
void check_half(uint16_t infinity) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const float f = to_float(h);
    if ((h & 0x7fff) > infinity) {
      ASSERT_TRUE(std::isnan(f)) << h;
      ASSERT_GT(to_half(f) & 0x7fff, infinity) << h;
      continue;
    }
    ASSERT_EQ(to_half(f), h);
    if ((h & 0x7fff) >= infinity) continue;
    // Half-way to the next value away from zero; it is exact in fp32. Past the largest, the tie goes to
    // infinity.
    const auto next = static_cast<uint16_t>(h + 1);
    const float away = std::copysign(std::numeric_limits<float>::infinity(), f);
    float middle = 0;
    if ((next & 0x7fff) == infinity) {
      const float step = f - to_float(static_cast<uint16_t>(h - 1));
      middle = f + step / 2;
    } else {
      middle = static_cast<float>((static_cast<double>(f) + to_float(next)) / 2);
    }
    const uint16_t even = (h & 1) == 0 ? h : next;
    ASSERT_EQ(to_half(middle), even) << h;
    ASSERT_EQ(to_half(std::nextafter(middle, away)), next) << h;
    ASSERT_EQ(to_half(std::nextafter(middle, 0.0f)), h) << h;
  }
}

TEST(Half, Fp16RoundsToNearestEvenEverywhere) {
  check_half<float_to_fp16, fp16_to_float>(0x7c00);
}
TEST(Half, Bf16RoundsToNearestEvenEverywhere) {
  check_half<float_to_bf16, bf16_to_float>(0x7f80);
}

// A tf32 reference would round its inputs unlike the tensor cores do.
TEST(Half, Tf32TiesAwayFromZero) {
  EXPECT_EQ(round_to_tf32(1.0f), 1.0f);
  EXPECT_EQ(round_to_tf32(1.0f + 0x1p-11f), 1.0f + 0x1p-10f);
  EXPECT_EQ(round_to_tf32(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f);
  EXPECT_EQ(round_to_tf32(1.0f + 0x1p-12f), 1.0f);
  EXPECT_TRUE(std::isinf(round_to_tf32(std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(std::isnan(round_to_tf32(std::numeric_limits<float>::quiet_NaN())));
}

// Seeded weights would change silently: splitmix64 from state 0 gives these first outputs (the published
// generator).
TEST(Random, IsSplitmix64) {
  EXPECT_EQ(random_bits(0, 0), 0xe220a8397b1dcdafull);
  EXPECT_EQ(random_bits(0, 1), 0x6e789e6aa1b965f4ull);
  EXPECT_EQ(random_bits(0, 2), 0x06c45d188009454full);
}

// Two tensors, or two seeds, would share their numbers.
TEST(Random, StreamsDiffer) {
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 16; ++seed) {
    for (const char* name : {"a", "b", "ab", "ba", "encoder.layers.0.self.q.weight"})
      keys.insert(stream_key(seed, name));
  }
  EXPECT_EQ(keys.size(), 16u * 5);
}

// The exponents of the seeded weights assume this mean and standard deviation.
TEST(Random, CentredSumMoments) {
  const uint64_t key = stream_key(test_seed(), "moments");
  constexpr int kCount = 1 << 20;
  double sum = 0, squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const int32_t v = centred_sum(key, i);
    ASSERT_LE(std::abs(v), 131070);
    sum += v;
    squares += static_cast<double>(v) * v;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean / kCentredSumStd, 0, 6.0 / std::sqrt(kCount));
  EXPECT_NEAR(std::sqrt(squares / kCount - mean * mean) / kCentredSumStd, 1, 6.0 / std::sqrt(kCount));
}

// Lengths and ids would leave their range.
TEST(Random, UniformBelowAndPowerOfTwo) {
  const uint64_t key = stream_key(test_seed(), "below");
  std::set<uint32_t> seen;
  for (int i = 0; i < 2000; ++i) {
    const uint32_t v = uniform_below(key, i, 7);
    ASSERT_LT(v, 7u);
    seen.insert(v);
  }
  EXPECT_EQ(seen.size(), 7u);
  for (int e = -126; e <= 127; ++e) ASSERT_EQ(power_of_two(e), std::ldexp(1.0f, e));
}

// Records, plans and traces would not agree on what a phase is called.
TEST(Phase, NamesRoundTrip) {
  std::set<std::string_view> names;
  for (int i = 0; i < kPhaseKinds; ++i) {
    const auto kind = static_cast<PhaseKind>(i);
    EXPECT_EQ(parse_phase(phase_name(kind)), kind);
    names.insert(phase_name(kind));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kPhaseKinds));
  EXPECT_EQ(phase_path({PhaseKind::kSelfQkv, Side::kDecoder, 3}), "decoder/3/self.qkv");
  EXPECT_EQ(phase_path({PhaseKind::kHead, Side::kDecoder, -1}), "decoder/head");
  try {
    parse_phase("qkv");
    FAIL() << "an unknown phase was accepted";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("'qkv' is not one of embed norm"), std::string::npos) << e.what();
  }
}

// An axis value would be read as another one, or a wrong one accepted.
TEST(Precision, NamesRoundTrip) {
  for (int i = 0; i < kPrecisions; ++i) {
    EXPECT_EQ(parse_precision(precision_name(static_cast<Precision>(i))), static_cast<Precision>(i));
  }
  for (int i = 0; i < kKvTypes; ++i)
    EXPECT_EQ(parse_kv(kv_name(static_cast<KvType>(i))), static_cast<KvType>(i));
  EXPECT_THROW(parse_precision("bfloat16"), UsageError);
  EXPECT_THROW(parse_kv("bf16"), UsageError);
}

// Floors would be computed from the wrong bytes.
TEST(Precision, Bytes) {
  EXPECT_EQ(weight_bytes(Precision::kTf32), 4);
  EXPECT_EQ(weight_bytes(Precision::kFp16), 2);
  EXPECT_EQ(weight_bytes(Precision::kFp8), 1);
  EXPECT_EQ(weight_bytes(Precision::kW4a16), 0.515625);
  EXPECT_EQ(head_bytes(Precision::kW4a16), 1);
  EXPECT_EQ(activation_dtype(Precision::kInt8), DType::kBF16);
  EXPECT_EQ(kv_head_bytes(Precision::kBf16, KvType::kSame, 64), 128);
  EXPECT_EQ(kv_head_bytes(Precision::kFp8, KvType::kSame, 64), 64);
  EXPECT_EQ(kv_head_bytes(Precision::kBf16, KvType::kInt8, 64), 68);
  EXPECT_EQ(kv_head_bytes(Precision::kInt8, KvType::kSame, 128), 136);
  EXPECT_EQ(kv_head_bytes(Precision::kFp32, KvType::kFp8, 16), 16);
}

// An arena's views would overlap.
TEST(Tensor, Bytes) {
  const float value = 0;
  const TensorView view{&value, DType::kBF16, 3, 5};
  EXPECT_EQ(view.bytes(), 30);
  EXPECT_FALSE(view.empty());
  EXPECT_TRUE(TensorView{}.empty());
  EXPECT_EQ(dtype_name(DType::kI8), "i8");
}

// The commands' exit codes hang on these.
TEST(Error, ExitCodes) {
  EXPECT_EQ(ImpossibleCase("x").exit_code(), ExitCode::kUsage);
  EXPECT_EQ(DeviceError("x").exit_code(), ExitCode::kNoDevice);
  const OutOfMemory oom(12, "gpu");
  EXPECT_EQ(oom.exit_code(), ExitCode::kFailed);
  EXPECT_STREQ(oom.what(), "out of memory: 12 bytes asked of gpu");
}

}  // namespace
}  // namespace tandem
