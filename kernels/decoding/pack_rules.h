// GenerationConfig in the form that the kernels read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/model/config.h"
#include "harness/model/generation.h"
#include "kernels/decoding/rules.h"

namespace tandem::kernels {

/// Rules whose lists lie in `table`; rules.table is null until the table has its place.
struct PackedRules {
  DecodingRules rules;
  std::vector<int32_t> table;
  /// The rules with their lists at `place`.
  DecodingRules at(const int32_t* place) const {
    DecodingRules r = rules;
    r.table = place;
    return r;
  }
};

PackedRules pack_rules(const GenerationConfig& g, int vocab);

/// Why these kernels cannot follow the configuration, or an empty string.
std::string unsupported_rules(const GenerationConfig& g, int vocab);

/// Key of the draws of sample `sample` of a source whose seed is `seed`; step s uses draw_uniform(key, s).
uint64_t sampling_key(uint64_t seed, uint64_t sample);

}  // namespace tandem::kernels
