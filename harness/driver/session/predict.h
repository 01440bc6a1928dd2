// How long a case will take: for the ETA and for time-outs. Rough on purpose; nothing is judged by it.
#pragma once

#include <optional>

#include "harness/cost/ceilings.h"
#include "harness/sweep/case.h"

namespace tandem {

/// What predictions stand on.
struct PredictOptions {
  std::optional<Ceilings> ceilings = {};  ///< measured rates of the machine that the engine runs on
  int cores = 1;
};

struct Prediction {
  std::optional<double>
      floor_us;  ///< absent where a ceiling is missing, the suite has no cost of a model pass, or a threshold removes weights
  std::optional<double> flops, bytes;
  double start_s = 0;     ///< of a process, until it begins with its first case
  double load_s = 0;      ///< making the weights, once a process
  double validate_s = 0;  ///< the validation pass of the case, without its accuracy
  double accuracy_s =
      0;  ///< of a lossy case: its group's accuracy, which the pass of the first of them measures
  double measure_s = 0;  ///< warm-up and samples of one worker
};

/// Throws what load_model throws.
Prediction predict(const Case& c, const PredictOptions& options);

/// Ten times the predicted time, at least 60 s.
double default_timeout_s(double predicted_s);

/// "1 h 05 min", "3 min 20 s", "12 s".
std::string show_duration(double seconds);
/// "812 us", "12.3 ms", "4.57 s".
std::string show_us(double us);

}  // namespace tandem
