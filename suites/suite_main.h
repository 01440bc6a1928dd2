// What every suite binary does: axes as flags, Google Benchmark around the cases, our own reporter and exit code; or, with
// --cases, the worker protocol of the driver.
#pragma once

#include "harness/sweep/case.h"

namespace tandem {

/// The body of `main` of a suite binary. Never throws.
int suite_main(Suite suite, int argc, char** argv);

}  // namespace tandem
