// What must stay the same while files move and code is rewritten: weights, case ids, plans and the reference's outputs,
// against committed lines in suites/testdata/golden/.
//
// TANDEM_GOLDEN_OUT=DIR writes what this build computes to DIR, in the committed form: for a change that is meant.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/sha256.h"
#include "harness/sweep/sweep_spec.h"
#include "harness/weights/values/convert.h"
#include "harness/weights/values/seeded.h"
#include "kernels/plan/builder.h"
#include "reference/model/decoder.h"
#include "reference/model/encoder.h"
#include "reference/testing/family_fixture.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

/// The committed lines; writes `lines` where TANDEM_GOLDEN_OUT says.
std::vector<std::string> committed(const std::string& name, const std::vector<std::string>& lines) {
  if (const char* folder = std::getenv("TANDEM_GOLDEN_OUT")) {
    fs::create_directories(folder);
    std::ofstream out(fs::path(folder) / name);
    for (const std::string& line : lines) out << line << '\n';
  }
  std::ifstream in(fs::path("suites/testdata/golden") / name);
  std::vector<std::string> all;
  for (std::string line; std::getline(in, line);) all.push_back(line);
  return all;
}

/// The first lines that differ, not thousands of them.
void expect_committed(const std::string& name, const std::vector<std::string>& lines) {
  const std::vector<std::string> golden = committed(name, lines);
  EXPECT_EQ(golden.size(), lines.size()) << name;
  int shown = 0;
  for (size_t i = 0; i < std::min(golden.size(), lines.size()) && shown < 10; ++i) {
    if (golden[i] == lines[i]) continue;
    ADD_FAILURE() << name << ":" << i + 1 << "\n  committed " << golden[i] << "\n  now       " << lines[i];
    ++shown;
  }
}

// SHA-256 of the stored bits of some values.
class StoredHash {
 public:
  explicit StoredHash(DType dtype) : dtype_(dtype) {}

  void add(std::span<const float> values) {
    bytes_.resize(static_cast<size_t>(tensor_bytes(dtype_, static_cast<int64_t>(values.size()))));
    convert_values({.from = reinterpret_cast<const std::byte*>(values.data()),
                    .from_type = DType::kF32,
                    .to = reinterpret_cast<std::byte*>(bytes_.data()),
                    .to_type = dtype_,
                    .count = static_cast<int64_t>(values.size())});
    hash_.update(bytes_);
  }
  std::string hex() { return hash_.hex(); }

 private:
  DType dtype_;
  std::string bytes_;
  Sha256 hash_;
};

constexpr int64_t kSample = 512;  // values from either end of each tensor of a model that is not hashed whole

/// One line a preset, weights and type: hashes over every tensor in the layout's order.
std::vector<std::string> weight_lines() {
  std::vector<std::string> lines;
  for (const std::string& name : preset_names()) {
    const WeightLayout layout = weight_layout(preset(name));
    for (const char* weights : {"seed:0", "seed:7", "seed:0,outliers"}) {
      const WeightsSpec spec = parse_weights(weights);
      // Whole: the smallest model, and one real one by the longest path, which takes seconds.
      const bool whole = name == "tiny" || (name == "t5-small" && spec.outliers);
      StoredHash fp32(DType::kF32), fp16(DType::kF16), bf16(DType::kBF16);
      std::vector<float> values;
      const auto add = [&](const TensorSpec& t, int64_t first, int64_t count) {
        values.resize(static_cast<size_t>(count));
        fill_seeded(spec, t.whole, first, values);
        for (StoredHash* hash : {&fp32, &fp16, &bf16}) hash->add(values);
      };
      for (const TensorSpec& t : layout.tensors) {
        if (whole || t.size() <= 2 * kSample) {
          add(t, 0, t.size());
        } else {
          add(t, 0, kSample);
          add(t, t.size() - kSample, kSample);
        }
      }
      lines.push_back(fmt::format("{} {} {} fp32 {} fp16 {} bf16 {}", name, weights,
                                  whole ? "whole" : "sample", fp32.hex(), fp16.hex(), bf16.hex()));
    }
  }
  return lines;
}

