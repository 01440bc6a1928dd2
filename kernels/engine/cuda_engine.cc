#include "kernels/engine/cuda_engine.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <chrono>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/sweep/files.h"
#include "harness/sweep/values.h"
#include "kernels/attention/attention_index.h"
#include "kernels/common/arch.h"
#include "kernels/decoding/pack_rules.h"
#include "kernels/gemm/problem.h"
#include "kernels/ops/op_workloads.h"
#include "kernels/plan/card_form.h"
#include "kernels/runtime/forms/step_race.h"
#include "kernels/runtime/observed_inputs.h"
#include "kernels/skinny/skinny_shape.h"
#include "kernels/tiled_gemm/tiled_shape.h"

namespace tandem::kernels {
namespace {

[[noreturn]] void impossible(const std::string& why) {
  throw ImpossibleCase(why);
}

/// Throws ImpossibleCase unless the axis has the one value that the engine computes.
void only(std::string_view axis, std::string_view value, std::string_view allowed) {
  if (value != allowed)
    impossible(fmt::format("{}: engine 'cuda' computes {} only, not '{}'", axis, allowed, value));
}

void check_axes(const Case& c) {
  if (dtype_bits(kv_dtype(c.precision, parse_kv(c.kv))) == 8 &&
      activation_dtype(c.precision) != DType::kBF16) {
    impossible(fmt::format(
        "kv: engine 'cuda' keeps keys and values in 8 bits beside activations of bf16 only, not with "
        "precision '{}'",
        precision_name(c.precision)));
  }
  if (c.suite == Suite::kMemory) only("sparsity", c.sparsity, "dense");
  // Nobody has the whole model's scales of a rank's inputs.
  if (is_op_suite(c.suite) || c.tp > 1) only("calibration", c.calibration, "none");
  if (is_op_suite(c.suite) && c.suite != Suite::kCollectives) only("tp", std::to_string(c.tp), "1");
  if (c.suite != Suite::kGenerate) only("decode", c.decode, "greedy");
}

/// What the kernels ask of the sizes of what pruning leaves of a model, of a rank's share where there are several.
void check_model(const ModelConfig& whole, const Case& asked) {
  const ModelConfig c = rank_config(smaller_config(whole, parse_sparsity(asked.sparsity)), asked.tp);
  const Precision precision = asked.precision;
  const bool codes = quantises_activations({.precision = precision});
  const auto multiple_of = [&](int unit, std::string_view field, int value) {
    if (value % unit != 0) {
      impossible(fmt::format("model: {}: engine 'cuda' needs a multiple of {} with precision '{}', not {}",
                             field, unit, precision_name(precision), value));
    }
  };
  // Rows of codes begin on 16 bytes.
  const int unit = codes ? 16 : 8;
  multiple_of(unit, "d_model", c.d_model);
  multiple_of(8, "head_dim", c.head_dim);
  multiple_of(unit, "encoder heads * head_dim", c.inner(c.encoder));
  const bool narrow_kv = dtype_bits(kv_dtype(precision, parse_kv(asked.kv))) == 8;
  multiple_of(narrow_kv ? 16 : unit, "decoder heads * head_dim", c.inner(c.decoder));
  multiple_of(unit, "encoder.d_ff", c.encoder.d_ff);
  multiple_of(unit, "decoder.d_ff", c.decoder.d_ff);
  if (c.head_dim > 128)
    impossible(fmt::format("model: head_dim: engine 'cuda' needs at most 128, not {}", c.head_dim));
  if (c.position != Position::kRelative) return;
  if (c.relative_max_distance > kMaxDistance) {
    impossible(fmt::format("model: relative_max_distance: engine 'cuda' needs at most {}, not {}",
                           kMaxDistance, c.relative_max_distance));
  }
  if (c.relative_buckets > kMaxBuckets) {
    impossible(fmt::format("model: relative_buckets: engine 'cuda' needs at most {}, not {}", kMaxBuckets,
                           c.relative_buckets));
  }
}

WorkloadParams workload_params(const Case& c, const ModelConfig& config) {
  WorkloadParams params{.kernel = parse_kernel(c.kernel),
                        .kv = parse_kv(c.kv),
                        .capacity = c.suite == Suite::kEncoder ? 0 : c.tgt,
                        .stop_at_eos = c.suite == Suite::kGenerate && c.stop == "eos"};
  if (c.suite == Suite::kGenerate && c.decode != "greedy") params.generation = case_generation(c, config);
  return params;
}

/// Bytes that weights and plan of a case take on each device, without making either.
int64_t predicted_bytes(const Case& c, const ModelConfig& config) {
  WeightForm form = card_form(weight_form(c));
  form.slice.degree = c.tp;
  const WeightLayout layout = weight_layout(config, form);
  // Views that nothing is read through: a plan only passes them on.
  const ModelWeights weights = bind_weights(layout, reinterpret_cast<const void*>(kPlanAlignment));
  PlanRequest request =
      plan_request(layout.config, weights, c.precision, case_batch(c, config), workload_params(c, config));
  if (c.tp > 1) request.slice = form.slice;
  const StepPlan plan = build_plan(request);
  return layout.bytes + plan.arena_bytes;
}

void check_rules(const GenerationConfig& g, const ModelConfig& config) {
  if (const std::string why = unsupported_rules(g, config.vocab); !why.empty())
    impossible(fmt::format("decode: engine 'cuda': {}", why));
}

/// Has the own kernel for many rows all products of an encoder?
bool tiled_encoder(const Case& c, const ModelConfig& config) {
  const DType dtype = activation_dtype(c.precision);
  const auto takes = [&](int64_t width) { return tiled_gemm_supports(dtype, c.batch, width, width); };
  return current_arch().sm90a && weight_dtype(c.precision) == dtype && parse_sparsity(c.sparsity).dense() &&
         takes(config.d_model) && takes(config.inner(config.encoder)) && takes(config.encoder.d_ff);
}

void check_own_kernel(const Case& c, const ModelConfig& config) {
  if (parse_kernel(c.kernel) != KernelChoice::kOwn) return;
  const bool encoder = c.suite == Suite::kEncoder;
  const int64_t rows = int64_t{c.batch} * (encoder ? c.src : parse_decode(c.decode).beams);
  if (rows > kSkinnyMaxRows && !(encoder && tiled_encoder(c, config))) {
    impossible(fmt::format(
        "kernel: own has no such dense product of more than {} rows, the case has {}; allowed: those of "
        "encoders in fp16 and bf16, dense, on sm_90a",
        kSkinnyMaxRows, rows));
  }
}

}  // namespace

CudaEngine::CudaEngine(const CudaEngineOptions& options) : device_(std::make_shared<Device>(options)) {}

void CudaEngine::check_card(const Case& c) const {
  const DType codes = weight_dtype(c.precision);
  if (!quantises_activations({.precision = c.precision})) return;
  if (const std::string why = library_lacks(codes, device_->lt().compute_capability()); !why.empty())
    impossible(why);
}

void CudaEngine::check_supported(const Case& c) const {
  check_axes(c);
  if (c.suite == Suite::kLimits) return check_limits_op(c);
  if (c.suite == Suite::kCollectives) return check_collectives_op(c);
  const ModelConfig config = load_model(c.model);
  check_model(config, c);
  check_card(c);
  if (c.suite == Suite::kKernels) return check_kernels_op(c, config);
  if (!is_model_suite(c.suite)) return;
  check_own_kernel(c, config);
  if (c.decode != "greedy") check_rules(case_generation(c, config), config);
  const int64_t bytes = predicted_bytes(c, config);
  if (bytes > device_->total_bytes()) throw OutOfMemory(bytes, "GPU memory (predicted by the plan)");
}

void CudaEngine::load(const Case& c, const ModelConfig& config, const WeightForm& form) {
  const auto start = std::chrono::steady_clock::now();
  check_axes(c);
  check_model(config, c);
  device_->activate();
  model_.reset();
  if (largest_case_bytes_ > 0) device_->level2().trim();  // another group: its weights come first again
  if (device_->slice().degree != 1 && device_->slice().degree != c.tp)
    throw Error(fmt::format("tp: {} ranks share a model, the case has {}", device_->slice().degree, c.tp));
  WeightForm mine = form;
  mine.slice = device_->slice();
  const bool checkpoint = parse_weights(c.weights).checkpoint;
  loaded_memory_ = c.memory;
  loaded_kernel_ = parse_kernel(c.kernel);
  loaded_kv_ = parse_kv(c.kv);
  loaded_form_.clear();
  device_->use_all_reduce(parse_all_reduce(c.allreduce));
  model_ = std::make_shared<const DeviceModel>(
      load_device_model(*device_, device_->memory(c.memory),
                        {.config = config,
                         .weights = parse_weights(c.weights),
                         .precision = c.precision,
                         .form = mine,
                         .scales = scales(),
                         .folder = checkpoint ? c.model : "",
                         .content = checkpoint ? content_sha256(c.model) : "",
                         .level1 = c.memory == "level1"}));
  load_us_ = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  largest_case_bytes_ = largest_expected(c, config);
}

int64_t CudaEngine::largest_expected(const Case& c, const ModelConfig& config) const {
  // What the plan does not know, workspaces of the library and tables of the host, is small beside it.
  constexpr int64_t kBesideThePlan = int64_t{128} << 20;
  int64_t most = 0;
  for (const Case& other : expected_) {
    if (other.memory == "gpu" || !is_model_suite(other.suite) || group_key(other) != group_key(c)) continue;
    try {
      most = std::max(most, predicted_bytes(other, config) - model_->weight_bytes() + kBesideThePlan);
    } catch (const ImpossibleCase&) {  // it will say so itself
    }
  }
  return most;
}

CalibrationStats CudaEngine::observed_inputs(const WeightLayout& calibrated) {
  return kernels::observed_inputs(context(loaded_memory_), calibrated);
}

std::optional<WeightCount> CudaEngine::weight_count() const {
  return model_ ? std::optional(model_->count) : std::nullopt;
}

std::optional<int64_t> CudaEngine::weights_bytes() const {
  return model_ ? std::optional(model_->weight_bytes()) : std::nullopt;
}

WorkloadContext CudaEngine::context(const std::string& memory) const {
  if (!model_) throw Error("engine 'cuda': no model is loaded");
  return {.device = device_, .memory = &device_->memory(memory), .model = model_};
}

std::unique_ptr<Workload> CudaEngine::prepare(const Case& c, const TransformerBatch& batch) {
  WorkloadParams params = workload_params(c, context(c.memory).model->config);
  if (params.capacity > 0) params.step_form = step_form(context(c.memory), batch, params);
  loaded_form_ = params.step_form;
  loaded_kernel_ = params.kernel;
  loaded_kv_ = params.kv;
  device_->use_all_reduce(parse_all_reduce(c.allreduce));
  if (largest_case_bytes_ > 0) device_->level2().keep(largest_case_bytes_);  // a race has left it
  switch (c.suite) {
    case Suite::kEncoder:
      return encoder_workload(context(c.memory), batch, params);
    case Suite::kDecoder:
      return decoder_workload(context(c.memory), batch, params);
    case Suite::kGenerate:
      return generate_workload(context(c.memory), batch, params);
    default:
      impossible(fmt::format("suite: '{}' is not a pass over a model", suite_name(c.suite)));
  }
}

Output CudaEngine::forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) {
  if (steps < 1 || tokens.size() != static_cast<size_t>(batch.size()) * steps) {
    throw Error(fmt::format("forced logits: {} tokens for {} sequences of {} steps", tokens.size(),
                            batch.size(), steps));
  }
  return kernels::forced_logits(
      context(loaded_memory_), batch, tokens,
      {.kernel = loaded_kernel_, .kv = loaded_kv_, .capacity = steps, .step_form = loaded_form_});
}

