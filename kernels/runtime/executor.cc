#include "kernels/runtime/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/host_device.h"
#include "harness/base/random.h"
#include "harness/sweep/case_batch.h"
#include "kernels/attention/relative_bias.h"
#include "kernels/decoding/pack_rules.h"
#include "kernels/embedding/embedding.h"
#include "kernels/gemm/operands.h"
#include "kernels/plan/kernel_check.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {
namespace {

bool problem_less(const GemmProblem& a, const GemmProblem& b) {
  return problem_text(a) < problem_text(b);
}

GemmEpilogue epilogue_of(const DenseOp& op) {
  const bool bias = !op.weight.bias.empty();
  if (!op.activation) return bias ? GemmEpilogue::kBias : GemmEpilogue::kNone;
  if (*op.activation == Activation::kRelu) return bias ? GemmEpilogue::kBiasRelu : GemmEpilogue::kRelu;
  if (*op.activation == Activation::kGeluTanh)
    return bias ? GemmEpilogue::kBiasGeluTanh : GemmEpilogue::kGeluTanh;
  throw Error("plan: the library's products have no such activation");
}

/// Alignment of an element of the arena, whose start is a multiple of kPlanAlignment.
int offset_alignment(const StepPlan& plan, const PlanTensor& t) {
  if (t.empty()) return 16;
  const PlanBuffer& b = plan.buffers[t.buffer];
  return pointer_alignment(reinterpret_cast<const void*>(b.offset_bytes + tensor_bytes(b.dtype, t.offset)));
}

}  // namespace

PlanExecutor::PlanExecutor(Device& device, MemoryResource& memory, StepPlan plan)
    : device_(device),
      memory_(memory),
      plan_(std::move(plan)),
      products_(problem_less),
      structured_(device, memory),
      all_reduce_(device.all_reduce()) {
  check_kernels(plan_);
  device_.activate();
  check_fits(plan_.arena_bytes);
  find_products();
  int64_t workspace = structured_.workspace_bytes();
  for (const auto& [problem, gemm] : products_) workspace = std::max(workspace, gemm.workspace_bytes());
  arena_ = MemoryBlock(memory_, plan_.arena_bytes);
  workspace_ = MemoryBlock(memory_, workspace);
  poison();
  if (plan_.capacity > 0) {
    head_workspace_ = MemoryBlock(
        memory_, head_workspace_bytes(std::min(plan_.batch * plan_.rows_per_source, kSkinnyMaxRows)));
    TANDEM_CUDA_CHECK(cudaMemsetAsync(head_workspace_.data(), 0, static_cast<size_t>(head_workspace_.bytes()),
                                      device_.stream()));
  }
  fill_constants();
}

PlanExecutor::~PlanExecutor() {
  // What was enqueued still uses the blocks that go back to the cache.
  TANDEM_CUDA_WARN(cudaStreamSynchronize(device_.stream()));
}

void PlanExecutor::check_fits(int64_t bytes) const {
  if (bytes > device_.free_bytes()) throw OutOfMemory(bytes, "GPU memory (predicted by the plan)");
}

void* PlanExecutor::at(const PlanTensor& t) const {
  if (t.empty()) return nullptr;
  const PlanBuffer& b = plan_.buffers[t.buffer];
  return base() + b.offset_bytes + tensor_bytes(b.dtype, t.offset);
}

GemmProblem PlanExecutor::problem(const DenseOp& op) const {
  const DenseWeight& w = op.weight;
  const bool sums = !op.scratch.empty() && type(op.scratch) == DType::kI32;
  const bool made = !op.scratch.empty() && !sums;
  const PlanTensor& y = sums ? op.scratch : op.y;
  int alignment = std::min({offset_alignment(plan_, op.x), offset_alignment(plan_, y),
                            offset_alignment(plan_, op.residual),
                            made ? offset_alignment(plan_, op.scratch) : pointer_alignment(w.weight.data)});
  if (!w.bias.empty()) alignment = std::min(alignment, pointer_alignment(w.bias.data));
  GemmProblem p{.m = op.x.rows,
                .n = w.weight.rows,
                .k = op.x.cols,
                .x = type(op.x),
                .w = made ? type(op.scratch) : w.weight.dtype,
                .out = type(y),
                .tf32 = plan_.precision == Precision::kTf32,
                .epilogue = sums ? GemmEpilogue::kNone : epilogue_of(op),
                .residual = !sums && !op.residual.empty(),
                .ldx = op.x.stride == op.x.cols ? 0 : op.x.stride,
                .ldy = y.stride,
                .alignment = alignment};
  // The library's 8-bit products have whole 16 bytes a row of y: an odd vocabulary's columns go on into y's padding, with
  // whatever follows the matrix and its scales in the arena (weight_layout() leaves room).
  if (w.input_dtype) p.n = std::min(y.stride, round_up(p.n, kPlanRowElements));
  if (p.ldy == p.n) p.ldy = 0;
  return p;
}

