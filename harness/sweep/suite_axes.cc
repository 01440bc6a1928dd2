// Which axes each suite uses, and which combinations cannot work.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "harness/base/error.h"
#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/model/model_spec.h"
#include "harness/sweep/case.h"
#include "harness/sweep/case_batch.h"
#include "harness/weights/pruning/prune.h"
#include "harness/weights/sparsity.h"
#include "harness/weights/values/checkpoint.h"

namespace tandem {
namespace {

bool one_of(std::string_view value, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

[[noreturn]] void impossible(const std::string& why) {
  throw ImpossibleCase(why);
}

/// Throws ImpossibleCase for a pattern that does not fit the model, whole or what whole parts leave of it.
void check_sparsity(const Case& c, const ModelConfig& whole) {
  const SparsitySpec sparsity = parse_sparsity(c.sparsity);
  const ModelConfig config = smaller_config(whole, sparsity);
  if (c.calibration != "none" && !sparsity.dense())
    impossible(fmt::format("calibration: for sparsity dense only, not '{}'", c.sparsity));
  check_threshold(parse_weights(c.weights), whole, sparsity);
  const auto side = [&](std::string_view name, const StackConfig& stack) {
    if (stack.heads % c.tp != 0) {
      impossible(fmt::format("tp: {} does not divide the {} heads of the {}{}", c.tp, stack.heads, name,
                             sparsity.heads != 0 ? " that sparsity leaves" : ""));
    }
    if (stack.d_ff % c.tp != 0) {
      impossible(fmt::format("tp: {} does not divide the d_ff of {} of the {}{}", c.tp, stack.d_ff, name,
                             sparsity.ffn != 0 ? " that sparsity leaves" : ""));
    }
    if (!sparsity.two_of_four) return;
    for (const auto& [what, cols] :
         {std::pair{"d_ff", stack.d_ff}, {"heads * head_dim", config.inner(stack)}}) {
      if (cols / c.tp % 4 != 0) {
        impossible(fmt::format("sparsity: 2:4 needs {} divisible by 4{}, the {} has {}", what,
                               c.tp == 1 ? "" : " on each rank", name, cols / c.tp));
      }
    }
  };
  side("encoder", config.encoder);
  if (c.suite != Suite::kEncoder || sparsity.two_of_four) side("decoder", config.decoder);
  if (sparsity.two_of_four && config.d_model % 4 != 0) {
    impossible(fmt::format("sparsity: 2:4 needs d_model divisible by 4, {} has {}", c.model, config.d_model));
  }
}

/// The axes that a precision gives their meaning.
void check_precision(const Case& c) {
  const auto precision = [&](std::initializer_list<Precision> list) {
    return std::find(list.begin(), list.end(), c.precision) != list.end();
  };
  const std::string_view name = precision_name(c.precision);
  if (c.calibration == "smoothquant" && !precision({Precision::kFp8, Precision::kInt8}))
    impossible(fmt::format("calibration: smoothquant is for precision fp8 and int8, not '{}'", name));
  if (c.calibration == "awq" && !precision({Precision::kW8a16, Precision::kW4a16}))
    impossible(fmt::format("calibration: awq is for precision w8a16 and w4a16, not '{}'", name));
  if (c.head == "16bit" && dtype_bits(head_dtype(c.precision)) != 8) {
    impossible(fmt::format(
        "head: 16bit is for precision fp8, int8, w8a16 and w4a16, which store it in 8 bits, not '{}'", name));
  }
  if (c.kv == "16bit" && dtype_bits(activation_dtype(c.precision)) != 16)
    impossible(fmt::format("kv: 16bit needs activations of 16 bits, precision '{}' has 32", name));
}

void check_lengths(const Case& c, const ModelConfig& config) {
  const auto limit = position_limit(config);
  auto check_length = [&](std::string_view name, int value) {
    if (limit && value > *limit && axis_used(c.suite, c.op, name)) {
      impossible(fmt::format("{}: {} is beyond the {} positions of {}", name, value, *limit, c.model));
    }
  };
  check_length("src", c.src);
  check_length("tgt", c.tgt);
  // Throw for a ratio or file that does not fit.
  if (parse_lengths(c.lengths).kind == LengthsSpec::Kind::kIds) {
    case_batch(c, config);
  } else {
    case_lengths(c);
  }
}

}  // namespace

const std::vector<std::string>& suite_ops(Suite suite) {
  static const std::vector<std::string> none;
  static const std::vector<std::string> kernels = {"gemm_qkv",
                                                   "gemm_out",
                                                   "gemm_ffn_up",
                                                   "gemm_ffn_down",
                                                   "gemm_head",
                                                   "encoder_attention",
                                                   "decode_self_attention",
                                                   "cross_attention",
                                                   "norm",
                                                   "embedding",
                                                   "head_argmax"};
  static const std::vector<std::string> collectives = {"all_reduce", "chain"};
  static const std::vector<std::string> memory = {"cold_load", "warm_load", "allocation", "peak",
                                                  "fragmentation"};
  static const std::vector<std::string> limits = {"read",           "copy",       "l2",       "gemm",
                                                  "gemm_sustained", "empty_node", "attention"};
  switch (suite) {
    case Suite::kKernels:
      return kernels;
    case Suite::kCollectives:
      return collectives;
    case Suite::kMemory:
      return memory;
    case Suite::kLimits:
      return limits;
    default:
      return none;
  }
}

bool is_model_suite(Suite suite) {
  return std::find(kModelSuites.begin(), kModelSuites.end(), suite) != kModelSuites.end();
}

bool is_op_suite(Suite suite) {
  return !suite_ops(suite).empty();
}

bool axis_used(Suite suite, std::string_view op, std::string_view axis) {
  if (one_of(axis, {"engine", "op"})) return true;
  switch (suite) {
    case Suite::kEncoder:
      return !one_of(axis, {"tgt", "kv", "head", "decode", "stop"});
    case Suite::kDecoder:
      return axis != "stop";
    case Suite::kGenerate:
      return true;
    case Suite::kKernels:
      if (axis == "kv") return one_of(op, {"decode_self_attention", "cross_attention"});
      if (axis == "head") return one_of(op, {"gemm_head", "head_argmax"});
      if (axis == "sparsity") return op.starts_with("gemm_");
      // All but attention work on the rows of one decode step.
      if (axis == "src" || axis == "lengths") return one_of(op, {"encoder_attention", "cross_attention"});
      if (axis == "tgt") return op == "decode_self_attention";
      return !one_of(axis, {"weights", "calibration", "dp", "allreduce", "decode", "stop", "memory"});
    case Suite::kCollectives:
      return one_of(axis, {"model", "batch", "precision", "tp", "allreduce"});
    case Suite::kMemory:
      if (one_of(op, {"cold_load", "warm_load"})) {
        return one_of(axis,
                      {"model", "weights", "precision", "sparsity", "calibration", "head", "tp", "memory"});
      }
      return !one_of(axis, {"dp", "allreduce", "decode", "stop", "kernel"});
    case Suite::kLimits:
      if (axis == "sparsity") return one_of(op, {"gemm", "gemm_sustained"});
      return axis == "precision" && one_of(op, {"gemm", "gemm_sustained", "attention"});
  }
  return true;
}

Case canonical(Case c) {
  static const Case defaults;
  const auto& ops = suite_ops(c.suite);
  if (ops.empty() ? !c.op.empty() : std::find(ops.begin(), ops.end(), c.op) == ops.end()) {
    throw UsageError(fmt::format("op: '{}' is not allowed in suite {}; {}", c.op, suite_name(c.suite),
                                 ops.empty() ? "it has none" : fmt::format("{}", fmt::join(ops, " "))));
  }
  for (const Axis& a : axes()) {
    if (!axis_used(c.suite, c.op, a.name)) a.set(c, a.get(defaults));
  }
  if (c.tp == 1) c.allreduce = defaults.allreduce;  // nothing is summed over ranks
  return c;
}

void check_combination(const Case& c) {
  const ModelConfig config = [&] {
    try {
      // A folder whose tensors are not its config's is refused before anything runs.
      if (std::filesystem::is_directory(c.model)) return Checkpoint(c.model).config();
      return load_model(c.model);
    } catch (const IoError& e) {
      throw UsageError(e.what());
    }
  }();
  check_precision(c);
  check_sparsity(c, config);
  if (c.weights == "checkpoint" && !std::filesystem::is_directory(c.model)) {
    impossible(fmt::format("weights: checkpoint needs a checkpoint folder as model, '{}' is none", c.model));
  }
  if (c.suite != Suite::kLimits) check_lengths(c, config);
  const DecodeSpec decode = parse_decode(c.decode);
  if (decode.beams > config.vocab || decode.top_k.value_or(0) > config.vocab) {
    impossible(fmt::format("decode: '{}' asks for more than the vocabulary of {}", c.decode, config.vocab));
  }
}

}  // namespace tandem
