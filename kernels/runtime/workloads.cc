#include "kernels/runtime/workloads.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "kernels/collectives/wait_meter.h"
#include "kernels/common/arch.h"
#include "kernels/plan/card_form.h"
#include "kernels/runtime/clock_mark.h"
#include "kernels/runtime/decoding_run.h"
#include "kernels/runtime/graph.h"

namespace tandem::kernels {
namespace {

/// Steps in one graph: enough that launching a graph (about 10 us of host time) hides behind running it, few
/// enough that building it stays short and that sequences that have ended are noticed soon.
constexpr int kStepsPerGraph = 16;
constexpr int kStepsPerGraphWithEos = 4;
/// A pass over so many tokens takes its time in products, over fewer in reading weights: 2 operations a weight of 2 bytes
/// and token, 817 TFLOP/s over 4.6 TB/s (bf16, the committed ceilings of an H200).
constexpr int kTokensOfProducts = 176;

class DeviceWorkload : public Workload {
 public:
  explicit DeviceWorkload(const WorkloadContext& context)
      : context_(activated(context)), library_calls_(library_calls()) {
    context_.device->meter().restart_peak();
  }
  /// What it has planted would run in the graphs of those that come after, and read weights that may be gone.
  ~DeviceWorkload() override {
    if (!planted_) return;
    try {
      context_.device->synchronize();
      set_planted_work({});
    } catch (const std::exception& e) {
      std::fprintf(stderr, "tandem: %s\n", e.what());
    }
  }

  int64_t peak_bytes() const override { return context_.device->meter().peak_bytes; }
  std::optional<int64_t> planned_bytes() const override { return planned_; }
  std::vector<std::string> kernels() const override { return kernels_; }
  std::vector<std::string> sparse_kernels() const override { return sparse_kernels_; }
  std::optional<double> graph_build_us() const override { return build_us_; }
  std::optional<std::string> exchange() const override {
    const DeviceRanks* ranks = context_.device->ranks();
    if (ranks == nullptr) return std::nullopt;
    return ways_text(context_.device->all_reduce(), ranks->table(), ranks->no_peers());
  }
  std::optional<double> mark_clock() override {
    const std::optional<double> mhz = clock_.mark(stream());
    if (mhz) mhz_ = mhz;
    return mhz;
  }
  bool plant(double amount) override {
    if (!plant_possible()) return false;
    planted_ = true;
    set_planted_work({.units = amount,
                      .kind = plant_kind_,
                      .weights = context_.model->arena.data(),
                      .bytes = context_.model->weight_bytes()});
    return true;
  }

 private:
  static const WorkloadContext& activated(const WorkloadContext& context) {
    context.device->activate();  // before the events are made
    return context;
  }

 protected:
  cudaStream_t stream() const { return context_.device->stream(); }
  void runs(const PlanExecutor& run) {
    planned_ = context_.model->weight_bytes() + run.bytes();
    kernels_ = kernel_lines(run.plan());
    const WeightForm& form = context_.model->layout.form;
    if (!form.sparsity.masks()) return;
    sparse_kernels_ = tandem::sparse_kernels(run.plan());
    if (form.zeros_stored) sparse_kernels_.push_back(zeros_reason(form));
  }
  /// A repetition of what `work()` enqueues.
  template <typename Work>
  Repetition timed(Work&& work) {
    context_.device->line_up();
    begin_.record(stream());
    work();
    end_.record(stream());
    context_.device->wait(end_.get());
    repeated_ = true;
    return {.total_us = end_.us_since(begin_), .step_us = {}, .first_token_us = {}, .wait_us = waited()};
  }
  /// What the repetition that has just ended waited for other ranks, where their exchanges are all by own kernels and the clock is
  /// known from the marks around blocks of samples. Meetings before a repetition do not count.
  std::optional<double> waited() {
    const DeviceRanks* ranks = context_.device->ranks();
    if (ranks == nullptr || library_calls() != library_calls_) return std::nullopt;
    const std::optional<uint64_t> before = std::exchange(cycles_, ranks->waited_cycles());
    if (!before || !cycles_) return std::nullopt;
    return waited_us(*before, *cycles_, mhz_);
  }
  int64_t library_calls() const {
    const DeviceRanks* ranks = context_.device->ranks();
    return ranks == nullptr ? 0 : ranks->library_calls();
  }
  void expect_repeated() const {
    if (!repeated_) throw Error("output asked for before the first repetition");
  }

