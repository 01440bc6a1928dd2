// Profile passes of measured cases, each pass in processes of its own, into the run's folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "harness/driver/session/session.h"
#include "harness/record/line_log.h"
#include "harness/run/profile.h"

namespace tandem {

struct Profiled {
  Case c;
  std::string id;
  double timed_us = 0;  ///< median of the timed workers' medians
};

/// The measured cases of the run that an engine of Tandem's own computed.
std::vector<Profiled> measured_cases(const Session& session);

class ProfilePasses {
 public:
  /// `args` are those that `session` was made with. Throws IoError.
  ProfilePasses(const RunArgs& args, const Session& session);

  /// Takes the pass of each case and says what it left. Throws IoError, Interrupted.
  void run(const std::vector<Profiled>& cases, ProfilePass pass);

  int taken() const { return taken_; }
  int failed() const { return failed_; }
  int unavailable() const { return unavailable_; }

 private:
  void run_group(const std::vector<const Profiled*>& group, ProfilePass pass);
  void take(const TaskOutcome& outcome, const Profiled& subject, ProfilePass pass);

  const RunArgs& args_;
  const Session& session_;
  LineLog log_;
  std::filesystem::path ceilings_;
  int taken_ = 0, failed_ = 0, unavailable_ = 0;
};

}  // namespace tandem
