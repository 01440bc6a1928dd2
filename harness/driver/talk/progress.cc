#include "harness/driver/talk/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "harness/base/process.h"
#include "harness/driver/session/predict.h"
#include "harness/driver/talk/terminal.h"

namespace tandem {
namespace {

constexpr const char* kClearLine = "\r\033[K";
bool g_quiet = false;

}  // namespace

void say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stderr);
  std::fflush(stderr);
}

void be_quiet() {
  g_quiet = true;
}

void remark(const std::string& line) {
  if (!g_quiet) say(line);
}

void Repeats::tell(const std::string& reason, const std::string& line) {
  if (reason == reason_) {
    ++left_out_;
    return;
  }
  flush();
  reason_ = reason;
  say(line);
}

void Repeats::flush() {
  if (left_out_ > 0) say(fmt::format("... and {} more for the same reason", left_out_));
  left_out_ = 0;
  reason_.clear();
}

void Eta::add(Kind kind, const Work& predicted) {
  Work& left = of(kind).left;
  left.start_s += predicted.start_s;
  left.own_s += predicted.own_s;
}

void Eta::done(Kind kind, const Work& predicted, double took_s) {
  add(kind, {-predicted.start_s, -predicted.own_s});
  Sums& s = of(kind);
  if (predicted.start_s > 0) {
    s.first.start_s += predicted.start_s;
    s.first.own_s += predicted.own_s;
    s.first_took_s += took_s;
  } else {
    s.next_s += predicted.own_s;
    s.next_took_s += took_s;
  }
}

double Eta::left_of(const Sums& s) {
  constexpr double kLeast = 0.1;  // of a first case's time that is its own, where only such are known
  // What the predictions were off by so far is what they are taken to be off by from here on.
  double rate = 1, starts = 1;
  if (s.next_s > 0) {
    rate = s.next_took_s / s.next_s;
  } else if (s.first.own_s > 0) {
    rate = std::max(s.first_took_s - s.first.start_s, kLeast * s.first_took_s) / s.first.own_s;
  }
  if (s.first.start_s > 0) starts = std::max(0.0, s.first_took_s - rate * s.first.own_s) / s.first.start_s;
  return std::max(0.0, s.left.own_s) * rate + std::max(0.0, s.left.start_s) * starts;
}

Progress::Progress(int to_check, int to_time, const Eta& eta)
    : redraws_(redraws(2) && !g_quiet),
      failures_only_(g_quiet),
      to_check_(to_check),
      to_time_(to_time),
      eta_(eta),
      last_s_(steady_s()) {
  if (to_check + to_time > 0) update("");
}

Progress Progress::failures_only() {
  Progress progress(0, 0, {});
  progress.failures_only_ = true;
  return progress;
}

Progress::~Progress() {
  if (redraws_) std::fputs(kClearLine, stderr);
}

double Progress::since_last_s() {
  const double now = steady_s(), took = now - last_s_;
  last_s_ = now;
  return took;
}

void Progress::tell(const std::string& line) {
  repeats_.flush();
  say((redraws_ ? kClearLine : "") + line);
}

void Progress::fail(Status status, const std::string& reason, const std::string& line) {
  repeats_.tell(fmt::format("{}: {}", status_name(status), reason), (redraws_ ? kClearLine : "") + line);
}

void Progress::update(const std::string& name) {
  if (!redraws_ || failures_only_) return;
  const std::string line = fmt::format("checked {}/{}, timed {}/{}, {} left  {}", checked_, to_check_, timed_,
                                       to_time_, show_duration(eta_.left_s()), name);
  // A line as wide as the terminal would already wrap on some.
  constexpr size_t kUsual = 80;
  std::fputs((kClearLine + cut_to(line, terminal_width(2).value_or(kUsual) - 1)).c_str(), stderr);
  std::fflush(stderr);
}

void Progress::checked(const std::string& name, Status status, const std::string& reason,
                       const Work& predicted) {
  ++checked_;
  eta_.done(Eta::Kind::kCheck, predicted, since_last_s());
  if (status != Status::kOk) {
    fail(status, reason,
         fmt::format("check [{}/{}] {:<8}  {}: {}", checked_, to_check_, status_name(status), name, reason));
  }
  update(name);
}

void Progress::recorded(const Record& r, const Work& predicted) {
  ++timed_;
  eta_.done(Eta::Kind::kTime, predicted, since_last_s());
  const std::string place = failures_only_ ? "time" : fmt::format("time [{}/{}]", timed_, to_time_);
  if (r.status != Status::kOk) {
    const std::string reason = r.reason.value_or("");
    fail(r.status, reason, fmt::format("{} {:<8}  {}: {}", place, status_name(r.status), r.name, reason));
  } else if (!redraws_ && !failures_only_) {
    tell(fmt::format("{} {:>8}  {}  worker {}", place, show_us(r.summary->median_us), r.name, r.worker));
  }
  update(r.name);
}

void Progress::dropped(int timings, double predicted_s) {
  to_time_ -= timings;
  eta_.add(Eta::Kind::kTime, {0, -predicted_s});
}

}  // namespace tandem
