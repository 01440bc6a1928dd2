// What the driver says on stderr while it works: one updating line with the time left on a terminal, otherwise one plain
// line a case.
#pragma once

#include <string>

#include "harness/record/record.h"

namespace tandem {

class Progress {
 public:
  /// `steps`: cases to check and cases to time, with the seconds that all of them are predicted to take.
  Progress(int steps, double predicted_s);
  ~Progress();

  /// A case was checked. Told in a line of its own only when it is not ok.
  void checked(const std::string& name, Status status, const std::string& reason, double predicted_s);
  /// A record was written.
  void recorded(const Record& r, double predicted_s);
  /// Steps that turned out not to be needed: a case that failed is not timed again.
  void dropped(int steps, double predicted_s);

 private:
  void step(double predicted_s);
  void say(const std::string& line);
  void update(const std::string& name);
  double left_s() const;

  bool terminal_ = false;
  int steps_ = 0, done_ = 0;
  double predicted_s_ = 0, predicted_done_s_ = 0, start_s_ = 0;
};

}  // namespace tandem
