#include "harness/sweep/op_shape.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

std::string shape(std::string_view op, const char* model) {
  Case c;
  c.suite = Suite::kKernels;
  c.op = op;
  c.model = model;
  c.batch = 8;
  c.src = 512;
  c.tgt = 256;
  return op_shape(c, load_model(model));
}

// Breaks when a row of suite_kernels is about other sizes than the model has: T5-3B's heads are wider than the model together,
// a gated product has both halves, and each attention counts the keys that it reads.
TEST(OpShape, IsTheModels) {
  EXPECT_EQ(shape("gemm_qkv", "t5-3b"), "m 8 n 12288 k 1024");
  EXPECT_EQ(shape("gemm_out", "t5-3b"), "m 8 n 1024 k 4096");
  EXPECT_EQ(shape("gemm_ffn_up", "t5-3b"), "m 8 n 16384 k 1024");
  EXPECT_EQ(shape("gemm_ffn_up", "flan-t5-xl"), "m 8 n 10240 k 2048");
  EXPECT_EQ(shape("gemm_ffn_down", "flan-t5-xl"), "m 8 n 2048 k 5120");
  EXPECT_EQ(shape("head_argmax", "nllb-1.3b"), "m 8 n 256206 k 1024");
  EXPECT_EQ(shape("decode_self_attention", "transformer-big"), "b 8 h 16 d 64 len 256");
  EXPECT_EQ(shape("cross_attention", "t5-3b"), "b 8 h 32 d 128 len 512");
  EXPECT_EQ(shape("encoder_attention", "t5-3b"), "b 8 h 32 d 128 len 512");
  EXPECT_EQ(shape("norm", "transformer-base"), "8 x 512");
}

// Breaks when the suite has an operation without sizes: a product that is none here would be laid out as attention.
TEST(OpShape, EveryOperationHasOne) {
  const ModelConfig config = load_model("tiny");
  for (const std::string& op : suite_ops(Suite::kKernels)) {
    const bool product = op.starts_with("gemm_") || op == "head_argmax";
    EXPECT_EQ(product_shape(op, config).has_value(), product) << op;
    EXPECT_FALSE(shape(op, "tiny").empty()) << op;
  }
}

}  // namespace
}  // namespace tandem
