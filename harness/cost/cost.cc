#include "harness/cost/cost.h"

#include <algorithm>
#include <numeric>

#include "harness/base/host_device.h"
#include "harness/parallel/parallel.h"
#include "harness/weights/pruning/pruning.h"
#include "harness/weights/storage.h"

namespace tandem {
namespace {

constexpr double kIdBytes = 4;

/// Adds phases of one side; sizes are for all its layers.
class Builder {
 public:
  Builder(const ModelConfig& config, Side side, const CostOptions& options)
      : config_(rank_config(config, options.degree)),
        side_(side),
        stack_(side == Side::kEncoder ? config_.encoder : config_.decoder),
        options_(options) {
    cost_.precision = options.form.precision;
  }

  PhaseCost& at(PhaseKind kind) {
    for (PhaseCost& p : cost_.phases) {
      if (p.side == side_ && p.kind == kind) return p;
    }
    cost_.phases.push_back({.side = side_, .kind = kind});
    return cost_.phases.back();
  }

  /// A product [rows, in] x [out, in]^T in each layer.
  void product(PhaseKind kind, double rows, int64_t in, int64_t out) {
    PhaseCost& p = at(kind);
    const double bias = config_.bias ? static_cast<double>(out) * small_bytes() : 0;
    p.weight_bytes += stack_.layers * (matrix_bytes(TensorUse::kProduct, in, out) + bias);
    p.flops += stack_.layers * 2.0 * rows * static_cast<double>(in * out);
    p.launches += stack_.layers;
  }

  /// A matrix [out, in] as it is stored.
  double matrix_bytes(TensorUse use, int64_t in, int64_t out) const {
    Storage storage = storage_of(options_.form, use);
    const SparsitySpec& sparsity = options_.form.sparsity;
    const double kept = options_.products_kept.value_or(1 - sparsity.unstructured);
    if (use != TensorUse::kProduct || !sparsity.by_magnitude() || 1 - kept < kBitmapLeastRemoved)
      return static_cast<double>(out * storage.row_bytes(in));
    storage.bitmap = true;
    const double row = kept * static_cast<double>(storage.value_row_bytes(in)) +
                       static_cast<double>(storage.scale_row_bytes(in) + storage.bitmap_row_bytes(in)) +
                       sizeof(uint32_t);  // where it starts
    return static_cast<double>(out) * row;
  }

  /// `query_keys`: pairs of query and key a head, all sequences.
  void attention(PhaseKind kind, double query_keys) {
    PhaseCost& p = at(kind);
    p.unit = ComputeUnit::kActivations;
    p.flops += stack_.layers * 4.0 * query_keys * static_cast<double>(inner());
    p.launches += stack_.layers;
  }

  void norms(double count) {
    const double params = config_.norm == Norm::kLayer ? 2.0 : 1.0;
    at(PhaseKind::kNorm).weight_bytes += count * params * config_.d_model * small_bytes();
  }

  void ffn(double rows) {
    product(PhaseKind::kFfnUp, rows, config_.d_model, (config_.gated ? 2 : 1) * stack_.d_ff);
    product(PhaseKind::kFfnDown, rows, stack_.d_ff, config_.d_model);
  }

  /// The sums of the embeddings and of `a_layer` sublayers a layer, over ranks; norms that follow are part of them.
  void sums(double a_layer, double rows) {
    if (options_.degree == 1) return;
    PhaseCost& p = at(PhaseKind::kComm);
    p.collectives = 1 + a_layer * layers();
    p.collective_bytes = rows * config_.d_model * activation_bytes();
    p.link_bytes = p.collectives * sum_link_bytes(p.collective_bytes, options_.degree);
  }

  /// Rows of the vocabulary that this rank has.
  int64_t vocab() const { return ceil_div(config_.vocab, options_.degree); }

  /// Norms around the layers: embedding norm and final norm.
  double outer_norms() const { return (config_.embedding_norm ? 1 : 0) + (config_.final_norm ? 1 : 0); }

