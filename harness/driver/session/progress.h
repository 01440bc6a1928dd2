// What the driver says on stderr while it works: one updating line with the time left on a terminal, otherwise one plain
// line a case.
#pragma once

#include <string>

#include "harness/record/record.h"

namespace tandem {

/// A line on stderr. Never throws: a run does not end because nobody listens.
void say(const std::string& line);

class Progress {
 public:
  /// Cases to check, cases to time (each once a worker), and the seconds that all of it is predicted to take.
  Progress(int to_check, int to_time, double predicted_s);
  /// Tells nothing but cases that failed: for a caller with lines of its own.
  static Progress failures_only();
  ~Progress();

  /// A case was checked. Told in a line of its own only when it is not ok.
  void checked(const std::string& name, Status status, const std::string& reason, double predicted_s);
  /// A record was written.
  void recorded(const Record& r, double predicted_s);
  /// Timings that turned out not to be needed: a case that failed is not timed again.
  void dropped(int timings, double predicted_s);

 private:
  void tell(const std::string& line);
  void update(const std::string& name);
  double left_s() const;

  bool terminal_ = false, failures_only_ = false;
  int to_check_ = 0, to_time_ = 0, checked_ = 0, timed_ = 0;
  double predicted_s_ = 0, predicted_done_s_ = 0, start_s_ = 0;
};

}  // namespace tandem
