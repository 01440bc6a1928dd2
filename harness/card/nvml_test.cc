#include "harness/card/nvml.h"

#include <gtest/gtest.h>

#include "harness/card/testing/recorded_nvml.h"

namespace tandem {
namespace {

using testing::h200;
using testing::machine;
using testing::recorded;
using testing::Recorded;

// Without it a machine without a driver would fail where it should have no cards.
TEST(Nvml, WithoutTheLibraryThereAreNoCardsAndNoErrors) {
  EXPECT_TRUE(nvml_cards(nullptr).empty());
  EXPECT_FALSE(read_block(nullptr, 0).sm_mhz);
  EXPECT_TRUE(read_block(nullptr, 0).reasons.empty());
  EXPECT_FALSE(card_processes(nullptr, 0));
  EXPECT_FALSE(card_contended(nullptr, 0));
  EXPECT_FALSE(visible_card({}, nullptr, 0));
  EXPECT_NO_THROW(nvml_cards(nvml()));  // whatever this machine has
}

// Without it a floor of ranks would stand on the rate of links that are down, or on a guess.
TEST(Nvml, TheRateOfTheLinksThatAreUp) {
  CardInfo card;
  card.compute_capability = "9.0";
  EXPECT_FALSE(nvlink_gbs(card)) << "PCIe alone";
  card.nvlinks.resize(18);
  EXPECT_EQ(nvlink_gbs(card), 450);
  card.nvlinks.resize(4);
  EXPECT_EQ(nvlink_gbs(card), 100);
  card.compute_capability = "10.0";
  EXPECT_EQ(nvlink_gbs(card), 200);
  card.compute_capability = "12.0";
  EXPECT_FALSE(nvlink_gbs(card)) << "not known";
}

// Without it units or fields of the environment would be wrong without anybody noticing.
TEST(Nvml, CardsInOurUnits) {
  machine() = {h200()};
  const NvmlFunctions f = recorded();
  const auto cards = nvml_cards(&f);
  ASSERT_EQ(cards.size(), 1u);
  const CardInfo& card = cards[0];
  EXPECT_EQ(card.name, "NVIDIA H200");
  EXPECT_EQ(card.driver, "580.65.06");
  EXPECT_EQ(card.cuda_driver, "13.0");
  EXPECT_EQ(card.compute_capability, "9.0");
  EXPECT_EQ(card.sms, 132);
  EXPECT_EQ(card.memory_bytes, 150754820096.0);
  EXPECT_EQ(card.ecc, true);
  EXPECT_EQ(card.mig, false);
  EXPECT_EQ(card.power_limit_w, 700.0);
  EXPECT_EQ(card.clock_policy, "default");
  EXPECT_EQ(card.nvlinks.size(), 18u);
  machine()[0].applications_mhz = 1500;
  EXPECT_EQ(nvml_cards(&f)[0].clock_policy, "applications:1500");
}

// Without it what a card cannot say would read as 0 or false.
TEST(Nvml, WhatCannotBeReadIsAbsent) {
  machine() = {h200()};
  machine()[0].ecc = machine()[0].mig = -1;
  NvmlFunctions f = recorded();
  f.num_gpu_cores = nullptr;
  f.power_usage = nullptr;
  f.clocks_event_reasons = nullptr;
  f.compute_processes = nullptr;
  const CardInfo card = nvml_cards(&f)[0];
  EXPECT_FALSE(card.ecc);
  EXPECT_FALSE(card.mig);
  EXPECT_FALSE(card.sms);
  EXPECT_FALSE(read_block(&f, 0).power_w);
  EXPECT_FALSE(card_processes(&f, 0));
  EXPECT_FALSE(read_block(&f, 1).sm_mhz);  // no such card
}

// Without it a throttled block would look clean, or an idle card throttled.
TEST(Nvml, ThrottleReasonsAreWordsAndIdlenessIsNone) {
  machine() = {h200()};
  const NvmlFunctions f = recorded();
  CardReading r = read_block(&f, 0);
  EXPECT_EQ(r.sm_mhz, 1755.0);
  EXPECT_EQ(r.temperature_c, 61.0);
  EXPECT_NEAR(*r.power_w, 698.12, 1e-9);
  EXPECT_EQ(r.reasons, std::vector<std::string>{"sw_power_cap"});
  machine()[0].reasons = 0x1;
  EXPECT_TRUE(read_block(&f, 0).reasons.empty());
  machine()[0].reasons = 0x1ff;
  EXPECT_EQ(read_block(&f, 0).reasons,
            (std::vector<std::string>{"applications_clocks_setting", "sw_power_cap", "hw_slowdown",
                                      "sync_boost", "sw_thermal_slowdown", "hw_thermal_slowdown",
                                      "hw_power_brake_slowdown", "display_clock_setting"}));
}

// Without it samples taken beside somebody else's process would pass for clean ones.
TEST(Nvml, AnotherProcessContends) {
  machine() = {h200()};
  const NvmlFunctions f = recorded();
  EXPECT_EQ(card_contended(&f, 0), false);
  machine()[0].processes.push_back({7, ~0ull, ~0u, ~0u});
  EXPECT_EQ(card_contended(&f, 0), true);
  EXPECT_FALSE(card_processes(&f, 0)->back().used_bytes);
  machine()[0].processes.clear();
  EXPECT_FALSE(card_contended(&f, 0)) << "a list without ourselves is one that we are not shown";
  machine()[0].processes.assign(300, {9, 1, ~0u, ~0u});
  EXPECT_EQ(card_processes(&f, 0)->size(), 300u);
}

// Without it a run under CUDA_VISIBLE_DEVICES would carry the UUID and the clocks of another card.
TEST(Nvml, VisibleDevicesAreFollowed) {
  const Recorded other = testing::l40s();
  machine() = {h200(), other};
  const NvmlFunctions f = recorded();
  const auto cards = nvml_cards(&f);
  EXPECT_EQ(visible_card(cards, nullptr, 1)->index, 1);
  EXPECT_EQ(visible_card(cards, "1,0", 0)->index, 1);
  EXPECT_EQ(visible_card(cards, "1", 0)->uuid, other.uuid);
  EXPECT_EQ(visible_card(cards, "GPU-999", 0)->index, 1);
  EXPECT_FALSE(visible_card(cards, "1", 1));
  EXPECT_FALSE(visible_card(cards, "", 0));
  EXPECT_FALSE(visible_card(cards, "7,0", 0)) << "CUDA stops at the first invalid entry";
  EXPECT_FALSE(visible_card(cards, nullptr, 2));
}

// Without it CUDA's order, fastest first, would give a run the UUID and the clocks of another card.
TEST(Nvml, TheCardInUseIsFoundByItsUuid) {
  machine() = {testing::l40s(), h200()};  // CUDA's device 0 is the second on the bus
  const NvmlFunctions f = recorded();
  ::unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(card_in_use(&f, h200().uuid, 0)->index, 1);
  EXPECT_EQ(card_in_use(&f, std::nullopt, 0)->index, 0) << "what is not told is the order of the bus";
  EXPECT_EQ(card_in_use(&f, "MIG-1", 1)->index, 1);
  EXPECT_FALSE(card_in_use(&f, std::nullopt, 2));
  EXPECT_FALSE(card_in_use(nullptr, h200().uuid, 0));
}

}  // namespace
}  // namespace tandem
