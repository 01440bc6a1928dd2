#include "harness/driver/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "harness/driver/predict.h"
#include "harness/driver/process.h"

namespace tandem {

Progress::Progress(int steps, double predicted_s)
    : terminal_(::isatty(2) != 0), steps_(steps), predicted_s_(predicted_s), start_s_(steady_s()) {}

Progress::~Progress() {
  if (terminal_) fmt::print(stderr, "\r\033[K");
}

void Progress::step(double predicted_s) {
  ++done_;
  predicted_done_s_ += predicted_s;
}

void Progress::say(const std::string& line) {
  fmt::print(stderr, "{}{}\n", terminal_ ? "\r\033[K" : "", line);
  std::fflush(stderr);
}

double Progress::left_s() const {
  const double left = std::max(0.0, predicted_s_ - predicted_done_s_);
  // What the predictions were off by so far is what they are taken to be off by from here on.
  return predicted_done_s_ > 0 ? left * (steady_s() - start_s_) / predicted_done_s_ : left;
}

void Progress::update(const std::string& name) {
  if (!terminal_) return;
  const std::string line = fmt::format("[{}/{}] {} left  {}", done_, steps_, show_duration(left_s()), name);
  fmt::print(stderr, "\r\033[K{}", line.substr(0, 118));
  std::fflush(stderr);
}

void Progress::checked(const std::string& name, Status status, const std::string& reason,
                       double predicted_s) {
  step(predicted_s);
  if (status != Status::kOk)
    say(fmt::format("[{}/{}] {:<8} {}: {}", done_, steps_, status_name(status), name, reason));
  update("checked " + name);
}

void Progress::recorded(const Record& r, double predicted_s) {
  step(predicted_s);
  if (r.status == Status::kOk) {
    if (!terminal_) {
      say(fmt::format("[{}/{}] {:>10}  {}  worker {}", done_, steps_, show_us(r.summary->median_us), r.name,
                      r.worker));
    }
  } else {
    say(fmt::format("[{}/{}] {:<8} {}: {}", done_, steps_, status_name(r.status), r.name,
                    r.reason.value_or("")));
  }
  update(r.name);
}

void Progress::dropped(int steps, double predicted_s) {
  steps_ -= steps;
  predicted_s_ -= predicted_s;
}

}  // namespace tandem
