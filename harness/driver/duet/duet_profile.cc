#include "harness/driver/duet/duet_profile.h"

#include <fmt/format.h>

#include <algorithm>

#include "harness/base/process.h"
#include "harness/driver/commands/profile_passes.h"

namespace tandem {

void profile_slower(const std::vector<std::array<std::string, 2>>& ids, const RunArgs (&args)[2],
                    const Session* const (&sessions)[2]) {
  if (ids.empty()) {
    say("--profile: no case is slower, so that there is nothing to explain");
    return;
  }
  for (size_t side = 0; side < 2; ++side) {
    std::vector<Profiled> chosen;
    for (const Profiled& p : measured_cases(*sessions[side])) {
      const bool slower =
          std::any_of(ids.begin(), ids.end(), [&](const auto& twin) { return twin[side] == p.id; });
      if (slower) chosen.push_back(p);
    }
    say(fmt::format("profiling {} slower case{} on side {}", chosen.size(), chosen.size() == 1 ? "" : "s",
                    side == 0 ? "a" : "b"));
    ProfilePasses(args[side], *sessions[side]).run(chosen, ProfilePass::kNode);
  }
}

}  // namespace tandem