  int64_t inner() const { return config_.inner(stack_); }
  double layers() const { return stack_.layers; }
  /// K and V of one token in one layer.
  double kv_token_bytes() const {
    return 2.0 * stack_.heads *
           static_cast<double>(kv_head_bytes(options_.form.precision, options_.kv, config_.head_dim));
  }
  double activation_bytes() const {
    return static_cast<double>(dtype_bytes(activation_dtype(options_.form.precision)));
  }
  /// Biases, norms and tables stay in the type of activations.
  double small_bytes() const { return activation_bytes(); }

  Cost take() { return std::move(cost_); }

 private:
  const ModelConfig config_;
  Side side_;
  const StackConfig& stack_;
  CostOptions options_;
  Cost cost_;
};

double total(std::span<const int32_t> lengths) {
  return std::accumulate(lengths.begin(), lengths.end(), 0.0);
}

}  // namespace

double Cost::bytes_read() const {
  return std::accumulate(phases.begin(), phases.end(), 0.0,
                         [](double s, const PhaseCost& p) { return s + p.bytes_read(); });
}

double Cost::bytes_written() const {
  return std::accumulate(phases.begin(), phases.end(), 0.0,
                         [](double s, const PhaseCost& p) { return s + p.written_bytes; });
}

double Cost::link_bytes() const {
  return std::accumulate(phases.begin(), phases.end(), 0.0,
                         [](double s, const PhaseCost& p) { return s + p.link_bytes; });
}

double Cost::flops() const {
  return std::accumulate(phases.begin(), phases.end(), 0.0,
                         [](double s, const PhaseCost& p) { return s + p.flops; });
}

double sum_link_bytes(double bytes, int ranks) {
  return 2.0 * (ranks - 1) / ranks * bytes;
}

const PhaseCost* Cost::find(Side side, PhaseKind kind) const {
  const auto it = std::find_if(phases.begin(), phases.end(),
                               [&](const PhaseCost& p) { return p.side == side && p.kind == kind; });
  return it == phases.end() ? nullptr : &*it;
}

void Cost::add(const Cost& other, double times) {
  for (const PhaseCost& p : other.phases) {
    auto it = std::find_if(phases.begin(), phases.end(),
                           [&](const PhaseCost& q) { return q.side == p.side && q.kind == p.kind; });
    if (it == phases.end()) it = phases.insert(it, {.side = p.side, .kind = p.kind, .unit = p.unit});
    it->weight_bytes += times * p.weight_bytes;
    it->kv_bytes += times * p.kv_bytes;
    it->other_bytes += times * p.other_bytes;
    it->written_bytes += times * p.written_bytes;
    it->flops += times * p.flops;
    it->launches += times * p.launches;
    it->collectives += times * p.collectives;
    it->collective_bytes = std::max(it->collective_bytes, p.collective_bytes);
    it->link_bytes += times * p.link_bytes;
  }
}

Cost encoder_cost(const ModelConfig& config, std::span<const int32_t> lengths, const CostOptions& options) {
  Builder b(config, Side::kEncoder, options);
  const double tokens = total(lengths);
  b.at(PhaseKind::kEmbed).other_bytes = tokens * kIdBytes;
  b.at(PhaseKind::kEmbed).launches = 1;
  b.norms(2 * b.layers() + b.outer_norms());
  if (options.degree == 1) b.at(PhaseKind::kNorm).launches = 2 * b.layers() + b.outer_norms();
  b.sums(2, tokens);
  b.product(PhaseKind::kSelfQkv, tokens, config.d_model, 3 * b.inner());
  b.attention(PhaseKind::kSelfAttention,
              std::accumulate(lengths.begin(), lengths.end(), 0.0,
                              [](double s, int32_t n) { return s + static_cast<double>(n) * n; }));
  b.product(PhaseKind::kSelfOut, tokens, b.inner(), config.d_model);
  b.ffn(tokens);
  b.at(PhaseKind::kFfnDown).written_bytes = tokens * config.d_model * b.activation_bytes();
  return b.take();
}

Cost cross_kv_cost(const ModelConfig& config, std::span<const int32_t> lengths, const CostOptions& options) {
  Builder b(config, Side::kDecoder, options);
  const double tokens = total(lengths);
  b.product(PhaseKind::kCrossKv, tokens, config.d_model, 2 * b.inner());
  PhaseCost& p = b.at(PhaseKind::kCrossKv);
  p.launches = 1;  // of all layers together
  p.other_bytes = tokens * config.d_model * b.activation_bytes();
  p.written_bytes = b.layers() * tokens * b.kv_token_bytes();
  return b.take();
}

Cost decode_step_cost(const ModelConfig& config, std::span<const int32_t> lengths, double tgt,
                      const CostOptions& options) {
  Builder b(config, Side::kDecoder, options);
  const double rows = static_cast<double>(lengths.size()) * options.rows_per_source;
  const double histories = options.shared_history ? static_cast<double>(lengths.size()) : rows;
  const double source_tokens = total(lengths);
  b.at(PhaseKind::kEmbed).other_bytes = rows * kIdBytes;
  b.at(PhaseKind::kEmbed).launches = 1;
  b.sums(3, rows);
  b.norms(3 * b.layers() + b.outer_norms());
  b.product(PhaseKind::kSelfQkv, rows, config.d_model, 3 * b.inner());
  // The token's own key and value are written once and not read back: tgt positions move tgt - 1 reads and 1 write.
  b.attention(PhaseKind::kSelfAttention, rows * tgt);
  b.at(PhaseKind::kSelfAttention).kv_bytes = b.layers() * histories * (tgt - 1) * b.kv_token_bytes();
  b.at(PhaseKind::kSelfAttention).written_bytes = b.layers() * rows * b.kv_token_bytes();
  b.product(PhaseKind::kSelfOut, rows, b.inner(), config.d_model);
  b.product(PhaseKind::kCrossQkv, rows, config.d_model, b.inner());
  b.attention(PhaseKind::kCrossAttention, source_tokens * options.rows_per_source);
  b.at(PhaseKind::kCrossAttention).kv_bytes = b.layers() * source_tokens * b.kv_token_bytes();
  b.product(PhaseKind::kCrossOut, rows, b.inner(), config.d_model);
  b.ffn(rows);
  PhaseCost& head = b.at(PhaseKind::kHead);
  head.weight_bytes = b.matrix_bytes(TensorUse::kHead, config.d_model, b.vocab()) +
                      (config.head_bias ? static_cast<double>(b.vocab()) * b.small_bytes() : 0);
  if (options.form.head == HeadStorage::k16Bit) head.unit = ComputeUnit::kActivations;
  head.flops = 2.0 * rows * config.d_model * static_cast<double>(b.vocab());
  head.launches = 1;
  PhaseCost& select = b.at(PhaseKind::kSelect);
  select.written_bytes = rows * kIdBytes;
  if (options.degree > 1) {  // the ranks' best: a score and an id each
    select.launches = 1;
    select.collectives = 1;
    select.collective_bytes = 2 * rows * kIdBytes;
    select.link_bytes = (options.degree - 1) * select.collective_bytes;
  }
  return b.take();
}

Cost generate_cost(const ModelConfig& config, std::span<const int32_t> lengths, int tgt,
                   const CostOptions& options) {
  Cost cost = encoder_cost(config, lengths, options);
  cost.add(cross_kv_cost(config, lengths, options));
  // A step's cost is linear in its position: tgt times the step at the mean position is their sum exactly.
  cost.add(decode_step_cost(config, lengths, (tgt + 1) / 2.0, options), tgt);
  return cost;
}

}  // namespace tandem
