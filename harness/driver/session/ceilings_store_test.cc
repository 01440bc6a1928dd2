#include "harness/driver/session/ceilings_store.h"

#include <cstdlib>

#include "harness/driver/testing/driver_fixture.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

class CeilingsStoreTest : public testing::DriverTest {
 protected:
  CeilingsStoreTest() { ::setenv("XDG_CACHE_HOME", cache().c_str(), 1); }
  ~CeilingsStoreTest() override { ::unsetenv("XDG_CACHE_HOME"); }
  fs::path cache() const { return folder_ / "cache"; }
  void store(const std::optional<CardInfo>& card, const std::string& text) const {
    fs::create_directories(ceilings_path(card).parent_path());
    std::ofstream(ceilings_path(card)) << text;
  }
};

// Without it a case's floor would come from the rates of another card of the machine, or from those of its CPU.
TEST_F(CeilingsStoreTest, EachCardHasItsOwn) {
  CardInfo a, b;
  a.name = b.name = "card";
  a.uuid = "GPU-a";
  b.uuid = "GPU-b";
  store(a, R"({"machine": "card GPU-a", "read_gbs": 4000})");
  ASSERT_TRUE(stored_ceilings(a));
  EXPECT_EQ(stored_ceilings(a)->read_gbs, 4000);
  EXPECT_FALSE(stored_ceilings(b));
  EXPECT_FALSE(stored_ceilings(std::nullopt));
  // Under b's name, but measured on a.
  store(b, R"({"machine": "card GPU-a", "read_gbs": 4000})");
  EXPECT_FALSE(stored_ceilings(b));
  store(b, R"({"read_gbs": 4000})");
  EXPECT_FALSE(stored_ceilings(b)) << "of nobody knows what";
  store(std::nullopt, R"({"machine": "card GPU-a", "read_gbs": 4000})");
  EXPECT_FALSE(stored_ceilings(std::nullopt)) << "a card's rates are not the CPU's";
}

// Without it the rates of whatever card `suite_limits` found would be kept as those of the card that was asked for.
TEST_F(CeilingsStoreTest, AMeasurementOfAnotherMachineIsNotKept) {
  CardInfo card;
  card.name = "card";
  card.uuid = "GPU-a";
  EXPECT_FALSE(obtain_ceilings(bin(), card, 1)) << "the fake suite measures the CPU";
  EXPECT_FALSE(fs::exists(ceilings_path(card)));
}

// Without it a file of another version, or one that a full disk cut off, would end every run on this machine.
TEST_F(CeilingsStoreTest, DamagedIsAsGoodAsNone) {
  for (const std::string& text : {std::string(), std::string("{\"read_gbs\": 40"), std::string("[]"),
                                  std::string(R"({"rate_of_a_later_version": 1})"),
                                  std::string(100000, '[') + std::string(100000, ']')}) {
    store(std::nullopt, text);
    EXPECT_FALSE(stored_ceilings(std::nullopt)) << text.substr(0, 40);
  }
  const auto measured = obtain_ceilings(bin(), std::nullopt, 0);
  ASSERT_TRUE(measured);
  ASSERT_TRUE(stored_ceilings(std::nullopt)) << "measured again and kept";
  EXPECT_EQ(stored_ceilings(std::nullopt)->read_gbs, measured->read_gbs);
}

/// A `suite_limits` that answers its n-th call with the n-th of these lines, the last one for ever.
void answer(const fs::path& bin, const std::vector<std::string>& lines) {
  fs::remove(bin / "suite_limits");
  fs::remove(bin / "calls");
  for (int i = 1; i <= 2; ++i) fs::remove(bin / ("line" + std::to_string(i)));
  for (size_t i = 0; i < lines.size(); ++i)
    std::ofstream(bin / ("line" + std::to_string(i + 1))) << lines[i] << "\n";
  std::ofstream(bin / "suite_limits")
      << "#!/bin/sh\ncd " << bin.string()
      << "\necho >> calls\nn=$(wc -l < calls)\n[ -f line$n ] || n=" << lines.size() << "\ncat line$n\n";
  fs::permissions(bin / "suite_limits", fs::perms::owner_all);
}
size_t calls(const fs::path& bin) {
  return read_file(bin / "calls").size();
}

