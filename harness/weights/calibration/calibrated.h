// Another source's values with the channels of products' inputs scaled (scales.h).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/weights/calibration/scales.h"
#include "harness/weights/values/source.h"

namespace tandem {

class CalibratedSource : public WeightSource {
 public:
  /// `layout`: the model that the scales are of. Throws Error for scales of another.
  CalibratedSource(std::unique_ptr<WeightSource> source, const WeightLayout& layout,
                   const ChannelScales& scales);

  void read(const WholeTensor& tensor, const Rectangle& at, std::span<float> out) const override;
  std::string key() const override { return source_->key() + " " + digest_; }
  std::vector<std::string> warnings() const override { return source_->warnings(); }
  Calibration calibration() const override { return calibration_; }

 private:
  using Factors = std::vector<float>;
  struct Scaled {
    Factors rows, cols;  // of the whole tensor; empty: 1
  };

  std::unique_ptr<WeightSource> source_;
  Calibration calibration_;
  std::string digest_;
  std::map<std::string, Scaled> tensors_;
};

}  // namespace tandem
