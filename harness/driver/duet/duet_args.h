// What `tandem duet` was asked for, as the state of a new duet, and as the words that continue it.
#pragma once

#include <string>

#include "harness/driver/duet/duet.h"
#include "harness/driver/duet/duet_state.h"

namespace tandem {

/// A new duet. Throws UsageError naming the flag.
DuetState state_of(const DuetArgs& args);

/// Was the duet in `kept` asked for in the same words? More looks and another budget extend it. Throws UsageError.
void check_same(const DuetState& kept, const DuetState& asked, const DuetArgs& args);

/// The command that continues the duet.
std::string resume_command(const DuetArgs& args);

/// A sample range as default_options() reads it. Throws UsageError naming --sample.
void check_sample(const std::string& text);

}  // namespace tandem
