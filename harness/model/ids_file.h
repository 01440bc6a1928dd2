// Sources as a user has them: a file with one sequence of token ids a line.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace tandem {

/// Ids separated by blanks, tabs or commas; a line a sequence, in order. Throws UsageError naming file and line for a
/// line without an id and for anything that is not an id of the vocabulary [0, vocab), and naming the file when it has
/// no line or cannot be read.
std::vector<std::vector<int32_t>> read_ids(const std::string& path,
                                           int32_t vocab = std::numeric_limits<int32_t>::max());

}  // namespace tandem
