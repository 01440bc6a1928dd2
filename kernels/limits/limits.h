// The card's ceilings, measured. Each function checks what it computed; a wrong result is a value, never a
// number.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness/base/precision.h"

namespace tandem::kernels {

/// `wrong` empty: `samples` are good and `value` is their median. Otherwise what was wrong, and value is NaN.
struct Limit {
  double value = 0;
  std::vector<double> samples;
  std::string wrong;
  bool ok() const { return wrong.empty(); }
};

/// Read-only stream over `bytes` of device memory (far more than L2), GB/s; the sum of what was read is
/// checked.
Limit measure_read_gbs(int64_t bytes = 4ll << 30, int samples = 15);
/// Copy of `bytes`, GB/s of bytes read plus bytes written; the target is compared word by word.
Limit measure_copy_gbs(int64_t bytes = 2ll << 30, int samples = 15);
/// Repeated reads of `bytes` that stay in L2, GB/s. `bytes` 0: a third of the card's L2.
Limit measure_l2_gbs(int64_t bytes = 0, int samples = 15);
/// Time a node in a graph of `nodes` dependent empty kernels, us; with `dependent`, by programmatic dependent
/// launch.
Limit measure_empty_node_us(bool dependent, int nodes = 200, int samples = 15);

enum class Regime : uint8_t {
  kBurst,      ///< the first products after a rest: full clock
  kSustained,  ///< after half a second or more without pause, until its rate is steady: often at the power limit
};

struct GemmRateParams {
  Precision precision = Precision::kBf16;  ///< fp32 tf32 fp16 bf16 fp8 int8
  bool two_of_four = false;                ///< w is 2:4, multiplied by cuSPARSELt; fp16 and bf16
  int64_t m = 8192;
  int64_t n = 8192;
  int64_t k = 8192;
  Regime regime = Regime::kBurst;
};
/// Rate of y = x w^T with random data through the fastest of the library's candidates, searched once.
class GemmRate {
 public:
  /// Throws UsageError when the library has no kernel for the shape, DeviceError where there is no cuSPARSELt for 2:4.
  explicit GemmRate(const GemmRateParams& params);
  ~GemmRate();

  /// TFLOP/s (int8: TOP/s; 2:4: operations of the dense product). A burst sample rests for half a second first. Sampled outputs
  /// are compared with products computed on the host.
  Limit measure(int samples);

 private:
  class Product;
  GemmRateParams params_;
  std::unique_ptr<Product> product_;
  double one_us_ = 0;  ///< of one product, as searched
};

}  // namespace tandem::kernels