std::vector<std::vector<Sequence>> CudaEngine::decode(const TransformerBatch& batch,
                                                      const GenerationConfig& generation,
                                                      std::span<const uint64_t> seeds) {
  const WorkloadContext loaded = context(loaded_memory_);
  const ModelConfig& config = loaded.model->config;
  check_fits(generation, config, batch.longest);
  if (!seeds.empty() && static_cast<int>(seeds.size()) != batch.size())
    throw Error(fmt::format("generation: {} seeds for {} sources", seeds.size(), batch.size()));
  check_rules(generation, config);
  return kernels::decode(loaded, batch,
                         {.kernel = loaded_kernel_,
                          .kv = loaded_kv_,
                          .capacity = generation.max_length - 1,
                          .stop_at_eos = true,
                          .generation = generation,
                          .seeds = {seeds.begin(), seeds.end()}});
}

OpWorkload CudaEngine::prepare_op(const Case& c, const ModelConfig& config) {
  device_->activate();
  switch (c.suite) {
    case Suite::kKernels:
      return kernels_op(device_, c, config);
    case Suite::kCollectives:
      return collectives_op(device_, c, config);
    case Suite::kLimits:
      return limits_op(device_, c);
    case Suite::kMemory:
      return memory_op(device_, c, config);
    default:
      impossible(fmt::format("suite: '{}' has no operations", suite_name(c.suite)));
  }
}

bool cuda_usable(int device, std::string* reason) {
  const std::string why = why_unusable(device);
  if (reason != nullptr) *reason = why;
  return why.empty();
}

}  // namespace tandem::kernels
