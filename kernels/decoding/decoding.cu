#include <string>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "kernels/common/device.cuh"
#include "kernels/common/launch.h"
#include "kernels/decoding/beam_source.h"
#include "kernels/decoding/choose.h"
#include "kernels/decoding/decoding.h"
#include "kernels/decoding/row.h"

namespace tandem::kernels {
namespace {

constexpr int kBeamThreads = 256;  // three rows a multiprocessor: 64 sources of 4 beams in one wave
constexpr int kSourceThreads = 128;
constexpr int kSplitThreads = 256;

class DeviceBlock {
 public:
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ void sync() { __syncthreads(); }
  __device__ uint32_t add(uint32_t* counter, uint32_t value) { return atomicAdd(counter, value); }
  __device__ void set_bits(uint32_t* word, uint32_t bits) { atomicOr(word, bits); }
};

struct HeadBias {
  DType dtype = DType::kF32;
  const void* values = nullptr;
  __device__ float operator()(int i) const {
    if (values == nullptr) return 0;
    switch (dtype) {
      case DType::kF16:
        return to_float(static_cast<const __half*>(values)[i]);
      case DType::kBF16:
        return to_float(static_cast<const __nv_bfloat16*>(values)[i]);
      default:
        return static_cast<const float*>(values)[i];
    }
  }
};

__device__ LogitRow<HeadBias> row_of(const StepLogits& l, int row, int vocab) {
  const float* logits = l.logits + row * l.stride;
  return {.logits = logits,
          .vocab = vocab,
          .aligned = reinterpret_cast<uintptr_t>(logits) % 16 == 0,
          .bias = {.dtype = l.bias_dtype, .values = l.bias}};
}

/// Called by thread 0 of every block when all its writes are made: the last of them moves the counters.
__device__ void arrive(const StepState& s, int blocks, int rows, int position) {
  __threadfence();
  if (atomicAdd(s.arrived, 1) != blocks - 1) return;
  __threadfence();
  *s.arrived = 0;
  *s.position = position + 1;
  int32_t running = 0;
  for (int r = 0; r < rows; ++r) running += __ldcg(s.finished + r) != 0 ? 0 : 1;
  *s.running = running;
}

/// What a row chose, by thread 0 of its block.
__device__ void leave_choice(const ChooseParams& p, int row, int position, const Choice& c) {
  if (threadIdx.x != 0) return;
  const bool ended = p.state.finished[row] != 0;
  p.state.next_ids[row] = c.id;
  if (position < p.state.capacity) {
    p.state.tokens[row * p.state.capacity + position] = c.id;
    if (p.log_probabilities != nullptr)
      p.log_probabilities[row * p.state.capacity + position] = c.log_probability;
  }
  p.state.finished[row] = ended || listed(p.rules, p.rules.eos, c.id) ? 1 : 0;
  arrive(p.state, p.rows, p.rows, position);
}

__global__ void __launch_bounds__(kDecodingThreads, 1) choose_kernel(const ChooseParams p) {
  pdl_launch_dependents();
  pdl_wait();
  extern __shared__ uint32_t bitmaps[];
  __shared__ RowScratch scratch;
  const int row = static_cast<int>(blockIdx.x);
  const int position = *p.state.position;
  const int32_t* tokens = p.state.tokens + row * p.state.capacity;
  Choice c{.id = p.rules.pad_id, .log_probability = 0};
  if (p.state.finished[row] == 0) {
    DeviceBlock block;
    const History history{.generated = tokens, .start_id = p.rules.start_id, .length = position + 1};
    const Marks marks = make_marks(block, p.rules, history, needs_marks(p.rules) ? bitmaps : nullptr);
    const double uniform = p.rules.sample ? draw_uniform(p.keys[row], position) : 0;
    c = choose(block, scratch, p.rules, marks, uniform, row_of(p.logits, row, p.rules.vocab));
  }
  leave_choice(p, row, position, c);
}

/// The rules have had their say where the logits are.
__global__ void __launch_bounds__(kSplitThreads) choose_of_ranks_kernel(const ChooseParams p) {
  pdl_launch_dependents();
  pdl_wait();
  __shared__ RowScratch scratch;
  const int row = static_cast<int>(blockIdx.x);
  const int position = *p.state.position;
  Choice c{.id = p.rules.pad_id, .log_probability = 0};
  if (p.state.finished[row] == 0) {
    DeviceBlock block;
    const double uniform = p.rules.sample ? draw_uniform(p.keys[row], position) : 0;
    c = choose_of_ranks(block, scratch, p.rules, uniform, p.ranks, row);
  }
  leave_choice(p, row, position, c);
}

__global__ void __launch_bounds__(kSplitThreads) row_sums_kernel(const RowSumsParams p) {
  pdl_launch_dependents();
  pdl_wait();
  __shared__ BlockScratch scratch;
  const int row = static_cast<int>(blockIdx.x);
  DeviceBlock block;
  const RowSum sum = row_sum(block, scratch, row_of(p.logits, row, p.vocab));
  if (threadIdx.x != 0) return;
  p.sums[2 * row] = sum.largest;
  p.sums[2 * row + 1] = sum.sum;
}

__global__ void __launch_bounds__(kSplitThreads) candidates_kernel(const CandidatesParams p) {
  pdl_launch_dependents();
  pdl_wait();
  extern __shared__ uint32_t bitmaps[];
  __shared__ BeamRowScratch scratch;
  const int row = static_cast<int>(blockIdx.x);
  int32_t* out = p.candidates + static_cast<int64_t>(row) * p.ranks.count * kCandidateInts;
  if (p.finished[row] != 0) {
    for (int i = static_cast<int>(threadIdx.x); i < p.ranks.count; i += kSplitThreads) no_candidate(out, i);
    return;
  }
  DeviceBlock block;
  const History history{
      .generated = p.tokens + row * p.capacity, .start_id = p.rules.start_id, .length = *p.position + 1};
  const Marks marks = make_marks(block, p.rules, history, needs_marks(p.rules) ? bitmaps : nullptr);
  RankScores of{.first_id = p.first_id, .beam = p.running_scores != nullptr};
  if (of.beam) {
    of.running = p.running_scores[row];
    of.all = log_sum_of_ranks(p.ranks, row);
  }
  best_of_part(block, scratch, p.rules, marks, of, row_of(p.logits, row, p.vocab), p.ranks.count, out);
}

__global__ void __launch_bounds__(kBeamThreads, 3) beam_row_kernel(const BeamParams p) {
  pdl_launch_dependents();
  pdl_wait();
  extern __shared__ uint32_t bitmaps[];
  __shared__ BeamRowScratch scratch;
  const int row = static_cast<int>(blockIdx.x);
  if (p.state.finished[row] != 0) return;
  DeviceBlock block;
  const History history{.generated = p.state.tokens + row * p.state.capacity,
                        .start_id = p.rules.start_id,
                        .length = *p.state.position + 1};
  const Marks marks = make_marks(block, p.rules, history, needs_marks(p.rules) ? bitmaps : nullptr);
  best_continuations(block, scratch, p.rules, marks, p.running_scores[row],
                     row_of(p.logits, row, p.rules.vocab), p.best + static_cast<int64_t>(row) * p.rules.kept);
}

__global__ void __launch_bounds__(kSourceThreads) beam_source_kernel(const BeamParams p) {
  pdl_launch_dependents();
  pdl_wait();
  __shared__ BeamSourceScratch scratch;
  const int first = static_cast<int>(blockIdx.x) * p.rules.beams;
  const int position = *p.state.position;
  if (p.state.finished[first] == 0) {
    const int64_t tokens = first * p.state.capacity;
    DeviceBlock block;
    advance_source(block, scratch, p.rules,
                   {.first_row = first,
                    .position = position,
                    .capacity = p.state.capacity,
                    .best = p.best == nullptr ? nullptr : p.best + static_cast<int64_t>(first) * p.rules.kept,
                    .ranks = p.ranks,
                    .running = p.running_scores + first,
                    .history = p.state.tokens + tokens,
                    .ancestry = p.ancestry + tokens,
                    .next_ids = p.state.next_ids + first,
                    .finished = p.state.finished + first,
                    .hypotheses = p.hypotheses + tokens,
                    .lengths = p.lengths + first,
                    .slots = p.slots + first,
                    .scores = p.scores + first});
  }
  if (threadIdx.x == 0) arrive(p.state, p.sources, p.sources * p.rules.beams, position);
}

__global__ void beam_state_kernel(const BeamParams p) {
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (row >= p.sources * p.rules.beams) return;
  const int beam = row % p.rules.beams;
  p.running_scores[row] = beam == 0 ? 0.0f : kHopeless;  // the others are copies: only one may go on
  p.lengths[row] = 0;
  p.slots[row] = beam;
  p.scores[row] = kHopeless;
}

void require(bool ok, const char* message) {
  if (!ok) throw UsageError(message);
}

void check(const char* who, const DecodingRules& r, const StepLogits& l, const RankLists& ranks, int rows,
           const StepState& s) {
  const auto say = [&](bool ok, const char* what) { require(ok, (std::string(who) + ": " + what).c_str()); };
  say(r.vocab <= kMaxVocab, "rules.vocab must be at most 2^18");
  if (ranks.candidates == nullptr) {
    say(r.vocab >= 1 && l.stride >= r.vocab && l.logits != nullptr,
        "logits must hold rules.vocab scores a row");
  } else {
    say(ranks.sums != nullptr && ranks.degree >= 1 && ranks.rows == rows && ranks.count >= 1,
        "ranks must have sums, and rows and count of their own");
  }
  say(r.table != nullptr, "rules.table must be given");
  say(s.next_ids != nullptr && s.tokens != nullptr && s.position != nullptr && s.finished != nullptr &&
          s.running != nullptr && s.arrived != nullptr,
      "next_ids, tokens, position, finished, running and arrived must be given");
  say(s.capacity >= r.max_length - 1, "capacity must be at least rules.max_length - 1");
}

size_t marks_bytes(int vocab) {
  return 2 * static_cast<size_t>(mark_words(vocab)) * sizeof(uint32_t);
}

/// Dynamic shared memory for the marks of a row. The limit is that of the largest vocabulary: a graph that was captured with
/// more must not find it lowered.
template <typename Kernel>
size_t marks_bytes(Kernel kernel, const DecodingRules& r) {
  if (!needs_marks(r)) return 0;
  TANDEM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(marks_bytes(kMaxVocab))));
  return marks_bytes(r.vocab);
}

}  // namespace

