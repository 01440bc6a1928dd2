#include "harness/base/phase.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <string_view>

#include "harness/base/error.h"

namespace tandem {
namespace {

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

}  // namespace
}  // namespace tandem
