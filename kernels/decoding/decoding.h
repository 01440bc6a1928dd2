// The end of a decode step under any strategy: from logits to the ids that the next step is fed. Greedy and sampling choose row
// by row; beam search looks at all beams of a source. Everything that decides is on the device, nothing waits for the host.
// A result depends on a row's (or source's) own logits, history and key only: not on what else is in the batch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/base/tensor.h"
#include "kernels/decoding/beam.h"
#include "kernels/decoding/rules.h"
#include "kernels/decoding/split.h"

namespace tandem::kernels {

/// Scores of the step, as a product left them.
struct StepLogits {
  const float* logits = nullptr;    ///< [rows, vocab], rows `stride` apart
  int64_t stride = 0;               ///< elements
  DType bias_dtype = DType::kBF16;  ///< kF32, kF16 or kBF16
  const void* bias = nullptr;       ///< [vocab] or null
};

/// What each step reads and leaves, as launch_select does.
struct StepState {
  int32_t* next_ids = nullptr;  ///< [rows]
  int32_t* tokens = nullptr;    ///< [rows, capacity] generated ids so far; column *position is written
  int64_t capacity = 0;         ///< at least rules.max_length - 1
  int32_t* position = nullptr;  ///< [1]; increased by one at the end
  int32_t* finished = nullptr;  ///< [rows] 0 or 1
  int32_t* running = nullptr;   ///< [1]: rows that have not finished after this step
  int32_t* arrived = nullptr;   ///< [1] counter of blocks, 0 before the first launch and after each
};

/// Where ranks split the vocabulary, `vocab` ids of it here: the largest logit of each row and the sum of exp(logit - largest).
struct RowSumsParams {
  int rows = 0;
  int vocab = 0;
  StepLogits logits = {};
  float* sums = nullptr;   ///< [rows, 2]
  bool dependent = false;  ///< programmatic dependent launch
};
/// Throws UsageError naming the wrong field, as all of these.
void launch_row_sums(const RowSumsParams& params, cudaStream_t stream);

/// And then, with the sums of all ranks, each row's `ranks.count` best ids of this rank after the rules.
struct CandidatesParams {
  DecodingRules rules = {};  ///< of the whole vocabulary; lists on the device
  int rows = 0;
  int vocab = 0;     ///< ids of this rank
  int first_id = 0;  ///< the lowest of them
  StepLogits logits = {};
  const int32_t* tokens = nullptr;        ///< [rows, capacity] generated ids so far
  int64_t capacity = 0;                   ///< at least rules.max_length - 1
  const int32_t* position = nullptr;      ///< [1]
  const int32_t* finished = nullptr;      ///< [rows]; a row that has finished has no candidates
  const float* running_scores = nullptr;  ///< [rows] when beams search, else null
  RankLists ranks = {};                   ///< sums, degree and count; candidates: null
  int32_t* candidates = nullptr;          ///< [rows, count, 3]
  bool dependent = false;
};
void launch_candidates(const CandidatesParams& params, cudaStream_t stream);

struct ChooseParams {
  DecodingRules rules = {};  ///< lists on the device
  int rows = 0;
  StepLogits logits = {};
  RankLists ranks = {};  ///< instead of logits; at most kListCapacity candidates of all ranks together
  StepState state = {};
  const uint64_t* keys = nullptr;      ///< [rows] sampling_key(); when rules.sample
  float* log_probabilities = nullptr;  ///< [rows, capacity] of the chosen ids under the model, or null
  bool dependent = false;              ///< programmatic dependent launch
};
/// A row that has given an eos gives pad_id from then on. Throws UsageError naming the wrong field.
void launch_choose(const ChooseParams& params, cudaStream_t stream);

struct BeamParams {
  DecodingRules rules = {};  ///< lists on the device; beams of source s are rows s * rules.beams ...
  int sources = 0;
  StepLogits logits = {};
  RankLists ranks = {};             ///< instead of logits and best; count: rules.kept
  StepState state = {};             ///< tokens: those of the running beams
  Continuation* best = nullptr;     ///< [rows, rules.kept] between the two kernels
  float* running_scores = nullptr;  ///< [rows]
  int32_t* ancestry = nullptr;      ///< [rows, capacity] as the attention kernels read it
  int32_t* hypotheses = nullptr;    ///< [rows, capacity] finished sequences by slot
  int32_t* lengths = nullptr;       ///< [rows] of them, by slot
  int32_t* slots = nullptr;         ///< [rows] slot of a source's best, second, ...
  float* scores = nullptr;          ///< [rows] of a source's best, second, ...
  bool dependent = false;
};
/// Two kernels: every row's best continuations, which of ranks are there, then every source's beams. Throws UsageError naming the wrong field.
void launch_beam(const BeamParams& params, cudaStream_t stream);

/// The state in which a search begins, but for next_ids, position and tokens (launch_decode_state).
void launch_beam_state(const BeamParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