  WorkloadContext context_;
  PlantKind plant_kind_ = PlantKind::kReads;
  bool planted_ = false;
  int64_t planned_ = 0;
  std::vector<std::string> kernels_;
  std::vector<std::string> sparse_kernels_;
  double build_us_ = 0;
  bool repeated_ = false;
  Event begin_;
  Event end_;
  ClockMark clock_;
  std::optional<double> mhz_;  // of the last block
  int64_t library_calls_ = 0;  // of the ranks, before this workload's
  std::optional<uint64_t>
      cycles_;  // that this rank had waited at the end of the last repetition; none: others came between
};

class EncoderWorkload : public DeviceWorkload {
 public:
  EncoderWorkload(const WorkloadContext& context, const TransformerBatch& batch, const WorkloadParams& params)
      : DeviceWorkload(context), run_(*context.device, *context.memory, plan_of(context, batch, params)) {
    upload_source(run_, batch);
    runs(run_);
    if (run_.plan().source_tokens >= kTokensOfProducts) plant_kind_ = PlantKind::kProducts;
    run_.run(PlanSection::kEncoder);
    context_.device->synchronize();
    graph_ = Graph(stream(), build_us_, [&] { run_.run(PlanSection::kEncoder); });
  }

  Repetition repeat() override {
    return timed([&] { graph_.launch(stream()); });
  }

  std::optional<Repetition> repeat_eager() override {
    return timed([&] { run_.run(PlanSection::kEncoder); });
  }

  Output output() override {
    expect_repeated();
    return {.values = run_.floats(plan_names::kEncoderOutput),
            .rows = run_.plan().source_tokens,
            .cols = run_.plan().config.d_model,
            .tokens = {}};
  }

 private:
  PlanExecutor run_;
  Graph graph_;
};

class DecoderWorkload : public DeviceWorkload {
 public:
  DecoderWorkload(const WorkloadContext& context, const TransformerBatch& batch, const WorkloadParams& params)
      : DeviceWorkload(context), steps_(params.capacity), decoding_(context_, batch, params) {
    const std::vector<int32_t> prefix = decoder_prefix(decoding_.config(), batch.size(), steps_, kInputSeed);
    columns_ = decoding_.upload_columns(prefix, steps_);
    runs(decoding_.run());
    decoding_.start(0);
    decoding_.encode();
    for (int t = 0; t < steps_; ++t) {  // the last of them is the measured one, here to load its kernels
      decoding_.feed(column(t));
      decoding_.run().run(PlanSection::kStep);
    }
    context_.device->synchronize();
    graph_ = Graph(stream(), build_us_, [&] { decoding_.run().run(PlanSection::kStep); });
  }

  Repetition repeat() override {
    decoding_.start(steps_ - 1, column(steps_ - 1));
    return timed([&] { graph_.launch(stream()); });
  }

  std::optional<Repetition> repeat_eager() override {
    decoding_.start(steps_ - 1, column(steps_ - 1));
    return timed([&] { decoding_.run().run(PlanSection::kStep); });
  }

  /// The timed step keeps no logits: the same launches run once more with a place for them, and must choose
  /// the same.
  Output output() override {
    expect_repeated();
    const int vocab = decoding_.rank_vocab();
    const std::vector<int32_t> tokens = decoding_.run().integers(plan_names::kNextIds);
    MemoryBlock logits(*context_.memory, tensor_bytes(DType::kF32, int64_t{decoding_.batch()} * vocab));
    cycles_.reset();
    decoding_.start(steps_ - 1, column(steps_ - 1));
    decoding_.run().run(PlanSection::kStep, static_cast<float*>(logits.data()));
    Output out{.values = std::vector<float>(static_cast<size_t>(decoding_.batch()) * vocab),
               .rows = decoding_.batch(),
               .cols = decoding_.config().vocab,
               .tokens = decoding_.run().integers(plan_names::kNextIds)};
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(out.values.data(), logits.data(), static_cast<size_t>(logits.bytes()),
                                      cudaMemcpyDeviceToHost, stream()));
    context_.device->synchronize();
    if (out.tokens != tokens)
      throw Error("the step that kept its logits chose other tokens than the timed one");
    out.values = decoding_.of_all_ranks(std::move(out.values));
    return out;
  }

 private:
  const int32_t* column(int t) const {
    return static_cast<const int32_t*>(columns_.data()) + int64_t{t} * decoding_.batch();
  }

