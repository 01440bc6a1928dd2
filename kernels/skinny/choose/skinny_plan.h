// From sizes and a config to the cut of one launch. Plain C++: tested without a card.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/base/tensor.h"
#include "kernels/skinny/choose/skinny_config.h"
#include "kernels/skinny/skinny_map.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {

struct SkinnyProblem {
  DType dtype = DType::kBF16;
  std::optional<DType> w_dtype = std::nullopt;      ///< of the stored weights; unset: dtype
  std::optional<DType> input_dtype = std::nullopt;  ///< what x is quantised to, if it is
  int m = 0;
  int n = 0;  ///< outputs; gated: half the weight rows
  int k = 0;
  bool gated = false;
  bool norm = false;
  bool head = false;
  bool x_codes = false;  ///< x comes as codes of input_dtype with a scale a row, not as dtype
  bool stats = false;    ///< writes or takes a norm's statistics
  SparseWeights sparse = SparseWeights::kNone;

  constexpr DType weights() const { return w_dtype.value_or(dtype); }
};

/// What the cut depends on of the card. The defaults are an H200's.
struct SkinnyCard {
  int multiprocessors = 132;
  int shared_bytes = 232448;  ///< most dynamic shared memory of a block
  bool sm90a = true;          ///< may use clusters, warpgroup products and the tensor copy engine
};

/// Every kind but kWide, which plan_wide() (wide_plan.h) cuts. The config must have no config_problem; the sizes must be
/// supported.
SkinnyPlan plan_skinny(const SkinnyConfig& config, const SkinnyProblem& problem, const SkinnyCard& card);

/// Empty if the config can run the problem on the card, else the reason.
std::string config_problem(const SkinnyConfig& config, const SkinnyProblem& problem, const SkinnyCard& card);

/// The config to use: a measured one if the table has the shape, else the one the cost model likes best.
SkinnyConfig choose_skinny(const SkinnyProblem& problem, const SkinnyCard& card);

/// Every config that can run the problem, for searches and tests.
std::vector<SkinnyConfig> all_configs(const SkinnyProblem& problem, const SkinnyCard& card);

/// The cost model's estimate in microseconds: good for an order, not for a claim.
double estimate_us(const SkinnyConfig& config, const SkinnyProblem& problem, const SkinnyCard& card);

}  // namespace tandem::kernels
