// The fewest bytes through device memory and the operations of a pass, phase by phase: what the floor of a case is made of.
//
// Counted: weights in their stored form with their scales, biases and norms once a pass (not the rows of the embedding tables: under 0.1 %), K/V, ids and the
// pass's outputs once. Activations are taken as staying on chip. Operations: 2 a multiply-add of products and attention;
// norms, activations and softmax are not counted.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "harness/base/phase.h"
#include "harness/base/precision.h"
#include "harness/model/config.h"
#include "harness/weights/form.h"

namespace tandem {

/// Which rate bounds the operations of a phase: the precision's own products, those of the type of activations (attention, a
/// head of 16 bits), or products with 2:4 matrices, whose operations are those of the dense matrix.
enum class ComputeUnit : uint8_t { kProduct, kActivations, kStructured };

struct PhaseCost {
  Side side = Side::kEncoder;
  PhaseKind kind = PhaseKind::kEmbed;
  double weight_bytes = 0;   ///< read
  double kv_bytes = 0;       ///< read
  double other_bytes = 0;    ///< read: ids
  double written_bytes = 0;  ///< K/V appended, outputs
  double flops = 0;
  ComputeUnit unit = ComputeUnit::kProduct;
  double launches = 0;  ///< kernels that follow each other, as the CUDA engine has them where few rows fuse
  double collectives = 0;       ///< that ranks do together; phase comm: all-reduces
  double collective_bytes = 0;  ///< that a rank brings to each
  /// Into a rank's device from the others', at the least: of all collectives together.
  double link_bytes = 0;

  double bytes_read() const { return weight_bytes + kv_bytes + other_bytes; }
  double bytes() const { return bytes_read() + written_bytes; }
};

/// Phases of all layers of a side together; each (side, kind) at most once. Totals are sums over phases, nothing else.
struct Cost {
  Precision precision = Precision::kBf16;
  std::vector<PhaseCost> phases;

  double bytes_read() const;
  double bytes_written() const;
  double bytes() const { return bytes_read() + bytes_written(); }
  double link_bytes() const;
  double flops() const;
  /// The phase, or nullptr.
  const PhaseCost* find(Side side, PhaseKind kind) const;
  /// Adds `times` repetitions of `other`, phase by phase.
  void add(const Cost& other, double times = 1);
};

/// The fewest bytes into a rank's device from the others' for the sum of `bytes` a rank, without sums in the switch: its share of
/// them from all others, and their shares of the sums.
double sum_link_bytes(double bytes, int ranks);

struct CostOptions {
  WeightForm form = {.precision = Precision::kBf16};
  KvType kv = KvType::kSame;
  /// Fraction of the weights of layers' matrices that is kept where they go by their magnitude; else what the form says, for a
  /// threshold everything.
  std::optional<double> products_kept = {};
  int rows_per_source = 1;  ///< of the decoder: beams, or samples
  /// Beams of a source have a history in common, which may be read once for all; how much is up to the search, so that the
  /// least is counted: all of it. Samples share nothing that was generated.
  bool shared_history = false;
  /// Ranks that the model is laid over: the cost is one rank's. Throws what rank_config() throws.
  int degree = 1;
};

/// One encoder pass over sequences of these lengths, without the cross-K/V projection. Writes its output.
Cost encoder_cost(const ModelConfig& config, std::span<const int32_t> lengths, const CostOptions& options);
/// Cross-attention keys and values of all decoder layers, once per source.
Cost cross_kv_cost(const ModelConfig& config, std::span<const int32_t> lengths, const CostOptions& options);
/// The decode step that appends position `tgt` (1-based) of every row: self-attention over tgt positions. Keys and values of a
/// source are read once for all its rows.
Cost decode_step_cost(const ModelConfig& config, std::span<const int32_t> lengths, double tgt,
                      const CostOptions& options);
/// Encoder, cross-K/V and the steps that append positions 1 .. tgt.
Cost generate_cost(const ModelConfig& config, std::span<const int32_t> lengths, int tgt,
                   const CostOptions& options);

}  // namespace tandem