  int steps_;
  Decoding decoding_;
  MemoryBlock columns_;  // [steps, batch]
  Graph graph_;
};

/// Counts of running sequences, copied to the host after each graph.
class RunningCounts {
 public:
  RunningCounts() {
    TANDEM_CUDA_CHECK(cudaMallocHost(reinterpret_cast<void**>(&counts_), kSlots * sizeof(int32_t)));
  }
  ~RunningCounts() { TANDEM_CUDA_WARN(cudaFreeHost(counts_)); }
  RunningCounts(const RunningCounts&) = delete;
  RunningCounts& operator=(const RunningCounts&) = delete;

  void copy(int graph, const int32_t* running, cudaStream_t stream) {
    const int slot = graph % kSlots;
    TANDEM_CUDA_CHECK(
        cudaMemcpyAsync(counts_ + slot, running, sizeof(int32_t), cudaMemcpyDeviceToHost, stream));
    copied_[slot].record(stream);
  }
  /// The count after graph `graph`, waited for.
  int32_t wait(int graph, const Device& device) {
    device.wait(copied_[graph % kSlots].get());
    return counts_[graph % kSlots];
  }

 private:
  static constexpr int kSlots = 2;
  int32_t* counts_ = nullptr;
  std::array<Event, kSlots> copied_;
};

class GenerateWorkload : public DeviceWorkload {
 public:
  GenerateWorkload(const WorkloadContext& context, const TransformerBatch& batch,
                   const WorkloadParams& params)
      : DeviceWorkload(context),
        steps_(params.capacity),
        ends_(params.stop_at_eos || params.generation),
        decoding_(context_, batch, params) {
    runs(decoding_.run());
    decoding_.start(0);
    decoding_.encode();
    decoding_.run().run(PlanSection::kStep);
    context_.device->synchronize();
    encoder_ = Graph(stream(), build_us_, [&] { decoding_.encode(); });
    one_ = steps_graph(1);
    const int per_graph = ends_ ? kStepsPerGraphWithEos : kStepsPerGraph;
    many_count_ = (steps_ - 1) / per_graph;
    const int rest = (steps_ - 1) % per_graph;
    if (many_count_ > 0) many_ = steps_graph(per_graph);
    if (rest > 0) rest_ = steps_graph(rest);
    if (ends_) counts_ = std::make_unique<RunningCounts>();
  }

  Repetition repeat() override {
    decoding_.start(0);
    context_.device->line_up();
    begin_.record(stream());
    encoder_.launch(stream());
    encoded_.record(stream());
    one_.launch(stream());
    first_.record(stream());
    const int graphs = many_count_ + (rest_ ? 1 : 0);
    for (int g = 0; g < graphs; ++g) {
      if (ends_ && g >= 2 && counts_->wait(g - 2, *context_.device) == 0) break;
      (g < many_count_ ? many_ : rest_).launch(stream());
      if (ends_) counts_->copy(g, decoding_.run().data<int32_t>(plan_names::kRunning), stream());
    }
    end_.record(stream());
    context_.device->wait(end_.get());
    repeated_ = true;
    return {.total_us = end_.us_since(begin_),
            .step_us = end_.us_since(encoded_) / steps_,
            .first_token_us = first_.us_since(begin_),
            .wait_us = waited()};
  }

  std::optional<Repetition> repeat_eager() override {
    decoding_.start(0);
    return timed([&] {
      decoding_.encode();
      for (int t = 0; t < steps_; ++t) decoding_.run().run(PlanSection::kStep);
    });
  }

  std::vector<float> inter_token_us() override {
    if (marks_.empty()) {
      for (int t = 0; t < steps_; ++t) marks_.push_back(std::make_unique<Event>());
    }
    cycles_.reset();
    decoding_.start(0);
    encoder_.launch(stream());
    for (int t = 0; t < steps_; ++t) {
      one_.launch(stream());
      marks_[static_cast<size_t>(t)]->record(stream());
    }
    context_.device->wait(marks_.back()->get());
    std::vector<float> times;
    for (size_t t = 1; t < marks_.size(); ++t)
      times.push_back(static_cast<float>(marks_[t]->us_since(*marks_[t - 1])));
    return times;
  }

