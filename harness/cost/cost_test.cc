#include "harness/cost/cost.h"

#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include <nlohmann/json.hpp>

#include "harness/weights/layout.h"
#include "harness/weights/pruning/prune.h"

namespace tandem {
namespace {

std::vector<int32_t> full(int batch, int src) {
  return std::vector<int32_t>(static_cast<size_t>(batch), src);
}

double weights_of(const Cost& cost, bool head) {
  double sum = 0;
  for (const PhaseCost& p : cost.phases) sum += (p.kind == PhaseKind::kHead) == head ? p.weight_bytes : 0;
  return sum;
}

// Breaks when bytes or operations drift from the independent machine model: 64 cases made with another program.
TEST(Cost, EqualsTheCommittedTableWithinOnePercent) {
  std::ifstream in("harness/cost/testdata/roofline.json");
  const auto table = nlohmann::json::parse(in);
  ASSERT_GE(table.size(), 40u);
  for (const auto& row : table) {
    SCOPED_TRACE(row.dump());
    const ModelConfig config = preset(row["model"].get<std::string>());
    const CostOptions options{.form = {.precision = parse_precision(row["precision"].get<std::string>())}};
    const auto lengths = full(row["batch"], row["src"]);
    auto close = [&](double got, const char* key) {
      EXPECT_NEAR(got / row[key].get<double>(), 1, 0.01) << key;
    };
    const Cost step = decode_step_cost(config, lengths, row["tgt"].get<int>(), options);
    const PhaseCost& self = *step.find(Side::kDecoder, PhaseKind::kSelfAttention);
    close(weights_of(step, false), "weights");
    close(weights_of(step, true), "head");
    close(self.kv_bytes + self.written_bytes, "self_kv");
    close(step.find(Side::kDecoder, PhaseKind::kCrossAttention)->kv_bytes, "cross_kv");
    close(step.bytes(), "step_bytes");
    close(step.flops(), "step_flops");
    const Cost encoder = encoder_cost(config, lengths, options);
    close(weights_of(encoder, false), "encoder_weights");
    close(encoder.flops(), "encoder_flops");
    close(cross_kv_cost(config, lengths, options).bytes_written(), "cross_kv_write");
  }
}

// Breaks when a total is anything else than the sum of its phases.
TEST(Cost, PhasesSumToTotalsExactly) {
  for (const std::string& name : preset_names()) {
    const Cost cost = generate_cost(preset(name), std::vector<int32_t>{7, 3, 12}, 9, {});
    double bytes = 0, flops = 0;
    for (const PhaseCost& p : cost.phases) {
      bytes += p.bytes();
      flops += p.flops;
    }
    EXPECT_DOUBLE_EQ(bytes, cost.bytes()) << name;
    EXPECT_DOUBLE_EQ(flops, cost.flops()) << name;
  }
}

// Breaks when the mean position stands for the wrong sum of steps.
TEST(Cost, GenerationIsTheSumOfItsSteps) {
  const ModelConfig config = preset("t5-small");
  const std::vector<int32_t> lengths = {5, 11};
  const CostOptions options{.form = {.precision = Precision::kFp16}};
  Cost sum = encoder_cost(config, lengths, options);
  sum.add(cross_kv_cost(config, lengths, options));
  for (int t = 1; t <= 6; ++t) sum.add(decode_step_cost(config, lengths, t, options));
  const Cost whole = generate_cost(config, lengths, 6, options);
  EXPECT_NEAR(whole.bytes() / sum.bytes(), 1, 1e-12);
  EXPECT_NEAR(whole.flops() / sum.flops(), 1, 1e-12);
  ASSERT_EQ(whole.phases.size(), sum.phases.size());
}

// tiny: d 64, 4 heads of 16 (inner 64), d_ff 128, vocab 256, 2 + 2 layers, biased, layer norm, post. fp32, batch 1, source 8.
// Breaks when a phase of a plain biased model is counted wrong.
TEST(Cost, TinyByHand) {
  const ModelConfig config = preset("tiny");
  const CostOptions options{.form = {.precision = Precision::kFp32}};
  const Cost e = encoder_cost(config, full(1, 8), options);
  auto phase = [](const Cost& c, Side side, PhaseKind kind) -> const PhaseCost& {
    return *c.find(side, kind);
  };
  const Side E = Side::kEncoder, D = Side::kDecoder;
  // qkv: 2 layers x (64 x 192 + 192) x 4 bytes; 2 x 8 x 64 x 192 operations a layer
  EXPECT_EQ(phase(e, E, PhaseKind::kSelfQkv).weight_bytes, 2 * (64 * 192 + 192) * 4);
  EXPECT_EQ(phase(e, E, PhaseKind::kSelfQkv).flops, 2 * 2 * 8 * 64 * 192);
  EXPECT_EQ(phase(e, E, PhaseKind::kSelfAttention).flops, 2 * 4 * 8 * 8 * 64);
  EXPECT_EQ(phase(e, E, PhaseKind::kSelfOut).weight_bytes, 2 * (64 * 64 + 64) * 4);
  EXPECT_EQ(phase(e, E, PhaseKind::kFfnUp).weight_bytes, 2 * (64 * 128 + 128) * 4);
  EXPECT_EQ(phase(e, E, PhaseKind::kFfnDown).weight_bytes, 2 * (128 * 64 + 64) * 4);
  EXPECT_EQ(phase(e, E, PhaseKind::kFfnDown).written_bytes, 8 * 64 * 4);
  EXPECT_EQ(phase(e, E, PhaseKind::kNorm).weight_bytes, 4 * 2 * 64 * 4);  // 2 a layer, gamma and beta
  EXPECT_EQ(phase(e, E, PhaseKind::kEmbed).other_bytes, 8 * 4);

  const Cost x = cross_kv_cost(config, full(1, 8), options);
  EXPECT_EQ(x.bytes_written(), 2 * 8 * 2 * 64 * 4);  // layers, tokens, K and V
  EXPECT_EQ(x.flops(), 2 * 2 * 8 * 64 * 128);

  const Cost d = decode_step_cost(config, full(1, 8), 5, options);
  EXPECT_EQ(phase(d, D, PhaseKind::kSelfAttention).kv_bytes,
            2 * 4 * 2 * 64 * 4);  // layers, 4 older positions
  EXPECT_EQ(phase(d, D, PhaseKind::kSelfAttention).written_bytes, 2 * 2 * 64 * 4);
  EXPECT_EQ(phase(d, D, PhaseKind::kSelfAttention).flops, 2 * 4 * 5 * 64);
  EXPECT_EQ(phase(d, D, PhaseKind::kCrossQkv).weight_bytes, 2 * (64 * 64 + 64) * 4);
  EXPECT_EQ(phase(d, D, PhaseKind::kCrossAttention).kv_bytes, 2 * 8 * 2 * 64 * 4);
  EXPECT_EQ(phase(d, D, PhaseKind::kHead).weight_bytes, 256 * 64 * 4);
  EXPECT_EQ(phase(d, D, PhaseKind::kHead).flops, 2 * 64 * 256);
  EXPECT_EQ(phase(d, D, PhaseKind::kNorm).weight_bytes, 6 * 2 * 64 * 4);
  EXPECT_EQ(phase(d, D, PhaseKind::kSelect).written_bytes, 4);
}

// Breaks when the third matrix of a gated FFN, an inner width that is not d_model, rms norms or missing biases are miscounted.
TEST(Cost, GatedByHand) {
  ModelConfig c = preset("flan-t5-base");
  c.d_model = 24;
  c.head_dim = 8;
  c.encoder = c.decoder = {.layers = 1, .heads = 4, .d_ff = 40};
  c.vocab = 100;
  const Cost d =
      decode_step_cost(c, std::vector<int32_t>{3, 2}, 1, {.form = {.precision = Precision::kBf16}});
  const auto at = [&](PhaseKind k) { return *d.find(Side::kDecoder, k); };
  EXPECT_EQ(at(PhaseKind::kSelfQkv).weight_bytes, 24 * 96 * 2);
  EXPECT_EQ(at(PhaseKind::kSelfOut).weight_bytes, 32 * 24 * 2);
  EXPECT_EQ(at(PhaseKind::kFfnUp).weight_bytes, 2 * 24 * 40 * 2);
  EXPECT_EQ(at(PhaseKind::kFfnUp).flops, 2 * 2 * 24 * 80);
  EXPECT_EQ(at(PhaseKind::kFfnDown).weight_bytes, 40 * 24 * 2);
  EXPECT_EQ(at(PhaseKind::kNorm).weight_bytes, 4 * 24 * 2);  // three and the final one, gamma only
  EXPECT_EQ(at(PhaseKind::kCrossAttention).kv_bytes, 5 * 2 * 32 * 2);
  EXPECT_EQ(at(PhaseKind::kSelfAttention).kv_bytes, 0);
  EXPECT_EQ(at(PhaseKind::kHead).weight_bytes, 100 * 24 * 2);
}

// Breaks when beams are counted as one row, or their source's keys and values as many times as there are beams.
TEST(Cost, BeamsShareTheirSource) {
  const ModelConfig config = preset("tiny");
  const auto at = [&](PhaseKind kind, const CostOptions& options) {
    return *decode_step_cost(config, full(3, 8), 5, options).find(Side::kDecoder, kind);
  };
  const CostOptions one{.form = {.precision = Precision::kFp32}};
  const CostOptions beams{
      .form = {.precision = Precision::kFp32}, .rows_per_source = 4, .shared_history = true};
  const CostOptions samples{.form = {.precision = Precision::kFp32}, .rows_per_source = 4};
  for (const PhaseKind kind :
       {PhaseKind::kSelfQkv, PhaseKind::kSelfAttention, PhaseKind::kCrossAttention, PhaseKind::kHead}) {
    EXPECT_EQ(at(kind, beams).flops, 4 * at(kind, one).flops);
    EXPECT_EQ(at(kind, beams).weight_bytes, at(kind, one).weight_bytes);
  }
  EXPECT_EQ(at(PhaseKind::kCrossAttention, beams).kv_bytes, at(PhaseKind::kCrossAttention, one).kv_bytes);
  EXPECT_EQ(at(PhaseKind::kSelfAttention, beams).kv_bytes, at(PhaseKind::kSelfAttention, one).kv_bytes);
  EXPECT_EQ(at(PhaseKind::kSelfAttention, samples).kv_bytes, 4 * at(PhaseKind::kSelfAttention, one).kv_bytes);
  EXPECT_EQ(at(PhaseKind::kSelfAttention, beams).written_bytes,
            4 * at(PhaseKind::kSelfAttention, one).written_bytes);
}

// Breaks when final_logits_bias, the embedding norm or int8's scales are left out.
TEST(Cost, BiasedHeadAndInt8Kv) {
  ModelConfig c = preset("bart-base");
  const Cost d =
      decode_step_cost(c, full(2, 4), 3, {.form = {.precision = Precision::kBf16}, .kv = KvType::kInt8});
  EXPECT_EQ(d.find(Side::kDecoder, PhaseKind::kHead)->weight_bytes, 50265.0 * (768 * 2 + 2));
  EXPECT_EQ(d.find(Side::kDecoder, PhaseKind::kNorm)->weight_bytes, (3 * 6 + 1) * 2 * 768 * 2);
  // K and V of a token and layer: 12 heads x (64 bytes + one fp32 scale)
  EXPECT_EQ(d.find(Side::kDecoder, PhaseKind::kCrossAttention)->kv_bytes, 6.0 * 8 * 2 * 12 * (64 + 4));
}

// tiny: a row of qkv or of the head has 64 values, one of ffn.down 128. 8 bits: a byte each and one fp32 scale; w4a16: half a
// byte each and one bf16 scale a group of 128. 4 heads of 16 values in the cache.
// Breaks when scales are left out of the bytes of a form, or its head or its cache is counted in another type.
TEST(Cost, QuantisedFormsByHand) {
  const ModelConfig config = preset("tiny");
  const auto at = [&](const CostOptions& options, PhaseKind kind) {
    return *decode_step_cost(config, full(1, 8), 5, options).find(Side::kDecoder, kind);
  };
  const double bias = 2, fp32 = 4;  // bytes
  for (const Precision p : {Precision::kFp8, Precision::kInt8, Precision::kW8a16}) {
    const CostOptions options{.form = {.precision = p}};
    EXPECT_EQ(at(options, PhaseKind::kSelfQkv).weight_bytes, 2 * 192 * (64 + fp32 + bias));
    EXPECT_EQ(at(options, PhaseKind::kFfnDown).weight_bytes, 2 * 64 * (128 + fp32 + bias));
    EXPECT_EQ(at(options, PhaseKind::kHead).weight_bytes, 256 * (64 + fp32));
  }
  const CostOptions w4a16{.form = {.precision = Precision::kW4a16}};
  EXPECT_EQ(at(w4a16, PhaseKind::kSelfQkv).weight_bytes, 2 * 192 * (32 + 2 + bias));
  EXPECT_EQ(at(w4a16, PhaseKind::kFfnDown).weight_bytes, 2 * 64 * (64 + 2 + bias));
  EXPECT_EQ(at(w4a16, PhaseKind::kHead).weight_bytes, 256 * (64 + fp32));

  CostOptions int8{.form = {.precision = Precision::kInt8}};
  EXPECT_EQ(at(int8, PhaseKind::kSelfAttention).kv_bytes,
            2 * 4 * 2 * 4 * (16 + fp32));  // layers, positions, K and V, heads
  EXPECT_EQ(at(int8, PhaseKind::kSelfAttention).written_bytes, 2 * 2 * 4 * (16 + fp32));
  EXPECT_EQ(at(int8, PhaseKind::kHead).unit, ComputeUnit::kProduct);
  int8.form.head = HeadStorage::k16Bit;
  int8.kv = KvType::k16Bit;
  EXPECT_EQ(at(int8, PhaseKind::kHead).weight_bytes, 256 * 64 * 2);
  EXPECT_EQ(at(int8, PhaseKind::kHead).unit, ComputeUnit::kActivations);
  EXPECT_EQ(at(int8, PhaseKind::kSelfAttention).kv_bytes, 2 * 4 * 2 * 4 * 16 * 2);
}

// Breaks when the bytes that a floor stands on are not those of the arena: every matrix, bias and norm once, no table.
TEST(Cost, WeightsAreTheLayouts) {
  for (const char* model : {"tiny", "flan-t5-base"}) {
    const ModelConfig config = preset(model);
    for (int p = 0; p < kPrecisions; ++p) {
      const WeightForm form{.precision = static_cast<Precision>(p)};
      const WeightLayout layout = weight_layout(config, form);
      double stored = 0;
      for (const TensorSpec& t : layout.tensors) {
        const bool table = t.name.ends_with("embedding") || t.name.ends_with("position") ||
                           t.name.ends_with("relative_bias");
        if (!table) stored += static_cast<double>(t.value_bytes() + t.scale_bytes());
      }
      if (!layout.contains("head.weight"))
        stored += static_cast<double>(layout.at("shared.embedding").value_bytes());
      const std::vector<int32_t> lengths = {3};
      Cost cost = encoder_cost(config, lengths, {.form = form});
      cost.add(cross_kv_cost(config, lengths, {.form = form}));
      cost.add(decode_step_cost(config, lengths, 1, {.form = form}));
      EXPECT_EQ(weights_of(cost, false) + weights_of(cost, true), stored) << model << " " << form_text(form);
    }
  }
}

// The same of pruned forms, whose sizes are the values' own: a smaller model, half the values, or a bitmap and what it keeps. Rows
// of a bitmap end at whole 16 bytes, which no floor has to read.
TEST(Cost, PrunedWeightsAreTheLayouts) {
  const ModelConfig whole = preset("t5-small");
  for (const SparsitySpec& sparsity :
       {SparsitySpec{.two_of_four = true}, SparsitySpec{.unstructured = 0.5},
        SparsitySpec{.unstructured = 0.2}, SparsitySpec{.heads = 0.5, .ffn = 0.25, .layers = 0.5}}) {
    const WeightForm form{.precision = Precision::kBf16, .sparsity = sparsity};
    const WeightLayout layout = weight_layout(whole, form);
    double stored = 0;
    for (const TensorSpec& t : layout.tensors) {
      if (t.use != TensorUse::kProduct) continue;
      stored += static_cast<double>(t.value_bytes() + t.metadata_bytes());
      if (t.storage.bitmap) stored += static_cast<double>(t.bitmap_bytes() + t.starts_bytes());
    }
    const ModelConfig config = smaller_config(whole, sparsity);
    const std::vector<int32_t> lengths = {3};
    Cost cost = encoder_cost(config, lengths, {.form = form});
    cost.add(cross_kv_cost(config, lengths, {.form = form}));
    cost.add(decode_step_cost(config, lengths, 1, {.form = form}));
    double counted = 0;
    for (const PhaseCost& p : cost.phases) {
      if (p.kind != PhaseKind::kHead && p.kind != PhaseKind::kNorm) counted += p.weight_bytes;
    }
    EXPECT_NEAR(counted / stored, 1, sparsity.unstructured >= kBitmapLeastRemoved ? 0.01 : 1e-12)
        << form_text(form);
  }
}

}  // namespace
}  // namespace tandem
