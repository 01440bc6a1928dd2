#include "harness/weights/calibration/inputs.h"

#include <fmt/format.h>

#include <string_view>

namespace tandem {
namespace {

/// Those of `names` that the layout has: biases and betas are not in every model.
std::vector<std::string> present(const WeightLayout& layout, const std::vector<std::string>& names) {
  std::vector<std::string> here;
  for (const std::string& name : names)
    if (layout.contains(name)) here.push_back(name);
  return here;
}

class Finder {
 public:
  explicit Finder(const WeightLayout& layout) : layout_(layout), c_(layout.config) {}

  std::vector<ScaledInput> all() {
    for (int n = 0; n < c_.encoder.layers; ++n) layer("encoder", n);
    for (int n = 0; n < c_.decoder.layers; ++n) layer("decoder", n);
    if (!layout_.contains("head.weight")) return inputs_;
    if (c_.final_norm) {
      by_norm("decoder.final_norm", {"head.weight"});
    } else if (c_.placement == NormPlacement::kPost) {
      by_norm(fmt::format("decoder.layers.{}.ffn_norm", c_.decoder.layers - 1), {"head.weight"});
    }
    return inputs_;
  }

 private:
  void layer(std::string_view side, int n) {
    const bool pre = c_.placement == NormPlacement::kPre;
    const auto name = [&](std::string_view tensor) {
      return fmt::format("{}.layers.{}.{}", side, n, tensor);
    };
    const auto weight = [&](std::string_view product) { return name(product) + ".weight"; };
    if (pre) by_norm(name("self_norm"), {weight("self.q"), weight("self.k"), weight("self.v")});
    by_rows(name("self.v"), weight("self.out"));
    if (side == "decoder") {
      if (pre) by_norm(name("cross_norm"), {weight("cross.q")});
      by_rows(name("cross.v"), weight("cross.out"));
    }
    if (pre) by_norm(name("ffn_norm"), {weight("ffn.gate"), weight("ffn.up")});
    if (c_.gated || c_.activation == Activation::kRelu) by_rows(name("ffn.up"), weight("ffn.down"));
  }

  void by_norm(const std::string& norm, const std::vector<std::string>& readers) {
    inputs_.push_back({present(layout_, {norm + ".gamma", norm + ".beta"}), present(layout_, readers)});
  }
  void by_rows(const std::string& product, const std::string& reader) {
    inputs_.push_back({present(layout_, {product + ".weight", product + ".bias"}), {reader}});
  }

  const WeightLayout& layout_;
  const ModelConfig& c_;
  std::vector<ScaledInput> inputs_;
};

}  // namespace

std::vector<ScaledInput> scaled_inputs(const WeightLayout& layout) {
  return Finder(layout).all();
}

}  // namespace tandem