  Output output() override {
    expect_repeated();
    if (!decoding_.run().plan().generation)
      return {.values = {}, .rows = 0, .cols = 0, .tokens = decoding_.run().integers(plan_names::kTokens)};
    Output out;
    for (const std::vector<Sequence>& found : sequences()) {
      std::vector<int32_t> best = found.front().tokens;
      best.resize(static_cast<size_t>(steps_), decoding_.run().plan().generation->pad_id);
      out.tokens.insert(out.tokens.end(), best.begin(), best.end());
    }
    return out;
  }

  std::vector<std::vector<Sequence>> sequences() const {
    expect_repeated();
    return decoding_.sequences();
  }

 private:
  Graph steps_graph(int steps) {
    return Graph(stream(), build_us_, [&] {
      for (int t = 0; t < steps; ++t) decoding_.run().run(PlanSection::kStep);
    });
  }

  int steps_;
  bool ends_;  // may sequences end before their last step?
  Decoding decoding_;
  Graph encoder_;
  Graph one_;  // the first step by itself: its end is the first token
  Graph many_;
  Graph rest_;
  int many_count_ = 0;
  std::unique_ptr<RunningCounts> counts_;
  Event encoded_;
  Event first_;
  std::vector<std::unique_ptr<Event>> marks_;  // of inter_token_us, one a step
};

}  // namespace

PlanRequest plan_request(const ModelConfig& config, const ModelWeights& weights, Precision precision,
                         const TransformerBatch& batch, const WorkloadParams& params) {
  const bool sm90a = current_arch().sm90a;
  const bool wide_products = dtype_bytes(activation_dtype(precision)) == 2 && sm90a;
  return {.config = config,
          .weights = weights,
          .precision = precision,
          .kv = params.kv,
          .kernel = params.kernel,
          .batch = batch.size(),
          .source_tokens = batch.tokens(),
          .max_source = batch.longest,
          .capacity = params.capacity,
          .stop_at_eos = params.stop_at_eos,
          .auto_own_rows = wide_products ? kAutoWideRows : kAutoOwnRows,
          .tiled = sm90a,
          .generation = params.generation,
          .step_form = params.step_form};
}

std::unique_ptr<Workload> encoder_workload(const WorkloadContext& context, const TransformerBatch& batch,
                                           const WorkloadParams& params) {
  WorkloadParams encoder_only = params;
  encoder_only.capacity = 0;
  return std::make_unique<EncoderWorkload>(context, batch, encoder_only);
}

std::unique_ptr<Workload> decoder_workload(const WorkloadContext& context, const TransformerBatch& batch,
                                           const WorkloadParams& params) {
  return std::make_unique<DecoderWorkload>(context, batch, params);
}

std::unique_ptr<Workload> generate_workload(const WorkloadContext& context, const TransformerBatch& batch,
                                            const WorkloadParams& params) {
  return std::make_unique<GenerateWorkload>(context, batch, params);
}

std::vector<std::vector<Sequence>> decode(const WorkloadContext& context, const TransformerBatch& batch,
                                          const WorkloadParams& params) {
  context.device->activate();
  GenerateWorkload workload(context, batch, params);
  workload.repeat();
  return workload.sequences();
}

Output forced_logits(const WorkloadContext& context, const TransformerBatch& batch,
                     std::span<const int32_t> tokens, const WorkloadParams& params) {
  context.device->activate();
  Decoding decoding(context, batch, params);
  const int steps = params.capacity;
  const int vocab = decoding.rank_vocab();
  const MemoryBlock columns = decoding.upload_columns(tokens, steps);
  const int64_t per_step = int64_t{batch.size()} * vocab;
  const MemoryBlock logits(*context.memory, tensor_bytes(DType::kF32, per_step));
  Output out{.values = std::vector<float>(static_cast<size_t>(per_step) * steps),
             .rows = int64_t{batch.size()} * steps,
             .cols = decoding.config().vocab,
             .tokens = {}};
  decoding.start(0);
  decoding.encode();
  for (int t = 0; t < steps; ++t) {
    decoding.feed(static_cast<const int32_t*>(columns.data()) + int64_t{t} * batch.size());
    decoding.run().run(PlanSection::kStep, static_cast<float*>(logits.data()));
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(out.values.data() + per_step * t, logits.data(),
                                      static_cast<size_t>(logits.bytes()), cudaMemcpyDeviceToHost,
                                      decoding.stream()));
    context.device->synchronize();
  }
  out.values = decoding.of_all_ranks(std::move(out.values));
  return out;
}

}  // namespace tandem::kernels