// Without it rates that contradict themselves, as a busy machine leaves them, are kept for ever; or floors stand on them.
TEST_F(CeilingsStoreTest, ContradictionsAreMeasuredAgainThenRefused) {
  const std::string machine = "\"machine\": \"" + machine_label(std::nullopt) + "\"";
  const std::string bad = "{" + machine + R"(, "read_gbs": 16.96, "l2_gbs": 0.047})";
  const std::string good = "{" + machine + R"(, "read_gbs": 16.96, "l2_gbs": 40})";
  store(std::nullopt, bad);
  EXPECT_FALSE(stored_ceilings(std::nullopt));
  answer(bin(), {bad, good});
  const auto measured = obtain_ceilings(bin(), std::nullopt, 0);
  ASSERT_TRUE(measured);
  EXPECT_EQ(measured->l2_gbs, 40);
  EXPECT_EQ(calls(bin()), 2u);
  ASSERT_TRUE(obtain_ceilings(bin(), std::nullopt, 0));
  EXPECT_EQ(calls(bin()), 2u) << "kept";
  fs::remove(ceilings_path(std::nullopt));
  answer(bin(), {bad});
  EXPECT_FALSE(obtain_ceilings(bin(), std::nullopt, 0));
  EXPECT_EQ(calls(bin()), 2u);
  EXPECT_FALSE(fs::exists(ceilings_path(std::nullopt)));
}

// Without it ceilings that a case has beaten, or that were measured beside other work, stay as they are.
TEST_F(CeilingsStoreTest, DoubtedOnesAreMeasuredAgain) {
  const std::string machine = "\"machine\": \"" + machine_label(std::nullopt) + "\"";
  store(std::nullopt, "{" + machine + R"(, "read_gbs": 10})");
  doubt_ceilings(std::nullopt, "a case took 3 us");
  ASSERT_TRUE(stored_ceilings(std::nullopt));
  EXPECT_EQ(stored_ceilings(std::nullopt)->doubt, "a case took 3 us") << "a list shows them so";
  answer(bin(), {"{" + machine + R"(, "read_gbs": 20, "doubt": "other work"})",
                 "{" + machine + R"(, "read_gbs": 30})"});
  EXPECT_EQ(obtain_ceilings(bin(), std::nullopt, 0)->read_gbs, 30);
  EXPECT_EQ(stored_ceilings(std::nullopt)->doubt, "");
}

// Without it a list goes on showing other floors than records, which know the cache of the machine: those at memory's rate.
TEST_F(CeilingsStoreTest, ThoseWithoutTheCachesSizeAreMeasuredAgain) {
  const std::string machine = "\"machine\": \"" + machine_label(std::nullopt) + "\"";
  store(std::nullopt, "{" + machine + R"(, "read_gbs": 10})");
  ASSERT_TRUE(stored_ceilings(std::nullopt));
  EXPECT_NE(stored_ceilings(std::nullopt)->doubt.find("size of the cache"), std::string::npos);
  answer(bin(), {"{" + machine + R"(, "read_gbs": 30, "cache_bytes": 5e7})"});
  EXPECT_EQ(obtain_ceilings(bin(), std::nullopt, 0)->cache_bytes, 5e7);
  EXPECT_EQ(stored_ceilings(std::nullopt)->doubt, "");
  // A machine that does not say: once is enough.
  fs::remove(ceilings_path(std::nullopt));
  answer(bin(), {"{" + machine + R"(, "read_gbs": 30, "cache_bytes": null})"});
  ASSERT_TRUE(obtain_ceilings(bin(), std::nullopt, 0));
  EXPECT_EQ(stored_ceilings(std::nullopt)->doubt, "");
}

// Without it the floor of ranks on a card is another in a list than in their record, which counts the links.
TEST_F(CeilingsStoreTest, ACardsLinksAreKnown) {
  CardInfo card;
  card.name = "card";
  card.uuid = "GPU-a";
  card.compute_capability = "9.0";
  card.nvlinks.resize(18);
  store(card, R"({"machine": "card GPU-a", "read_gbs": 4000, "cache_bytes": 6e7})");
  ASSERT_TRUE(stored_ceilings(card));
  EXPECT_EQ(stored_ceilings(card)->link_gbs, 450);
}

// Without it a card whose `suite_limits` fails half-way would get floors from what it printed.
TEST_F(CeilingsStoreTest, FailedMeasurementLeavesNothing) {
  fs::remove(bin() / "suite_limits");
  std::ofstream(bin() / "suite_limits") << "#!/bin/sh\necho '{\"read_gbs\": 1}'\nexit 1\n";
  fs::permissions(bin() / "suite_limits", fs::perms::owner_all);
  EXPECT_FALSE(obtain_ceilings(bin(), std::nullopt, 0));
  EXPECT_FALSE(fs::exists(ceilings_path(std::nullopt)));
}

}  // namespace
}  // namespace tandem