void launch_row_sums(const RowSumsParams& p, cudaStream_t stream) {
  require(p.rows >= 1 && p.vocab >= 1 && p.logits.logits != nullptr && p.logits.stride >= p.vocab,
          "row sums: logits must hold vocab scores a row");
  require(p.sums != nullptr, "row sums: sums must be given");
  launch(
      row_sums_kernel,
      {.grid = dim3(static_cast<unsigned>(p.rows)), .block = dim3(kSplitThreads), .dependent = p.dependent},
      stream, p);
}

void launch_candidates(const CandidatesParams& p, cudaStream_t stream) {
  require(p.rules.vocab >= 1 && p.rules.vocab <= kMaxVocab, "candidates: rules.vocab must be at most 2^18");
  require(p.rows >= 1 && p.vocab >= 1 && p.logits.logits != nullptr && p.logits.stride >= p.vocab,
          "candidates: logits must hold vocab scores a row");
  require(p.first_id >= 0 && p.first_id + p.vocab <= p.rules.vocab,
          "candidates: first_id and vocab must lie in rules.vocab");
  require(p.rules.table != nullptr && p.tokens != nullptr && p.position != nullptr && p.finished != nullptr &&
              p.candidates != nullptr,
          "candidates: rules.table, tokens, position, finished and candidates must be given");
  require(p.capacity >= p.rules.max_length - 1, "candidates: capacity must be at least rules.max_length - 1");
  require(p.ranks.count >= 1 && p.ranks.count <= kListCapacity, "candidates: ranks.count must be 1 to 1024");
  require(p.running_scores == nullptr ||
              (p.ranks.sums != nullptr && p.ranks.degree >= 1 && p.ranks.rows == p.rows),
          "candidates: beams need the sums of all ranks");
  launch(candidates_kernel,
         {.grid = dim3(static_cast<unsigned>(p.rows)),
          .block = dim3(kSplitThreads),
          .shared_bytes = marks_bytes(candidates_kernel, p.rules),
          .dependent = p.dependent},
         stream, p);
}

