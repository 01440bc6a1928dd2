// The record: what one worker leaves for one case. record.schema.json is the contract.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "harness/record/line_log.h"
#include "harness/sweep/case.h"
#include "harness/sweep/case_batch.h"
#include "harness/weights/pruning/prune.h"

namespace tandem {

inline constexpr std::string_view kRecordSchema = "1.4.0";

enum class Status : uint8_t { kOk, kInvalid, kSkipped, kOom, kCrashed, kTimeout, kRankLost, kError };
std::string_view status_name(Status status);
Status parse_status(std::string_view name);

/// Statistics of one worker's samples, in microseconds. What too few samples cannot say is absent.
struct Summary {
  int64_t n = 0;
  double median_us = 0;
  double q1_us = 0, q3_us = 0, min_us = 0;
  std::optional<double> p95_us;                  ///< from 20 samples
  std::optional<double> p99_us;                  ///< from 100 samples
  std::optional<double> ci95_lo_us, ci95_hi_us;  ///< of the median: blocked_median_interval, from 50
};
/// `samples_us` in the order in which they were taken. Quartiles and percentiles interpolate linearly between order statistics. Throws Error for no sample, and
/// for one that is not finite or not positive.
Summary summarize(std::vector<float> samples_us);

struct SamplesRef {
  std::string file = {};  ///< relative to the run folder
  int64_t n = 0;
  std::string sha256 = {};
};

struct Check {
  std::string reference = {};
  std::optional<double> error = {};
  std::optional<double> tolerance = {};
  std::optional<std::string> where = {};
  std::optional<bool> tokens_equal = {};
  std::optional<int64_t> tokens_compared = {}, tokens_excused = {};
  std::optional<std::string> digest = {}, digest_after = {};
  std::optional<std::string> remembered_from =
      {};  ///< UTC time at which an earlier run made this check; absent: this run did
};

/// What a lossy form costs, beside its times: measured once a group of cases, on 8 sequences of 32 source and 32 generated
/// tokens. Of an encoder's output only the error and `tokens`.
struct Accuracy {
  double relative_error = 0;                ///< relative L2 of the output, or of the logits
  std::optional<double> kl = {};            ///< mean KL divergence of the logits' distributions, in nats
  std::optional<double> tokens_agree = {};  ///< fraction of `tokens` with the same arg-max
  /// Fraction of the 256 generated tokens that are the dense model's, each model fed its own. Once two texts part they are
  /// of different inputs, so that this is under tokens_agree and no error of the arithmetic.
  std::optional<double> free_tokens_agree = {};
  /// Places compared: 256 source tokens, or 256 logits of the next token; fewer steps of a vocabulary whose logits are too
  /// many to hold. Absent in records before 1.3, which measured each case on its own inputs.
  std::optional<int64_t> tokens = {};
  bool teacher_forced = false;  ///< both were fed the same tokens: those that dense fp32 generates
  std::string against = "dense fp32";
  bool synthetic_weights = false;  ///< weights from a seed: what a trained model loses may differ
};

/// A rank's card while samples were taken: medians of what was read after each block, and what held its clock down.
struct RankClocks {
  std::optional<double> sm_mhz = {}, mean_sm_mhz = {}, temperature_c = {}, power_w = {};
  std::optional<int64_t> throttled_blocks = {};
  std::vector<std::string> reasons = {};  ///< of all blocks
  std::optional<bool> contended = {};
};

/// What one of several processes of a case was and took.
struct RankRecord {
  int rank = 0;
  std::string host = {};
  std::optional<int> device = {};  ///< CUDA's number of it in that process; absent of an engine on the host
  std::optional<std::string> card = {};  ///< its name
  std::optional<std::string> uuid = {};
  std::optional<double> median_us = {};
  /// Median of a repetition: exchanges with other ranks, as far as the engine sees them, and the wait for the slowest.
  std::optional<double> wait_us = {};
  std::optional<std::string> exchange = {};  ///< Workload::exchange
  std::optional<RankClocks> clocks = {};     ///< absent of an engine on the host
};

struct PhaseRow {
  std::string side = {}, phase = {};
  double bytes_read = 0, bytes_written = 0, flops = 0;
  double link_bytes = 0;  ///< from other ranks' devices
};

struct Metrics {
  std::optional<double> step_us = {}, first_token_us = {};
  /// SM cycles of a sample: at the power limit the clock varies and a time with it, cycles do not. Median over blocks of
  /// samples of the block's mean clock times its median time; absent without the device's counters.
  std::optional<double> sm_cycles = {};
  std::optional<double> inter_token_p50_us = {}, inter_token_p95_us = {}, inter_token_p99_us = {};
  std::optional<double> tokens_per_second = {}, graph_build_us = {}, load_us = {}, gigabytes_per_second = {},
                        teraflops = {};
};

struct FloorRow {
  std::optional<double> floor_us = {}, floor_phases_us = {}, floor_l2_us = {}, step_floor_us = {}, ratio = {};
  std::optional<std::string> bound = {};
  /// Of several ranks on cards: the published rate of a card's links, one direction, and the bytes that it takes in at that rate:
  /// part of floor_phases_us, and floor_us itself where it is the largest term.
  std::optional<double> link_gbs = {}, links_us = {};
};

/// What the model of harness/cost/links.h says of the same case over other numbers of ranks that share it.
struct ModelRow {
  struct Degree {
    int tp = 1;
    double sample_us = 0, comm_us = 0;
    std::optional<double> step_us = {};  ///< suite_generate: the mean step
  };
  double card_gbs = 0, call_us = 0;  ///< what it was asked with; all ranks are in a host
  std::vector<Degree> degrees = {};
};

struct ClockBlock {
  int64_t first_sample = 0, samples = 0;
  std::optional<double> sm_mhz = {}, temperature_c = {}, power_w = {};
  std::optional<double> mean_sm_mhz = {};  ///< over the block, from the device's own counters
  std::vector<std::string> reasons = {};
};

/// What the clock was seen to do.
enum class ClockState : uint8_t {
  kSettled,     ///< steady after warm-up and while samples were taken
  kNotSettled,  ///< still moving at the end of warm-up, or between the first and the second half of the samples
  kThrottled,  ///< held down by power, heat or a limit during some samples; `warmup` says whether it had settled
};
std::string_view clock_state_name(ClockState state);

/// The slow-down that a build made to test a gate carries (harness/run/sampling/plant.h), as this process calibrated it.
struct PlantedRow {
  double percent = 0;                 ///< asked for, of the case's own median
  double grown_percent = 0;           ///< more only where the least work that the engine can add takes longer
  double standard_error_percent = 0;  ///< of grown_percent
  double amount = 0;                  ///< of work, in units of the engine's own
};

/// What pruning removed, and what computes with the rest.
struct PrunedRow {
  std::vector<RemovedPart> removed = {};
  std::optional<double> products_kept = {};  ///< fraction of the weights of the matrices of layers that stay
  std::vector<std::string> kernels = {};     ///< Workload::sparse_kernels
};

struct Record {
  Case c;
  std::string id, name;
  int worker = 0;
  int attempt = 1;
  Status status = Status::kError;
  std::optional<std::string> reason;
  std::optional<SamplesRef> samples;
  std::optional<Summary> summary;
  Metrics metrics;
  FloorRow floor;
  std::optional<ModelRow> model;  ///< absent where a ceiling is, and of operations
  std::optional<double> bytes, flops;
  std::vector<PhaseRow> phases;
  std::optional<int64_t> peak_bytes, planned_bytes;
  std::optional<int64_t>
      weights_bytes;  ///< of the loaded weights in their stored form, scales and metadata included
  std::optional<double> fraction_kept;  ///< of the model's weights: 1 for dense
  std::optional<PrunedRow> pruned;      ///< null for dense
  std::optional<PlantedRow> planted;    ///< null in any build that is to be released
  std::optional<Check> check;
  std::optional<std::string> regime, l2;
  std::optional<bool> contended;
  std::optional<int64_t> warmup_repetitions;
  std::optional<double> warmup_s;
  std::optional<bool> warmup_steady;
  std::optional<bool> warmup_confirmed;  ///< short: the clock had settled in a case before
  std::optional<std::string> stop_rule;
  std::optional<double> stop_target;
  std::optional<bool> stop_reached;
  std::vector<ClockBlock> clock_blocks;
  std::optional<int64_t> throttled_samples;
  std::optional<ClockState> clock_state;  ///< absent where no clock was read
  std::optional<Accuracy> accuracy;
  std::vector<RankRecord> ranks;  ///< empty for a case of one process
  uint64_t input_seed = kInputSeed;
  std::optional<uint64_t> order_seed;
  std::optional<bool> profiler_mapped;
  std::optional<std::string> choices_sha256;
  std::vector<std::string> kernels;  ///< Workload::kernels
  std::optional<std::string> started;
  double wall_s = 0;
};

nlohmann::json check_to_json(const Check& check);
Check check_from_json(const nlohmann::json& j);
nlohmann::json accuracy_to_json(const Accuracy& accuracy);
/// Throws UsageError naming the field for anything the schema does not allow.
Accuracy accuracy_from_json(const nlohmann::json& j);

/// Why a result of this case that is ok may not stand: a model's pass in a lossy form that says no accuracy, or one that is not
/// a number. Nothing when it may.
std::optional<std::string> accuracy_fault(const Case& c, const std::optional<Accuracy>& accuracy);

/// A record for `c` with its id and name, everything else absent.
Record make_record(const Case& c, int worker, int attempt);
/// Absent values are null, never 0; a NaN or infinity throws Error, and so does what accuracy_fault finds in a record that is ok.
nlohmann::json record_to_json(const Record& r);
/// Throws UsageError naming the field for anything the schema does not allow, and for an unknown major
/// version.
Record record_from_json(const nlohmann::json& j);

/// Appends whole lines to records.jsonl, each fsynced. An unterminated last line left by a kill is cut off at
/// opening.
class RecordWriter {
 public:
  /// Throws IoError, also when another process writes the file.
  explicit RecordWriter(std::string path) : log_(std::move(path)) {}
  /// Throws IoError (a full disk): the file then ends with the last whole record.
  void append(const Record& r);

 private:
  LineLog log_;
};

/// Reads records.jsonl, where nothing that is ok may have an accuracy_fault. An unterminated last line is ignored and reported in `warning`; any other malformed
/// line throws UsageError with its number.
std::vector<Record> read_records(const std::string& path, std::string* warning);

}  // namespace tandem
