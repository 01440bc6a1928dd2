// What the operations of suite_kernels are made with. Internal to kernel_ops.cc and attention_ops.cc.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "harness/base/random.h"
#include "harness/sweep/case_batch.h"
#include "kernels/common/arch.h"
#include "kernels/ops/op_runner.h"

namespace tandem::kernels {

/// The c-th of several independent draws below n.
inline int64_t draw(uint64_t c, int64_t n) {
  return uniform_below(stream_key(kInputSeed, "op.samples"), c, static_cast<uint32_t>(n));
}

inline int64_t bytes_of(const std::vector<int32_t>& v) {
  return static_cast<int64_t>(v.size() * sizeof(int32_t));
}

/// What all operations are made with.
struct OpSetup {
  std::shared_ptr<Device> device;
  const Case& c;
  const ModelConfig& config;
  MemoryResource& memory = device->memory("level2");
  DType dtype = activation_dtype(c.precision);
  DType kv = kv_dtype(c.precision, parse_kv(c.kv));
  std::vector<int32_t> lengths = case_lengths(c);
  std::vector<int32_t> offsets = [this] {
    std::vector<int32_t> o(lengths.size() + 1, 0);
    std::partial_sum(lengths.begin(), lengths.end(), o.begin() + 1);
    return o;
  }();

  int64_t bytes(int64_t elements) const { return tensor_bytes(dtype, elements); }
  PlanBuilder builder(Side side) const {
    PlanBuilder b({.config = config,
                   .weights = {},
                   .precision = c.precision,
                   .kv = parse_kv(c.kv),
                   .kernel = parse_kernel(c.kernel),
                   .batch = c.batch,
                   .source_tokens = offsets.back(),
                   .max_source = *std::max_element(lengths.begin(), lengths.end()),
                   .capacity = c.tgt,
                   .structured = parse_sparsity(c.sparsity).two_of_four && device->structured() != nullptr,
                   .tiled = current_arch().sm90a});
    b.section(PlanSection::kStep, side);
    return b;
  }
  std::unique_ptr<OpRunner> runner(PlanBuilder& b, std::shared_ptr<OpWeights> weights, int copies) const {
    return std::make_unique<OpRunner>(device, memory, b.finish(), std::move(weights), copies);
  }
  std::shared_ptr<OpWeights> weights(const std::vector<OpWeights::Region>& regions, int copies) const {
    return std::make_shared<OpWeights>(*device, memory, regions, copies);
  }
};

OpWorkload encoder_attention_op(const OpSetup& s);
OpWorkload self_attention_op(const OpSetup& s);
OpWorkload cross_attention_op(const OpSetup& s);

}  // namespace tandem::kernels
