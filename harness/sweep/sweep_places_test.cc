// Files that a sweep names: of the working folder, or beside the sweep.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "harness/base/error.h"
#include "harness/sweep/files.h"
#include "harness/sweep/sweep_spec.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

// Without it the sweeps that name suites/models/*.json would work in a clone alone; or a file beside an installed sweep would
// hide the one that the user named.
TEST(SweepPlaces, FilesThatAreNotHereAreTakenFromTheBase) {
  const fs::path base = fs::path(::testing::TempDir()) / "sweep_places_test";
  fs::remove_all(base);
  fs::create_directories(base / "suites" / "models");
  fs::copy("suites/models/square-8192.json", base / "suites" / "models" / "elsewhere.json");
  fs::copy("suites/models/square-8192.json", base / "suites" / "models" / "square-8192.json");
  std::ofstream(base / "suites" / "lengths.txt") << "128\n3\n3\n3\n";
  const auto expand = [&](const char* model, const char* lengths) {
    const nlohmann::json group = {{"suite", "decoder"}, {"model", model}, {"batch", 4}, {"lengths", lengths}};
    return expand_sweep({{"groups", {group}}}, {.base = base}).cases.at(0);
  };
  const Case there = expand("suites/models/elsewhere.json", "file:suites/lengths.txt");
  EXPECT_EQ(there.model, (base / "suites/models/elsewhere.json").string());
  EXPECT_EQ(there.lengths, "file:" + (base / "suites/lengths.txt").string());
  const Case here = expand("suites/models/square-8192.json", "ragged:0.5");
  EXPECT_EQ(here.model, "suites/models/square-8192.json");
  EXPECT_EQ(here.lengths, "ragged:0.5");
  EXPECT_EQ(expand("tiny", "full").model, "tiny");
  EXPECT_THROW(expand("suites/models/none.json", "full"), Error);
  Case same = here;
  same.model = (base / "suites/models/square-8192.json").string();
  EXPECT_EQ(case_id(same), case_id(here)) << "an id knows the content, not the place";
  fs::remove_all(base);
}

}  // namespace
}  // namespace tandem
