// `tandem run` on a card that cannot hold every case: the binaries as a user has them.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "harness/base/cuda_check.h"
#include "harness/record/record.h"
#include "harness/sweep/files.h"
#include "kernels/engine/cuda_engine.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kGiB = int64_t{1} << 30;

class OutOfMemoryRun : public testing::Test {
 protected:
  void SetUp() override {
    ::setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);  // as the driver numbers the cards
    std::string reason;
    if (!kernels::cuda_usable(0, &reason)) GTEST_SKIP() << reason;
    ::setenv("TANDEM_SAMPLE_SECONDS", "0:0.01", 1);
    folder_ = fs::temp_directory_path() / fmt::format("tandem-oom-gpu.{}", ::getpid());
    // No suite_limits beside it: ceilings are not what is tested.
    fs::create_directories(folder_ / "bin");
    fs::create_symlink(TANDEM_SUITE_DECODER, folder_ / "bin" / "suite_decoder");
  }
  void TearDown() override {
    std::error_code ec;
    if (!folder_.empty()) fs::remove_all(folder_, ec);
  }

  /// Runs a sweep in which `large` comes first and a small case of the same group, thus of the same process, and a case of
  /// another group come after it. Returns the records by model and batch.
  std::map<std::pair<std::string, int>, Record> run(const json& large) {
    const fs::path sweep = folder_ / "sweep.json", out = folder_ / "run", err = folder_ / "stderr";
    const json small = {{"suite", "decoder"}, {"model", "transformer-base"}, {"src", 16}, {"tgt", 8}};
    const json tiny = {{"suite", "decoder"}, {"model", "tiny"}, {"batch", 3},
                       {"src", 9},           {"tgt", 6},        {"precision", "fp32"}};
    std::ofstream(sweep) << json{{"workers", 1}, {"groups", {large, small, tiny}}};
    const std::string command =
        fmt::format("'{}' run '{}' --out '{}' --engine cuda --bin-dir '{}' >/dev/null 2>'{}'", TANDEM_BINARY,
                    sweep.string(), out.string(), (folder_ / "bin").string(), err.string());
    const int status = std::system(command.c_str());
    const std::string said = read_file(err);
    EXPECT_TRUE(WIFEXITED(status)) << said;
    EXPECT_EQ(WEXITSTATUS(status), 1) << "one case failed: " << said;
    std::map<std::pair<std::string, int>, Record> found;
    for (const Record& r : read_records((out / "records.jsonl").string(), nullptr)) {
      EXPECT_TRUE(found.emplace(std::pair(r.c.model, r.c.batch), r).second) << "two records of one case";
    }
    EXPECT_EQ(found.size(), 3u) << said;
    return found;
  }

  static void expect_the_rest_went_on(const std::map<std::pair<std::string, int>, Record>& records,
                                      int large_batch) {
    for (const auto& [key, r] : records) {
      SCOPED_TRACE(fmt::format("{} batch {}: {}", key.first, key.second, r.reason.value_or("no reason")));
      if (key.second == large_batch) {
        EXPECT_EQ(r.status, Status::kOom);
        EXPECT_NE(r.reason.value_or("").find("out of memory: "), std::string::npos);
        EXPECT_FALSE(r.summary);
      } else {
        EXPECT_EQ(r.status, Status::kOk);
        EXPECT_TRUE(r.summary);
      }
    }
  }

  fs::path folder_;
};

// Breaks when a case that no card can hold is tried, or ends the run, or is recorded as something else than `oom`.
TEST_F(OutOfMemoryRun, CaseLargerThanTheCard) {
  const auto records = run(
      {{"suite", "decoder"}, {"model", "transformer-base"}, {"batch", 65536}, {"src", 1000}, {"tgt", 1000}});
  expect_the_rest_went_on(records, 65536);
}

// Breaks when a case fails to get memory that others hold and takes the cases after it, in its own process, with it.
TEST_F(OutOfMemoryRun, CaseLargerThanWhatIsFree) {
  size_t free = 0, total = 0;
  TANDEM_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  if (static_cast<int64_t>(free) < 4 * kGiB) GTEST_SKIP() << "less than 4 GiB of the card are free";
  void* held = nullptr;
  TANDEM_CUDA_CHECK(cudaMalloc(&held, free - static_cast<size_t>(3 * kGiB)));
  const auto records =
      run({{"suite", "decoder"}, {"model", "transformer-base"}, {"batch", 512}, {"src", 512}, {"tgt", 512}});
  EXPECT_EQ(cudaFree(held), cudaSuccess);
  expect_the_rest_went_on(records, 512);
}

}  // namespace
}  // namespace tandem
