#include "harness/sweep/case.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>

#include "harness/base/error.h"
#include "harness/base/sha256.h"
#include "harness/base/text.h"
#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/model/model_spec.h"
#include "harness/sweep/files.h"
#include "harness/weights/sparsity.h"
#include "harness/weights/values/seeded.h"

namespace tandem {
namespace {

constexpr std::string_view kSuiteNames[] = {"encoder",     "decoder", "generate", "kernels",
                                            "collectives", "memory",  "limits"};

/// Is it one of the blank-separated words?
bool is_word_of(std::string_view words, std::string_view value) {
  if (value.empty() || value.find(' ') != std::string_view::npos) return false;
  for (size_t at = 0; at < words.size();) {
    const size_t end = std::min(words.find(' ', at), words.size());
    if (words.substr(at, end - at) == value) return true;
    at = end + 1;
  }
  return false;
}

bool is_preset(std::string_view model) {
  for (const std::string& name : preset_names()) {
    if (name == model) return true;
  }
  return false;
}

const std::string& model_allowed() {
  static const std::string text =
      fmt::format("a preset ({}), a JSON file or a checkpoint folder", fmt::join(preset_names(), " "));
  return text;
}

const std::string& op_allowed() {
  static const std::string text =
      fmt::format("kernels: {}; collectives: {}; memory: {}; limits: {}; none for the other suites",
                  fmt::join(suite_ops(Suite::kKernels), " "), fmt::join(suite_ops(Suite::kCollectives), " "),
                  fmt::join(suite_ops(Suite::kMemory), " "), fmt::join(suite_ops(Suite::kLimits), " "));
  return text;
}

bool is_engine_name(std::string_view text) {
  if (text.empty() || text == "auto" || text[0] < 'a' || text[0] > 'z') return false;
  return text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string_view::npos;
}

Axis integer_axis(std::string_view name, int Case::*field, bool always, int max, std::string_view allowed,
                  std::string_view help) {
  return {.name = name,
          .integer = true,
          .always_in_name = always,
          .allowed = allowed,
          .help = help,
          .get = [field](const Case& c) { return std::to_string(c.*field); },
          .set =
              [=](Case& c, const std::string& value) {
                int n = 0;
                const char* end = value.data() + value.size();
                const auto [stop, error] = std::from_chars(value.data(), end, n);
                const bool power = max > 8 || n == 1 || n == 2 || n == 4 || n == 8;
                if (error != std::errc() || stop != end || n < 1 || n > max || !power)
                  not_allowed(name, value, allowed);
                c.*field = n;
              }};
}

/// `parse` returns the canonical text and throws UsageError for what is not allowed.
Axis text_axis(std::string_view name, std::string Case::*field, bool always, std::string_view allowed,
               std::string_view help, std::function<std::string(const std::string&)> parse) {
  return {.name = name,
          .integer = false,
          .always_in_name = always,
          .allowed = allowed,
          .help = help,
          .get = [field](const Case& c) { return c.*field; },
          .set =
              [=](Case& c, const std::string& value) {
                std::string canonical;
                try {
                  canonical = parse(value);
                } catch (const UsageError&) {
                  not_allowed(name, value, allowed);
                }
                c.*field = std::move(canonical);
              }};
}

Axis word_axis(std::string_view name, std::string Case::*field, std::string_view words,
               std::string_view help) {
  return text_axis(name, field, false, words, help, [words](const std::string& value) {
    if (!is_word_of(words, value)) throw UsageError("");
    return value;
  });
}

std::vector<Axis> make_axes() {
  constexpr std::string_view kSize = "an integer from 1 to 65536";
  constexpr std::string_view kDegree = "1, 2, 4 or 8";
  constexpr std::string_view kPrecision = "fp32 tf32 fp16 bf16 fp8 int8 w8a16 w4a16";
  std::vector<Axis> all;
  all.push_back(
      text_axis("model", &Case::model, true, model_allowed(), "what is run", [](const std::string& v) {
        if (!is_preset(v) && (v.empty() || !is_model_path(v))) throw UsageError("");
        return v;
      }));
  all.push_back(text_axis("weights", &Case::weights, false,
                          "seed:N, seed:N,outliers or checkpoint (the default where the model is a folder)",
                          "where the weights come from",
                          [](const std::string& v) { return weights_text(parse_weights(v)); }));
  all.push_back(integer_axis("batch", &Case::batch, true, 65536, kSize, "sequences"));
  all.push_back(integer_axis("src", &Case::src, true, 65536, kSize, "source length"));
  all.push_back(integer_axis("tgt", &Case::tgt, true, 65536, kSize,
                             "generated length; suite_decoder measures the step that appends this position"));
  all.push_back(
      text_axis("lengths", &Case::lengths, false, "full, ragged:R (0 < R <= 1), file:PATH or ids:PATH",
                "source lengths: mean R x src, or one a line; or the sources, one sequence of ids a line",
                [](const std::string& v) { return lengths_text(parse_lengths(v)); }));
  all.push_back({.name = "precision",
                 .integer = false,
                 .always_in_name = true,
                 .allowed = kPrecision,
                 .help = "what weights and activations are stored as",
                 .get = [](const Case& c) { return std::string(precision_name(c.precision)); },
                 .set =
                     [=](Case& c, const std::string& value) {
                       if (!is_word_of(kPrecision, value)) not_allowed("precision", value, kPrecision);
                       c.precision = parse_precision(value);
                     }});
  all.push_back(word_axis("kv", &Case::kv, "same 16bit fp8 int8", "what the K/V cache is stored as"));
  all.push_back(text_axis("sparsity", &Case::sparsity, true, kSparsityAllowed,
                          "what is removed from the dense model",
                          [](const std::string& v) { return sparsity_text(parse_sparsity(v)); }));
  all.push_back(word_axis("calibration", &Case::calibration, "none smoothquant awq",
                          "what scales of quantised weights are chosen by, beside the weights"));
  all.push_back(word_axis("head", &Case::head, "same 16bit", "what the vocabulary head is stored as"));
  all.push_back(integer_axis("tp", &Case::tp, true, 8, kDegree, "tensor-parallel degree"));
  all.push_back(integer_axis("dp", &Case::dp, false, 8, kDegree, "data-parallel replicas"));
  all.push_back(word_axis("allreduce", &Case::allreduce, "auto nccl oneshot twoshot",
                          "how ranks sum: by NCCL, or by the own kernels in one trip or two"));
  all.push_back(text_axis("decode", &Case::decode, false, kDecodeAllowed, "how the next token is chosen",
                          [](const std::string& v) { return decode_text(parse_decode(v)); }));
  all.push_back(
      word_axis("stop", &Case::stop, "fixed eos", "generate tgt tokens, or end a sequence at its eos"));
  all.push_back(word_axis("kernel", &Case::kernel, "auto own library", "whose kernels compute it"));
  all.push_back(
      word_axis("memory", &Case::memory, "gpu level2 level1", "the memory level that allocations stop at"));
  all.push_back(text_axis("engine", &Case::engine, true,
                          "cuda, reference or a peer's name ([a-z][a-z0-9_-]*)", "what computes the case",
                          [](const std::string& v) {
                            if (!is_engine_name(v)) throw UsageError("");
                            return v;
                          }));
  all.push_back(text_axis("op", &Case::op, false, op_allowed(),
                          "what the suites of single operations measure", [](const std::string& v) {
                            bool known = v.empty();
                            for (const Suite suite : suites()) {
                              for (const std::string& op : suite_ops(suite)) known = known || op == v;
                            }
                            if (!known) throw UsageError("");
                            return v;
                          }));
  return all;
}

/// What stands for an axis in the id: a file's content, not its path.
nlohmann::json id_value(const Case& c, const Axis& a) {
  if (a.name == "model" && !is_preset(c.model)) return "sha256:" + content_sha256(c.model);
  if (a.name == "lengths" && c.lengths.starts_with("file:"))
    return "file:" + content_sha256(c.lengths.substr(5));
  if (a.name == "lengths" && c.lengths.starts_with("ids:"))
    return "ids:" + content_sha256(c.lengths.substr(4));
  if (a.integer) return std::stoi(a.get(c));
  return a.get(c);
}

}  // namespace

std::string_view suite_name(Suite suite) {
  return kSuiteNames[static_cast<int>(suite)];
}

const std::vector<Suite>& suites() {
  static const std::vector<Suite> all = {Suite::kEncoder, Suite::kDecoder,     Suite::kGenerate,
                                         Suite::kKernels, Suite::kCollectives, Suite::kMemory,
                                         Suite::kLimits};
  return all;
}

Suite parse_suite(std::string_view name) {
  for (const Suite suite : suites()) {
    if (suite_name(suite) == name) return suite;
  }
  not_allowed("suite", std::string(name), fmt::format("{}", fmt::join(kSuiteNames, " ")));
}

const std::vector<Axis>& axes() {
  static const std::vector<Axis> all = make_axes();
  return all;
}

const Axis& axis(std::string_view name) {
  std::vector<std::string> known;
  for (const Axis& a : axes()) {
    if (a.name == name) return a;
    known.emplace_back(a.name);
  }
  throw UsageError(
      fmt::format("unknown axis '{}'; {}{}", name, fmt::join(known, " "), did_you_mean(name, known)));
}

std::vector<std::string> split_values(const Axis& a, const std::string& text) {
  // A comma may belong to a path: what is there as a whole is one value.
  const bool path = a.name == "model" || a.name == "lengths";
  const size_t colon = a.name == "lengths" ? text.find(':') + 1 : 0;
  std::error_code none;
  if (path && std::filesystem::exists(text.substr(colon), none)) return {text};
  auto allowed = [&](const std::string& value) {
    Case scratch;
    try {
      a.set(scratch, value);
    } catch (const UsageError&) {
      return false;
    }
    return true;
  };
  std::vector<std::string> values;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string piece = text.substr(at, end - at);
    if (allowed(piece)) {
      values.push_back(piece);
    } else if (!values.empty() && allowed(values.back() + "," + piece)) {
      values.back() += "," + piece;
    } else {
      not_allowed(a.name, piece, a.allowed);
    }
    at = end + 1;
  }
  return values;
}

