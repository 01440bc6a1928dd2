// The input of a case: what its axes batch, src and lengths and the one seed of inputs make.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/sweep/case.h"

namespace tandem {

/// Seed of source ids, lengths and decoder prefixes of every case; written in the record.
inline constexpr uint64_t kInputSeed = 1;

/// Tokens of each source, [batch]. Throws UsageError for a file that is no list of lengths, ImpossibleCase for lengths
/// that do not fit batch and src.
std::vector<int32_t> case_lengths(const Case& c);

/// The sources of a case, packed. `config` is the case's model's. Throws what case_lengths throws, and UsageError for an
/// id that the model does not have.
TransformerBatch case_batch(const Case& c, const ModelConfig& config);

}  // namespace tandem
