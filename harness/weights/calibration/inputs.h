// The inputs of products whose channels can be scaled by the weights alone: whoever makes channel k divides it by s[k], and
// every product that reads it multiplies its column k by s[k]. The dense model computes the same.
#pragma once

#include <string>
#include <vector>

#include "harness/weights/layout.h"

namespace tandem {

/// Names are those of a layout without removed layers.
struct ScaledInput {
  std::vector<std::string> makers;   ///< vectors, and matrices whose rows make the channels: divided
  std::vector<std::string> readers;  ///< matrices: their columns are multiplied
  /// What the input is known by. Its matrix begins the group of products that read the input, so that it is found by its
  /// address as well.
  const std::string& name() const { return readers.front(); }
};

/// In the order of the layout's sides and layers:
/// - pre-norm: self.{q,k,v}, cross.q, ffn.{gate,up}, made by their norm. The output of a post-norm is a residual too, and
///   the encoder's last norm (what cross.{k,v} read) is the model's output: both stay as they are.
/// - self.out and cross.out, made by the rows of v: attention is linear in them, channel by channel.
/// - ffn.down, made by the rows of `up`, where the activation is on the gate or is relu, which a positive factor passes.
/// - the head, where it is a matrix of its own and a norm makes its input.
std::vector<ScaledInput> scaled_inputs(const WeightLayout& layout);

}  // namespace tandem
