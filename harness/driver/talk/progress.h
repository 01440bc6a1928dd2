// What the driver says on stderr while it works: one updating line with the time left on a terminal, otherwise one plain
// line a case. Failures of several cases for one and the same reason are one line and a count.
#pragma once

#include <cstdint>
#include <string>

#include "harness/record/record.h"

namespace tandem {

/// A line on stderr. Never throws: a run does not end because nobody listens.
void say(const std::string& line);

/// The same, unless be_quiet() was called: what a script need not hear.
void remark(const std::string& line);
void be_quiet();

/// What a case is predicted to take: `start_s` is that of a process and its weights, of the first case in it only.
struct Work {
  double start_s = 0, own_s = 0;
};

/// How long the rest of a run will take, from what was predicted and what the first cases took. Checks and timings are predicted
/// by different means, so each is off by a factor of its own, and starts are apart from what follows them: a case of microseconds
/// whose process took a tenth of a second to start would else make all others a hundred thousand times as long.
class Eta {
 public:
  enum class Kind : uint8_t { kCheck, kTime };

  /// More to do; less, where negative.
  void add(Kind kind, const Work& predicted);
  /// A part of it was done.
  void done(Kind kind, const Work& predicted, double took_s);
  double left_s() const { return left_of(checks_) + left_of(timings_); }

 private:
  struct Sums {
    Work left, first;                    ///< predicted: still to do; done by the first cases of processes
    double first_took_s = 0;             ///< what these took
    double next_s = 0, next_took_s = 0;  ///< predicted and taken, of all others
  };
  Sums& of(Kind kind) { return kind == Kind::kCheck ? checks_ : timings_; }
  static double left_of(const Sums& s);

  Sums checks_, timings_;
};

/// Failures for one and the same reason: the first is told, the others are counted.
class Repeats {
 public:
  ~Repeats() { flush(); }
  /// `line` unless `reason` is the one of the last call.
  void tell(const std::string& reason, const std::string& line);
  /// Tells how many were left out.
  void flush();

 private:
  std::string reason_;
  int left_out_ = 0;
};

class Progress {
 public:
  /// Cases to check, cases to time (each once a worker), and what is predicted of them.
  Progress(int to_check, int to_time, const Eta& eta);
  /// Tells nothing but cases that failed: for a caller with lines of its own.
  static Progress failures_only();
  ~Progress();

  /// A case was checked. Told in a line of its own only when it is not ok.
  void checked(const std::string& name, Status status, const std::string& reason, const Work& predicted);
  /// A record was written.
  void recorded(const Record& r, const Work& predicted);
  /// Timings that turned out not to be needed: a case that failed is not timed again.
  void dropped(int timings, double predicted_s);

 private:
  void fail(Status status, const std::string& reason, const std::string& line);
  void tell(const std::string& line);
  void update(const std::string& name);
  double since_last_s();

  bool redraws_ = false, failures_only_ = false;
  int to_check_ = 0, to_time_ = 0, checked_ = 0, timed_ = 0;
  Eta eta_;
  double last_s_ = 0;  ///< when the case in progress began
  Repeats repeats_;
};

}  // namespace tandem
