// What a build or a process carries on purpose, so that a gate can be tested (scripts/gate_self_test). None of it is in a build
// to release: the environment of every run says what there is (build.planted).
#pragma once

#include <cstdint>

namespace tandem {

/// The median of every case grows by so much, in percent, by work that is added to each repetition (Workload::plant). 0 unless
/// CMake was given TANDEM_PLANT_DELAY_PERCENT.
double planted_delay_percent();

/// Bytes of code that nothing runs, so that the rest lies elsewhere, as a change of the source would have it. 0 unless CMake was
/// given TANDEM_PLANT_PADDING_BYTES.
int64_t planted_padding_bytes();

/// Bytes that an engine allocates before all else and keeps, as another build might: TANDEM_ALLOCATE_FIRST of the environment, 0
/// without it. Throws UsageError for what is no size up to 1 GiB.
int64_t planted_first_bytes();

}  // namespace tandem
