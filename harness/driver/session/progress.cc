#include "harness/driver/session/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "harness/base/process.h"
#include "harness/driver/session/predict.h"

namespace tandem {
namespace {

constexpr const char* kClearLine = "\r\033[K";

}  // namespace

void say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stderr);
  std::fflush(stderr);
}

Progress::Progress(int to_check, int to_time, double predicted_s)
    : terminal_(::isatty(2) != 0),
      to_check_(to_check),
      to_time_(to_time),
      predicted_s_(predicted_s),
      start_s_(steady_s()) {}

Progress Progress::failures_only() {
  Progress progress(0, 0, 0);
  progress.failures_only_ = true;
  return progress;
}

Progress::~Progress() {
  if (terminal_) std::fputs(kClearLine, stderr);
}

void Progress::tell(const std::string& line) {
  say((terminal_ ? kClearLine : "") + line);
}

double Progress::left_s() const {
  const double left = std::max(0.0, predicted_s_ - predicted_done_s_);
  // What the predictions were off by so far is what they are taken to be off by from here on.
  return predicted_done_s_ > 0 ? left * (steady_s() - start_s_) / predicted_done_s_ : left;
}

void Progress::update(const std::string& name) {
  if (!terminal_ || failures_only_) return;
  const std::string line = fmt::format("checked {}/{}, timed {}/{}, {} left  {}", checked_, to_check_, timed_,
                                       to_time_, show_duration(left_s()), name);
  std::fputs((kClearLine + line.substr(0, 118)).c_str(), stderr);
  std::fflush(stderr);
}

void Progress::checked(const std::string& name, Status status, const std::string& reason,
                       double predicted_s) {
  ++checked_;
  predicted_done_s_ += predicted_s;
  if (status != Status::kOk) {
    tell(fmt::format("check [{}/{}] {:<8}  {}: {}", checked_, to_check_, status_name(status), name, reason));
  } else if (!terminal_ && checked_ == to_check_) {
    tell(fmt::format("check [{}/{}] done", checked_, to_check_));
  }
  update(name);
}

void Progress::recorded(const Record& r, double predicted_s) {
  ++timed_;
  predicted_done_s_ += predicted_s;
  const std::string place = failures_only_ ? "time" : fmt::format("time [{}/{}]", timed_, to_time_);
  if (r.status != Status::kOk) {
    tell(fmt::format("{} {:<8}  {}: {}", place, status_name(r.status), r.name, r.reason.value_or("")));
  } else if (!terminal_ && !failures_only_) {
    tell(fmt::format("{} {:>8}  {}  worker {}", place, show_us(r.summary->median_us), r.name, r.worker));
  }
  update(r.name);
}

void Progress::dropped(int timings, double predicted_s) {
  to_time_ -= timings;
  predicted_s_ -= predicted_s;
}

}  // namespace tandem
