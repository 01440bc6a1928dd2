#include "kernels/common/arch.h"

#include <gtest/gtest.h>

#include <string>

namespace tandem::kernels {
namespace {

constexpr Capability kCards[] = {{8, 0},  {8, 6},  {8, 7},  {8, 9},  {9, 0}, {9, 1},
                                 {10, 0}, {10, 3}, {11, 0}, {12, 0}, {12, 1}};

// Breaks when a kernel that is compiled away for the card is launched on it: code for 90a runs on 9.0 alone, so that a
// build for 90a and 100 must keep a card of 10.0 off the warpgroup kernels. All cards, builds and values.
TEST(Arch, Sm90aNeedsItsCardAndItsBuild) {
  for (const Capability card : kCards) {
    for (const bool built : {false, true}) {
      for (const char* asked : {"", "sm80", "sm90"}) {
        const Arch arch = choose_arch(card, built, asked);
        const bool plain = std::string(asked) == "sm80";
        const bool is_90 = card.major * 10 + card.minor == 90;
        const auto what = std::to_string(card.major) + "." + std::to_string(card.minor) + " " + asked;
        EXPECT_EQ(arch.sm90a, !plain && built && is_90) << what;
        EXPECT_EQ(arch.dependent_launch, !plain && card.major > 8) << what;
      }
    }
  }
}

// Breaks when a misspelt TANDEM_ARCH runs the fast paths without a word, as if they were the plain ones.
TEST(Arch, RefusesAnotherValue) {
  for (const char* asked : {"sm_80", "80", "SM80", "sm100", " "})
    EXPECT_THROW(choose_arch({9, 0}, true, asked), UsageError) << asked;
}

// Breaks when a build without code for the card starts and dies in its first kernel, or one with code for it is refused.
TEST(Arch, ABuildKnowsItsCards) {
  const struct {
    const char* architectures;
    std::string cards;  ///< of kCards, those that it has code for
  } builds[] = {
      {"90a", "9.0"},
      {"90a-real", "9.0"},
      {"80", "8.0 8.6 8.7 8.9 9.0 9.1 10.0 10.3 11.0 12.0 12.1"},
      {"80-real", "8.0 8.6 8.7 8.9"},
      {"86-real", "8.6 8.7 8.9"},
      {"89-virtual", "8.9 9.0 9.1 10.0 10.3 11.0 12.0 12.1"},
      {"80-real,90a", "8.0 8.6 8.7 8.9 9.0"},
      {"100-real,120-real", "10.0 10.3 12.0 12.1"},
      {"120", "12.0 12.1"},
      {"native", "8.0 8.6 8.7 8.9 9.0 9.1 10.0 10.3 11.0 12.0 12.1"},
      {"", "8.0 8.6 8.7 8.9 9.0 9.1 10.0 10.3 11.0 12.0 12.1"},
  };
  for (const auto& build : builds) {
    std::string cards;
    for (const Capability card : kCards) {
      if (!built_for(build.architectures, card)) continue;
      cards += (cards.empty() ? "" : " ") + std::to_string(card.major) + "." + std::to_string(card.minor);
    }
    EXPECT_EQ(cards, build.cards) << build.architectures;
  }
}

}  // namespace
}  // namespace tandem::kernels