void PlanExecutor::find_products() {
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    const auto* dense = std::get_if<DenseOp>(&plan_.ops[i].body);
    if (dense == nullptr) continue;
    if (dense->kernel == DenseKernel::kStructured) {
      GemmProblem p = problem(*dense);
      p.two_of_four = true;
      structured_.add(static_cast<int>(i), p, dense->weight);
    }
    if (dense->kernel != DenseKernel::kLibrary) continue;
    const GemmProblem p = problem(*dense);
    auto found = products_.find(p);
    if (found == products_.end()) found = products_.emplace(p, device_.gemm(p)).first;
    product_of_op_[static_cast<int>(i)] = &found->second;
  }
  device_.save_choices();
}

void PlanExecutor::fill_constants() {
  const ModelConfig& c = plan_.config;
  if (plan_.has(plan_names::kSinusoids)) {
    const PlanBuffer& b = plan_.buffer(plan_names::kSinusoids);
    const std::vector<float> table = sinusoid_table({.rows = static_cast<int>(b.elements / c.d_model),
                                                     .d = c.d_model,
                                                     .halves = c.position == Position::kSinusoidalHalves,
                                                     .spans_end = c.sinusoid_spans_end});
    upload(plan_names::kSinusoids, table.data(), b.bytes());
  }
  if (plan_.generation) {
    const std::vector<int32_t> table = pack_rules(*plan_.generation, c.vocab).table;
    upload(plan_names::kRules, table.data(), static_cast<int64_t>(table.size() * sizeof(int32_t)));
  }
  std::set<int> filled;  // layers of a side share a bias, or have one each
  for (const PlanOp& op : plan_.ops) {
    if (const auto* a = std::get_if<EncoderAttentionOp>(&op.body);
        a != nullptr && filled.insert(a->bias.distance_bias.buffer).second) {
      fill_distance_bias(a->bias, a->heads, true);
    }
    if (const auto* a = std::get_if<SelfAttentionOp>(&op.body);
        a != nullptr && filled.insert(a->bias.distance_bias.buffer).second) {
      fill_distance_bias(a->bias, a->heads, false);
    }
    if (const auto* dense = std::get_if<DenseOp>(&op.body)) fill_norm_sums(*dense);
  }
  device_.synchronize();
}

void PlanExecutor::fill_norm_sums(const DenseOp& op) {
  if (op.norm_sums.empty()) return;
  const TensorView& w = op.weight.weight;
  for (const auto& [row, of] : {std::pair{0, op.norm->gamma}, {1, op.norm->beta}}) {
    launch_skinny({.dtype = w.dtype,
                   .m = 1,
                   .n = static_cast<int>(w.rows),
                   .k = static_cast<int>(w.cols),
                   .x = of.data,
                   .w = w.data,
                   .y = at(op.norm_sums.some_rows(row, 1)),
                   .y_float = true,
                   .dependent = false},
                  device_.stream());
  }
}

void PlanExecutor::fill_distance_bias(const RelativeBiasRef& bias, int heads, bool bidirectional) {
  if (bias.distance_bias.empty()) return;
  launch_distance_bias({.dtype = bias.table.dtype,
                        .table = bias.table.data,
                        .buckets = plan_.config.relative_buckets,
                        .heads = heads,
                        .max_distance = plan_.config.relative_max_distance,
                        .bidirectional = bidirectional,
                        .distance_bias = at<float>(bias.distance_bias)},
                       device_.stream());
}

