// What a suite prints of a case when it is run by hand.
#pragma once

#include <cstddef>
#include <string>

#include "harness/record/record.h"

namespace tandem {

/// One line without its end: the name in `width` columns, then times, rates and the error; of suite_kernels the
/// sizes after the name, and of single operations how many samples the interval is of. What the record lacks is left out.
std::string row_of(const Record& r, size_t width);

}  // namespace tandem