std::string case_name(const Case& c) {
  static const Case defaults;
  std::string name(suite_name(c.suite));
  for (const Axis& a : axes()) {
    if (a.always_in_name) name += fmt::format("/{}:{}", a.name, a.get(c));
  }
  for (const Axis& a : axes()) {
    if (!a.always_in_name && a.get(c) != a.get(defaults)) name += fmt::format("/{}:{}", a.name, a.get(c));
  }
  return name;
}

std::string case_id(const Case& c) {
  static const Case defaults;
  nlohmann::json canonical = {{"suite", suite_name(c.suite)}};
  for (const Axis& a : axes()) {
    if (a.get(c) != a.get(defaults)) canonical[std::string(a.name)] = id_value(c, a);
  }
  return sha256_hex(canonical.dump()).substr(0, 16);
}

nlohmann::json case_to_json(const Case& c) {
  nlohmann::json j = {{"suite", suite_name(c.suite)}};
  for (const Axis& a : axes()) {
    if (a.integer) {
      j[std::string(a.name)] = std::stoi(a.get(c));
    } else {
      j[std::string(a.name)] = a.get(c);
    }
  }
  return j;
}

Case case_from_json(const nlohmann::json& j) {
  if (!j.is_object()) throw UsageError("case: not a JSON object");
  const auto suite = j.find("suite");
  if (suite == j.end() || !suite->is_string()) throw UsageError("case: suite: missing or not a string");
  Case c;
  c.suite = parse_suite(suite->get<std::string>());
  for (const auto& [key, value] : j.items()) {
    if (key == "suite" || key == "id" || key == "name") continue;
    const Axis& a = axis(key);
    if (a.integer ? !value.is_number_integer() : !value.is_string())
      not_allowed(key, value.dump(), a.allowed);
    a.set(c, a.integer ? value.dump() : value.get<std::string>());
  }
  return c;
}

WeightForm weight_form(const Case& c) {
  return {.precision = c.precision,
          .sparsity = parse_sparsity(c.sparsity),
          .calibration = c.calibration == "smoothquant" ? Calibration::kSmoothQuant
                         : c.calibration == "awq"       ? Calibration::kAwq
                                                        : Calibration::kNone,
          .head = c.head == "16bit" ? HeadStorage::k16Bit : HeadStorage::kSame};
}

bool is_lossy(const Case& c) {
  return c.kv == "fp8" || c.kv == "int8" || lossy(weight_form(c));
}

std::string group_key(const Case& c) {
  return fmt::format("{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}", suite_name(c.suite), c.engine, c.model, c.weights,
                     precision_name(c.precision), c.sparsity, c.calibration, c.head, c.kv, c.tp, c.dp);
}

}  // namespace tandem
