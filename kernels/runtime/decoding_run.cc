#include "kernels/runtime/decoding_run.h"

#include <algorithm>

#include "harness/base/cuda_check.h"
#include "kernels/decoding/pack_rules.h"
#include "kernels/decoding/select.h"

namespace tandem::kernels {

namespace {

/// The ids whose logits a rank computes.
Slice vocabulary_of(const WorkloadContext& context, int rank) {
  const ModelConfig& c = context.model->config;
  return layer_parallel(c.decoder, c.vocab, context.device->slice().degree, rank, 0).vocab_slice;
}

}  // namespace

PlanRequest request_of(const WorkloadContext& context, const TransformerBatch& batch,
                       const WorkloadParams& params) {
  const DeviceModel& model = *context.model;
  PlanRequest request = plan_request(model.config, model.weights, model.precision, batch, params);
  if (context.device->ranks() != nullptr) request.slice = context.device->slice();
  const bool fours = model.layout.form.sparsity.two_of_four && !model.layout.form.zeros_stored;
  request.structured = fours && context.device->structured() != nullptr;
  return request;
}

StepPlan plan_of(const WorkloadContext& context, const TransformerBatch& batch,
                 const WorkloadParams& params) {
  StepPlan plan = build_plan(request_of(context, batch, params));
  if (const auto& edit = context.device->options().edit_plan) edit(plan);
  return plan;
}

void upload_source(PlanExecutor& run, const TransformerBatch& batch) {
  const auto bytes = [](const std::vector<int32_t>& v) {
    return static_cast<int64_t>(v.size() * sizeof(int32_t));
  };
  run.upload(plan_names::kSourceIds, batch.ids.data(), bytes(batch.ids));
  run.upload(plan_names::kSourceOffsets, batch.offsets.data(), bytes(batch.offsets));
}

Decoding::Decoding(const WorkloadContext& context, const TransformerBatch& batch,
                   const WorkloadParams& params)
    : context_(context),
      batch_(batch.size()),
      vocabulary_(vocabulary_of(context, context.device->slice().rank)),
      run_(*context.device, *context.memory, plan_of(context, batch, params)) {
  upload_source(run_, batch);
  if (run_.has(plan_names::kKeys)) upload_keys(params.seeds);
}

void Decoding::upload_keys(std::span<const uint64_t> seeds) {
  const StepPlan& plan = run_.plan();
  std::vector<uint64_t> keys;
  for (int r = 0; r < rows(); ++r) {
    const auto source = static_cast<uint64_t>(r / plan.rows_per_source);
    const uint64_t seed = seeds.empty() ? plan.generation->seed + source : seeds[source];
    keys.push_back(sampling_key(seed, static_cast<uint64_t>(r % plan.rows_per_source)));
  }
  run_.upload(plan_names::kKeys, keys.data(), static_cast<int64_t>(keys.size() * sizeof(uint64_t)));
}

void Decoding::start(int position, const int32_t* ids) {
  const PhaseRange phase({PhaseKind::kSelect, Side::kDecoder, -1});  // whose state it is
  const auto& generation = run_.plan().generation;
  const bool ends = run_.has(plan_names::kFinished);
  launch_decode_state({.batch = rows(),
                       .position_value = position,
                       .ids = ids,
                       .id = generation ? generation->decoder_start_id : config().decoder_start_id,
                       .pad_id = generation ? generation->pad_id : config().pad_id,
                       .next_ids = run_.data<int32_t>(plan_names::kNextIds),
                       .position = run_.data<int32_t>(plan_names::kPosition),
                       .tokens = run_.data<int32_t>(plan_names::kTokens),
                       .tokens_count = run_.plan().buffer(plan_names::kTokens).elements,
                       .finished = ends ? run_.data<int32_t>(plan_names::kFinished) : nullptr,
                       .running = ends ? run_.data<int32_t>(plan_names::kRunning) : nullptr},
                      stream());
  run_.start_search();
}

void Decoding::feed(const int32_t* ids) {
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(run_.data<int32_t>(plan_names::kNextIds), ids,
                                    static_cast<size_t>(tensor_bytes(DType::kI32, rows())),
                                    cudaMemcpyDeviceToDevice, stream()));
}

