#include "harness/card/nvml.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tandem {
namespace {

/// What nvidia-smi showed of one card, played back. A value of -1: the function fails.
struct Recorded {
  const char* name;
  const char* uuid;
  int major, minor;
  unsigned cores;
  int ecc;
  int mig;
  unsigned power_limit_mw;
  unsigned applications_mhz, default_mhz;
  int links;
  unsigned sm_mhz, celsius, power_mw;
  unsigned long long reasons;
  std::vector<NvmlFunctions::Process> processes;
};

std::vector<Recorded>& machine() {
  static std::vector<Recorded> cards;
  return cards;
}

Recorded h200() {
  return {"NVIDIA H200",
          "GPU-11111111-2222-3333-4444-555555555555",
          9,
          0,
          16896,
          1,
          0,
          700000,
          1980,
          1980,
          18,
          1755,
          61,
          698120,
          0x4,
          {{4242, 1ull << 30, ~0u, ~0u}}};
}

const Recorded& at(NvmlFunctions::Device device) {
  return machine()[reinterpret_cast<uintptr_t>(device) - 1];
}

int put(char* text, unsigned length, const char* value) {
  if (std::strlen(value) >= length) return 7;
  std::strcpy(text, value);
  return 0;
}

NvmlFunctions recorded() {
  using D = NvmlFunctions::Device;
  NvmlFunctions f;
  f.system_driver_version = [](char* t, unsigned n) { return put(t, n, "580.65.06"); };
  f.system_cuda_driver_version = [](int* v) { return *v = 13000, 0; };
  f.device_count = [](unsigned* n) { return *n = static_cast<unsigned>(machine().size()), 0; };
  f.device_by_index = [](unsigned i, D* d) {
    if (i >= machine().size()) return 2;
    return *d = reinterpret_cast<D>(static_cast<uintptr_t>(i) + 1), 0;
  };
  f.name = [](D d, char* t, unsigned n) { return put(t, n, at(d).name); };
  f.uuid = [](D d, char* t, unsigned n) { return put(t, n, at(d).uuid); };
  f.compute_capability = [](D d, int* a, int* b) { return *a = at(d).major, *b = at(d).minor, 0; };
  f.num_gpu_cores = [](D d, unsigned* n) { return *n = at(d).cores, 0; };
  f.memory_info = [](D, NvmlFunctions::Memory* m) { return *m = {150754820096ull, 0, 0}, 0; };
  f.ecc_mode = [](D d, int* now, int* next) { return *now = *next = at(d).ecc, at(d).ecc < 0 ? 3 : 0; };
  f.mig_mode = [](D d, unsigned* now, unsigned* next) {
    return *now = *next = static_cast<unsigned>(at(d).mig), at(d).mig < 0 ? 3 : 0;
  };
  f.enforced_power_limit = [](D d, unsigned* mw) { return *mw = at(d).power_limit_mw, 0; };
  f.applications_clock = [](D d, int, unsigned* mhz) { return *mhz = at(d).applications_mhz, 0; };
  f.default_applications_clock = [](D d, int, unsigned* mhz) { return *mhz = at(d).default_mhz, 0; };
  f.nvlink_state = [](D d, unsigned link, int* up) { return *up = static_cast<int>(link) < at(d).links, 0; };
  f.clock_info = [](D d, int type, unsigned* mhz) { return *mhz = at(d).sm_mhz, type == 1 ? 0 : 2; };
  f.temperature = [](D d, int, unsigned* c) { return *c = at(d).celsius, 0; };
  f.power_usage = [](D d, unsigned* mw) { return *mw = at(d).power_mw, 0; };
  f.clocks_event_reasons = [](D d, unsigned long long* bits) { return *bits = at(d).reasons, 0; };
  f.compute_processes = [](D d, unsigned* n, NvmlFunctions::Process* out) {
    const auto& list = at(d).processes;
    const bool fits = list.size() <= *n;
    *n = static_cast<unsigned>(list.size());
    if (!fits) return 7;
    std::copy(list.begin(), list.end(), out);
    return 0;
  };
  return f;
}

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
  Recorded other = h200();
  other.uuid = "GPU-99999999-2222-3333-4444-555555555555";
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

}  // namespace
}  // namespace tandem