// Breaks when a value of a seeded weight, its rounding, or the order of tensors changes.
TEST(Golden, SeededWeights) {
  expect_committed("weights.txt", weight_lines());
}

// Breaks when a case gets another id: old records would no longer be compared with new ones.
TEST(Golden, CaseIdsOfAllSweeps) {
  std::vector<fs::path> sweeps;
  for (const auto& entry : fs::directory_iterator("suites")) {
    // gates.json and gates-cpu.json are rules of the gate.
    if (entry.path().extension() == ".json" && !entry.path().filename().string().starts_with("gates"))
      sweeps.push_back(entry.path());
  }
  std::ranges::sort(sweeps);
  std::vector<std::string> lines;
  for (const fs::path& sweep : sweeps) {
    const SweepCases all =
        load_sweep(sweep.string(), {.engine = "cuda", .device = true, .peers = {"hf", "hf-step"}});
    for (const Case& c : all.cases) lines.push_back(fmt::format("{} {}", case_id(c), case_name(c)));
    for (const SkippedCase& s : all.skipped) lines.push_back(fmt::format("skipped {}", s.reason));
  }
  expect_committed("cases.txt", lines);
}

/// Plans of models with their presets' kinds and shapes, two layers a side; views only, so that no weights are made.
struct PlanCase {
  std::string name;
  std::string preset;
  Precision precision = Precision::kBf16;
  kernels::KernelChoice kernel = kernels::KernelChoice::kAuto;
  std::vector<int32_t> lengths;
  int capacity = 8;
  bool stop_at_eos = false;
  int own_rows = kernels::kAutoOwnRows;
  bool statistics = false;
  std::function<void(GenerationConfig&)> generation = {};
};

std::vector<PlanCase> plan_cases() {
  using kernels::KernelChoice;
  return {
      {.name = "base, one source", .preset = "transformer-base", .lengths = {128}},
      {.name = "base, library",
       .preset = "transformer-base",
       .kernel = KernelChoice::kLibrary,
       .lengths = {5, 9}},
      {.name = "big, 64 sources",
       .preset = "transformer-big",
       .lengths = std::vector<int32_t>(64, 32),
       .own_rows = kernels::kAutoWideRows},
      {.name = "marian, own", .preset = "marian-base", .kernel = KernelChoice::kOwn, .lengths = {7, 3, 12}},
      {.name = "bart, encoder alone", .preset = "bart-large", .lengths = {64, 64}, .capacity = 0},
      {.name = "bart, eos",
       .preset = "bart-base",
       .precision = Precision::kFp16,
       .lengths = {40},
       .stop_at_eos = true},
      {.name = "t5, fp32", .preset = "t5-small", .precision = Precision::kFp32, .lengths = {17, 4}},
      {.name = "t5 3b, 20 sources", .preset = "t5-3b", .lengths = std::vector<int32_t>(20, 16)},
      {.name = "flan-t5, tf32", .preset = "flan-t5-base", .precision = Precision::kTf32, .lengths = {33}},
      {.name = "m2m100, sampling",
       .preset = "m2m100-418m",
       .lengths = {9, 9},
       .generation =
           [](GenerationConfig& g) {
             g.sample = true;
             g.top_k = 20;
             g.n_best = 2;
           }},
      {.name = "nllb, beams",
       .preset = "nllb-600m",
       .lengths = {21, 2},
       .generation = [](GenerationConfig& g) { g.beams = 4; }},
      {.name = "tiny, library, fp32",
       .preset = "tiny",
       .precision = Precision::kFp32,
       .kernel = KernelChoice::kLibrary,
       .lengths = {3, 2, 1}},
      {.name = "base, 33 sources, norms by statistics",
       .preset = "transformer-base",
       .lengths = std::vector<int32_t>(33, 16),
       .own_rows = kernels::kAutoWideRows,
       .statistics = true},
      {.name = "t5, 17 sources, norms by statistics",
       .preset = "t5-small",
       .lengths = std::vector<int32_t>(17, 16),
       .own_rows = kernels::kAutoWideRows,
       .statistics = true},
      {.name = "nllb, beams of 16 sources, norms by statistics",
       .preset = "nllb-600m",
       .lengths = std::vector<int32_t>(16, 8),
       .own_rows = kernels::kAutoWideRows,
       .statistics = true,
       .generation = [](GenerationConfig& g) { g.beams = 4; }},
  };
}