void Decoding::encode() {
  run_.run(PlanSection::kEncoder);
  run_.run(PlanSection::kCrossKv);
}

MemoryBlock Decoding::upload_columns(std::span<const int32_t> tokens, int steps) {
  std::vector<int32_t> columns(tokens.size());
  for (int b = 0; b < batch_; ++b) {
    for (int t = 0; t < steps; ++t)
      columns[static_cast<size_t>(t) * batch_ + b] = tokens[static_cast<size_t>(b) * steps + t];
  }
  MemoryBlock block(*context_.memory, static_cast<int64_t>(columns.size() * sizeof(int32_t)));
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(block.data(), columns.data(), columns.size() * sizeof(int32_t),
                                    cudaMemcpyHostToDevice, stream()));
  context_.device->synchronize();
  return block;
}

std::vector<float> Decoding::of_all_ranks(std::vector<float> logits) const {
  const int degree = context_.device->slice().degree;
  if (degree == 1) return logits;
  const auto rows = logits.size() / static_cast<size_t>(vocabulary_.count);
  const auto share = static_cast<size_t>(vocabulary_of(context_, 0).count);
  logits.resize(rows * share);  // the last rank has fewer
  std::vector<float> given(logits.size() * static_cast<size_t>(degree));
  context_.device->options().tensor->all_gather(logits.data(), given.data(),
                                                static_cast<int64_t>(logits.size() * sizeof(float)), nullptr);
  const auto vocab = static_cast<size_t>(config().vocab);
  std::vector<float> whole(rows * vocab);
  for (int rank = 0; rank < degree; ++rank) {
    const Slice ids = vocabulary_of(context_, rank);
    const float* from = given.data() + static_cast<size_t>(rank) * logits.size();
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(from + r * static_cast<size_t>(ids.count), ids.count,
                  whole.data() + r * vocab + static_cast<size_t>(ids.first));
    }
  }
  return whole;
}

std::vector<std::vector<Sequence>> Decoding::sequences() const {
  std::vector<std::vector<Sequence>> out;
  const bool beams = run_.plan().generation.value().beams > 1;
  const auto found = beams ? searched() : chosen();
  const int per_source = run_.plan().rows_per_source;
  for (int s = 0; s < batch_; ++s) {
    const auto first = found.begin() + static_cast<ptrdiff_t>(s) * per_source;
    out.emplace_back(first, first + (beams ? run_.plan().generation->n_best : per_source));
  }
  return out;
}

std::vector<Sequence> Decoding::searched() const {
  const auto tokens = run_.integers(plan_names::kHypotheses), lengths = run_.integers(plan_names::kLengths),
             slots = run_.integers(plan_names::kSlots);
  const std::vector<float> scores = run_.floats(plan_names::kScores);
  const int per_source = run_.plan().rows_per_source;
  std::vector<Sequence> out;
  for (int r = 0; r < rows(); ++r) {
    const int row = r / per_source * per_source + slots[static_cast<size_t>(r)];
    const auto first = tokens.begin() + static_cast<ptrdiff_t>(row) * run_.plan().capacity;
    out.push_back({.tokens = {first, first + lengths[static_cast<size_t>(row)]},
                   .score = scores[static_cast<size_t>(r)]});
  }
  return out;
}

std::vector<Sequence> Decoding::chosen() const {
  const std::vector<int32_t> tokens = run_.integers(plan_names::kTokens);
  const std::vector<float> log_probabilities = run_.floats(plan_names::kLogProbabilities);
  const std::vector<int32_t>& eos = run_.plan().generation->eos_ids;
  std::vector<Sequence> out;
  for (int r = 0; r < rows(); ++r) {
    Sequence s;
    const auto first = static_cast<size_t>(r) * static_cast<size_t>(run_.plan().capacity);
    for (size_t t = first; t < first + static_cast<size_t>(run_.plan().capacity); ++t) {
      s.tokens.push_back(tokens[t]);
      s.score += log_probabilities[t];
      if (std::ranges::count(eos, tokens[t]) > 0) break;
    }
    out.push_back(std::move(s));
  }
  return out;
}

}  // namespace tandem::kernels
