#include "harness/model/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "harness/base/error.h"
#include "harness/model/testing/safetensors_writer.h"

namespace tandem {
namespace {

using testing::NamedTensor;
using testing::safetensors_bytes;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string with_header(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, 'x');
}

/// What the reader says about a file.
std::string complaint(const std::string& content) {
  try {
    parse_safetensors("f.safetensors", bytes_of(content));
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

const NamedTensor kA{.name = "a", .dtype = "F32", .shape = {2, 3}, .bytes = std::string(24, 'a')};
const NamedTensor kB{.name = "b", .dtype = "BF16", .shape = {5}, .bytes = std::string(10, 'b')};

// Breaks when a whole file is not read as it is.
TEST(Safetensors, Reads) {
  const std::string content =
      safetensors_bytes({kB, kA, {.name = "none", .dtype = "I64", .shape = {0, 4}, .bytes = ""}});
  const auto tensors = parse_safetensors("f", bytes_of(content));
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors.at("a").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors.at("a").size(), 6);
  EXPECT_EQ(tensors.at("a").float_type(), DType::kF32);
  EXPECT_EQ(std::to_integer<char>(tensors.at("a").bytes[23]), 'a');
  EXPECT_EQ(std::to_integer<char>(tensors.at("b").bytes[0]), 'b');
  EXPECT_FALSE(tensors.at("none").float_type());
}

// Without it some prefix of a file that a download cut off would be taken for a model.
TEST(Safetensors, NoPrefixIsAFile) {
  const std::string content = safetensors_bytes({kA, kB});
  for (size_t n = 0; n < content.size(); ++n) EXPECT_NE(complaint(content.substr(0, n)), "") << n;
  EXPECT_NE(complaint(content + "x").find("follow the last tensor"), std::string::npos);
}

// Without it a broken file would crash the reader, or be read wrong without a word.
TEST(Safetensors, NamesWhatIsWrong) {
  struct Bad {
    std::string header, expected;
    size_t data = 24;
  };
  const std::string a = R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";
  const Bad cases[] = {
      {"[]", "not a JSON object", 0},
      {"{\"a\":", "not JSON", 0},
      {std::string(200, '[') + std::string(200, ']'), "nests deeper", 0},
      {"{" + a + "," + a + "}", "\"a\" is there twice"},
      {R"({"a":3})", "tensor \"a\": its entry is not an object"},
      {R"({"a":{"dtype":"F32","shape":[6]}})", "no data_offsets"},
      {R"({"a":{"dtype":"F33","shape":[2,3],"data_offsets":[0,24]}})", "unknown dtype \"F33\""},
      {R"({"a":{"dtype":4,"shape":[2,3],"data_offsets":[0,24]}})", "dtype is not a string"},
      {R"({"a":{"dtype":"F32","shape":[2,-3],"data_offsets":[0,24]}})", "-3 is not a size"},
      {R"({"a":{"dtype":"F32","shape":[1e30],"data_offsets":[0,24]}})", "not a size"},
      {R"({"a":{"dtype":"F32","shape":[200000000,200000000],"data_offsets":[0,24]}})", "more elements"},
      {R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", "needs 24 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]}})", "run backwards"},
      {R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24,48]}})", "not [begin, end]"},
      {R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]}})", "with a gap", 28},
      {"{" + a + R"(,"b":{"dtype":"F32","shape":[3],"data_offsets":[20,32]}})",
       "tensor \"b\": its bytes start at 20, inside", 32},
      {"{" + a + "}", "cut off", 20},
      {"{" + a + "}", "follow the last tensor", 25},
  };
  for (const Bad& bad : cases) {
    const std::string said = complaint(with_header(bad.header, bad.data));
    EXPECT_NE(said.find(bad.expected), std::string::npos) << bad.header << ": " << said;
    EXPECT_NE(said.find("f.safetensors"), std::string::npos) << said;
  }
  std::string huge = with_header("{}", 0);
  huge[7] = 0x7f;
  EXPECT_NE(complaint(huge).find("header's length"), std::string::npos);
}

// Without it a folder that cannot be read would look like an empty model.
TEST(Safetensors, FileErrors) {
  const testing::TestFolder folder;
  EXPECT_THROW(SafetensorsFile((folder.path() / "none").string()), IoError);
  EXPECT_THROW(SafetensorsFile(folder.path().string()), IoError);
  testing::write_text(folder.path() / "empty", "");
  EXPECT_THROW(SafetensorsFile((folder.path() / "empty").string()), UsageError);
  testing::write_text(folder.path() / "good", safetensors_bytes({kA}));
  EXPECT_EQ(SafetensorsFile((folder.path() / "good").string()).tensors().size(), 1u);
}

}  // namespace
}  // namespace tandem