StepPlan plan_of(const PlanCase& p) {
  ModelConfig config = preset(p.preset);
  config.encoder.layers = config.decoder.layers = 2;
  const WeightLayout layout = weight_layout(config, {.precision = p.precision});
  kernels::PlanRequest request{.config = config,
                               .weights = bind_weights(layout, reinterpret_cast<const void*>(4096)),
                               .precision = p.precision,
                               .kernel = p.kernel,
                               .batch = static_cast<int>(p.lengths.size()),
                               .max_source = std::ranges::max(p.lengths),
                               .capacity = p.capacity,
                               .stop_at_eos = p.stop_at_eos,
                               .auto_own_rows = p.own_rows,
                               .norms_by_statistics = p.statistics,
                               .statistics_width = 0};
  for (const int32_t length : p.lengths) request.source_tokens += length;
  if (p.generation) {
    GenerationConfig g;
    g.decoder_start_id = config.decoder_start_id;
    g.pad_id = config.pad_id;
    g.eos_ids = {config.eos_id};
    g.max_length = p.capacity + 1;
    p.generation(g);
    request.generation = g;
  }
  return kernels::build_plan(request);
}

// Breaks when the plan of a pass changes: an operation, its phase, its tensors, or the place of a buffer.
TEST(Golden, Plans) {
  std::vector<std::string> lines;
  for (const PlanCase& p : plan_cases()) {
    lines.push_back("# " + p.name);
    std::istringstream text(plan_text(plan_of(p)));
    for (std::string line; std::getline(text, line);) lines.push_back(line);
  }
  expect_committed("plans.txt", lines);
}

/// Norm and some values of a reference's output. Not its bits: the math library's last digit is its own.
std::vector<float> summary(const std::vector<float>& values) {
  double squares = 0;
  for (const float v : values) squares += static_cast<double>(v) * v;
  std::vector<float> some{static_cast<float>(std::sqrt(squares))};
  for (size_t i = 0; i < 16; ++i) some.push_back(values[i * (values.size() - 1) / 15]);
  return some;
}

// Breaks when the reference computes another value than it did, even where the fixture's tolerance would allow it.
TEST(Golden, ReferenceOutputsOnFixtures) {
  std::vector<std::string> lines;
  std::vector<std::vector<float>> now;
  for (const std::string& family : reference::kFamilies) {
    const reference::FamilyFixture f = reference::load_family(family);
    const ModelWeights w = f.weights();
    const reference::Matrix encoded = reference::encoder_forward(f.config, w.encoder, f.source);
    const reference::Matrix logits =
        reference::decoder_full(f.config, w.decoder, f.source, encoded, f.target);
    for (const auto& [what, values] : {std::pair{"encoder", &encoded.values}, {"logits", &logits.values}}) {
      now.push_back(summary(*values));
      lines.push_back(fmt::format("{} {} {:.9g}", family, what, fmt::join(now.back(), " ")));
    }
  }
  const std::vector<std::string> golden = committed("reference.txt", lines);
  ASSERT_EQ(golden.size(), lines.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    std::istringstream text(golden[i]);
    std::string family, what;
    text >> family >> what;
    EXPECT_TRUE(lines[i].starts_with(family + " " + what + " ")) << golden[i];
    double largest = 0;
    for (size_t k = 1; k < now[i].size(); ++k)
      largest = std::max(largest, static_cast<double>(std::abs(now[i][k])));
    for (size_t k = 0; k < now[i].size(); ++k) {
      float expected = 0;
      ASSERT_TRUE(text >> expected) << golden[i];
      EXPECT_NEAR(now[i][k], expected, 1e-6 * (k == 0 ? now[i][0] : largest)) << family << " " << what;
    }
  }
}

}  // namespace
}  // namespace tandem