void launch_choose(const ChooseParams& p, cudaStream_t stream) {
  check("choose", p.rules, p.logits, p.ranks, p.rows, p.state);
  require(p.rows >= 1, "choose: rows must be at least 1");
  require(!p.rules.sample || p.keys != nullptr, "choose: sampling needs keys");
  if (p.ranks.candidates != nullptr) {
    require(p.ranks.degree * p.ranks.count <= kListCapacity,
            "choose: ranks must have at most 1024 candidates together");
    launch(
        choose_of_ranks_kernel,
        {.grid = dim3(static_cast<unsigned>(p.rows)), .block = dim3(kSplitThreads), .dependent = p.dependent},
        stream, p);
    return;
  }
  launch(choose_kernel,
         {.grid = dim3(static_cast<unsigned>(p.rows)),
          .block = dim3(kDecodingThreads),
          .shared_bytes = marks_bytes(choose_kernel, p.rules),
          .dependent = p.dependent},
         stream, p);
}

void launch_beam(const BeamParams& p, cudaStream_t stream) {
  const bool split = p.ranks.candidates != nullptr;
  check("beam", p.rules, p.logits, p.ranks, p.sources * p.rules.beams, p.state);
  require(p.sources >= 1, "beam: sources must be at least 1");
  require(p.rules.beams >= 2 && p.rules.beams <= kMaxBeams, "beam: rules.beams must be 2 to 32");
  require(p.rules.kept >= 2 * p.rules.beams && p.rules.kept <= kMaxKept && p.rules.kept <= p.rules.vocab,
          "beam: rules.kept must be at least 2 * beams and at most 128 and the vocabulary");
  require(!split || p.ranks.count == p.rules.kept, "beam: ranks.count must be rules.kept");
  require((p.best == nullptr) == split, "beam: best must be given, or ranks");
  require(p.running_scores != nullptr && p.ancestry != nullptr && p.hypotheses != nullptr &&
              p.lengths != nullptr && p.slots != nullptr && p.scores != nullptr,
          "beam: running_scores, ancestry, hypotheses, lengths, slots and scores must be given");
  const auto rows = static_cast<unsigned>(p.sources * p.rules.beams);
  if (!split) {
    launch(beam_row_kernel,
           {.grid = dim3(rows),
            .block = dim3(kBeamThreads),
            .shared_bytes = marks_bytes(beam_row_kernel, p.rules),
            .dependent = p.dependent},
           stream, p);
  }
  launch(beam_source_kernel,
         {.grid = dim3(static_cast<unsigned>(p.sources)),
          .block = dim3(kSourceThreads),
          .dependent = p.dependent},
         stream, p);
}

void launch_beam_state(const BeamParams& p, cudaStream_t stream) {
  require(p.sources >= 1 && p.running_scores != nullptr && p.lengths != nullptr && p.slots != nullptr &&
              p.scores != nullptr,
          "beam state: sources, running_scores, lengths, slots and scores must be given");
  const int rows = p.sources * p.rules.beams;
  launch(beam_state_kernel,
         {.grid = dim3(static_cast<unsigned>(ceil_div(rows, kSourceThreads))), .block = dim3(kSourceThreads)},
         stream, p);
}

}  // namespace tandem::kernels
