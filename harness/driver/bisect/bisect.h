// `tandem bisect`: the commit at which a case became slower, found by builds and duets.
#pragma once

#include <string>

#include "harness/driver/duet/duet.h"

namespace tandem {

/// As given on the command line.
struct BisectArgs {
  DuetArgs duet;  ///< run.sweep, run.out, engine, peers, device, budget, sample, policy ...: of every duet
  std::string good, bad;  ///< revisions
  std::string name;       ///< of the case, or a part of it that no other case has
  std::string repository = ".";
  std::string build;  ///< a command for /bin/sh; empty: default_build_command()
  std::string bin = "build/bisect/bin";
};

/// Configures and builds what this binary was built as, into build/bisect.
std::string default_build_command();

/// Prints the commit and returns 0; 4 where several may be it, 2 where `bad` is not slower. Throws UsageError, DeviceError, IoError,
/// Interrupted.
int bisect_command(const BisectArgs& args);

}  // namespace tandem
