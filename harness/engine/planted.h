// What a build carries on purpose, so that a gate can be tested on slow-downs of known size. Off unless CMake was given
// TANDEM_PLANT_DELAY_PERCENT; the environment of every run says so (build.planted).
#pragma once

namespace tandem {

/// Every pass of an engine takes this share longer, in percent; 0 in any build that is not a planted one.
double planted_delay_percent();

}  // namespace tandem