void PlanExecutor::fill_random(std::string_view buffer, float scale) {
  const PlanBuffer& b = plan_.buffer(buffer);
  launch_random_fill({.out = data<void>(buffer),
                      .dtype = b.dtype,
                      .count = b.elements,
                      .key = stream_key(kInputSeed, b.name),
                      .scale = scale},
                     device_.stream());
}

void PlanExecutor::upload(std::string_view buffer, const void* values, int64_t bytes) {
  const PlanBuffer& b = plan_.buffer(buffer);
  if (bytes > b.bytes()) throw Error(fmt::format("plan: {} bytes for '{}' of {}", bytes, buffer, b.bytes()));
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(base() + b.offset_bytes, values, static_cast<size_t>(bytes),
                                    cudaMemcpyHostToDevice, device_.stream()));
  device_.synchronize();
}

std::vector<float> PlanExecutor::floats(std::string_view buffer) const {
  const PlanBuffer& b = plan_.buffer(buffer);
  std::vector<char> raw(static_cast<size_t>(b.bytes()));
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(raw.data(), base() + b.offset_bytes, raw.size(), cudaMemcpyDeviceToHost,
                                    device_.stream()));
  device_.synchronize();
  std::vector<float> values(static_cast<size_t>(b.elements));
  const auto* bits = reinterpret_cast<const uint16_t*>(raw.data());
  switch (b.dtype) {
    case DType::kF32:
      std::copy_n(reinterpret_cast<const float*>(raw.data()), values.size(), values.begin());
      break;
    case DType::kF16:
      std::transform(bits, bits + values.size(), values.begin(), fp16_to_float);
      break;
    case DType::kBF16:
      std::transform(bits, bits + values.size(), values.begin(), bf16_to_float);
      break;
    default:
      throw Error(fmt::format("plan: '{}' holds no floating-point values", buffer));
  }
  return values;
}

std::vector<float> PlanExecutor::floats(const PlanTensor& t) const {
  const std::vector<float> all = floats(plan_.buffers.at(static_cast<size_t>(t.buffer)).name);
  std::vector<float> values;
  for (int64_t r = 0; r < t.rows; ++r) {
    const auto row = all.begin() + t.offset + r * t.stride;
    values.insert(values.end(), row, row + t.cols);
  }
  return values;
}

std::vector<int32_t> PlanExecutor::integers(std::string_view buffer) const {
  const PlanBuffer& b = plan_.buffer(buffer);
  if (b.dtype != DType::kI32) throw Error(fmt::format("plan: '{}' holds no 32-bit integers", buffer));
  std::vector<int32_t> values(static_cast<size_t>(b.elements));
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(values.data(), base() + b.offset_bytes, static_cast<size_t>(b.bytes()),
                                    cudaMemcpyDeviceToHost, device_.stream()));
  device_.synchronize();
  return values;
}

void PlanExecutor::poison() {
  TANDEM_CUDA_CHECK(cudaMemsetAsync(base(), 0xff, static_cast<size_t>(arena_.bytes()), device_.stream()));
  if (workspace_) {
    TANDEM_CUDA_CHECK(
        cudaMemsetAsync(workspace_.data(), 0xff, static_cast<size_t>(workspace_.bytes()), device_.stream()));
  }
}

void PlanExecutor::run(PlanSection section, float* logits) {
  logits_ = logits;
  const OpRange& range = plan_.section(section);
  for (op_ = range.first; op_ < range.last; ++op_) {
    const PlanOp& op = plan_.ops[op_];
    if (see_) see_(op);
    const PhaseRange phase(op.phase);
    // A section begins after everything before it: its chain of dependent launches may then read ahead whatever earlier
    // sections and steps left (kv_ready of the attention kernels). A step keeps that promise by its first kernel, the
    // embedding, which waits before it lets the next one start.
    const bool first = op_ == range.first;
    dependent_ = device_.dependent_launch() && !behind_library_ranks_ &&
                 (!first || std::holds_alternative<EmbedOp>(op.body));
    behind_library_ranks_ = false;
    std::visit([this](const auto& body) { launch(body); }, op.body);
  }
  logits_ = nullptr;
}

}  // namespace tandem::kernels
