// Work beside a pass, of the kind that the pass does: products of rows, for slow-downs of known size (Workload::plant).
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "reference/ops/dense.h"

namespace tandem::reference {

class ExtraWork {
 public:
  /// A unit is a product of two rows of 256: some tenths of a microsecond.
  void set(double units) { units_ = std::llround(units); }
  void run() {
    for (int64_t i = 0; i < units_; ++i) kept_ = dot(row_.data(), row_.data(), std::ssize(row_));
  }

 private:
  int64_t units_ = 0;
  std::vector<float> row_ = std::vector<float>(256, 0.5f);
  volatile double kept_ = 0;  // so that the products are made
};

}  // namespace tandem::reference
