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
