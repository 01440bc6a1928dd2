// `tandem duet --profile`: a profile of each side of the cases that are slower, from which the gate says why.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "harness/driver/session/session.h"

namespace tandem {

/// Takes the pass `node` of these cases, given by their ids on both sides, once on each side, into the sides' folders. A pass that
/// cannot be had is said and recorded: it changes no verdict. Throws IoError, Interrupted.
void profile_slower(const std::vector<std::array<std::string, 2>>& ids, const RunArgs (&args)[2],
                    const Session* const (&sessions)[2]);

}  // namespace tandem
