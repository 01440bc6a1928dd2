// The corpus without libFuzzer: every file through its reader, whole and cut off at every sixteenth byte.
#include <gtest/gtest.h>

#include <filesystem>

#include "harness/fuzz/targets.h"
#include "harness/weights/testing/checkpoint_writer.h"

namespace tandem::fuzz {
namespace {

namespace fs = std::filesystem;

class Corpus : public ::testing::TestWithParam<Target> {};

// Breaks when a reader crashes on a file that it once was fixed for, or throws what is no answer.
TEST_P(Corpus, EveryFileGetsAnAnswer) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(fs::path("harness/fuzz/corpus") / GetParam().name)) {
    ++files;
    const std::string content = tandem::testing::read_text(entry.path());
    const auto bytes = std::as_bytes(std::span(content.data(), content.size()));
    SCOPED_TRACE(entry.path().string());
    EXPECT_NO_THROW(GetParam().run(bytes));
    for (size_t n = 0; n < bytes.size(); n += 16) EXPECT_NO_THROW(GetParam().run(bytes.first(n)));
  }
  EXPECT_GE(files, 3);
}

INSTANTIATE_TEST_SUITE_P(Readers, Corpus, ::testing::ValuesIn(targets()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::fuzz
