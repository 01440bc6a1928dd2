#include "harness/sweep/op_shape.h"

#include <fmt/format.h>

namespace tandem {

std::optional<ProductShape> product_shape(std::string_view op, const ModelConfig& config) {
  const StackConfig& side = config.decoder;
  const int64_t d = config.d_model;
  const int64_t inner = config.inner(side);
  const int64_t d_ff = side.d_ff;
  if (op == "gemm_qkv") return ProductShape{3 * inner, d};
  if (op == "gemm_out") return ProductShape{d, inner};
  if (op == "gemm_ffn_up") return ProductShape{(config.gated ? 2 : 1) * d_ff, d};
  if (op == "gemm_ffn_down") return ProductShape{d, d_ff};
  if (op == "gemm_head" || op == "head_argmax") return ProductShape{config.vocab, d};
  return std::nullopt;
}

std::string op_shape(const Case& c, const ModelConfig& config) {
  if (const auto product = product_shape(c.op, config))
    return fmt::format("m {} n {} k {}", c.batch, product->n, product->k);
  if (c.op == "norm" || c.op == "embedding") return fmt::format("{} x {}", c.batch, config.d_model);
  const bool encoder = c.op == "encoder_attention";
  return fmt::format("b {} h {} d {} len {}", c.batch, (encoder ? config.encoder : config.decoder).heads,
                     config.head_dim, c.op == "decode_self_attention" ? c.tgt : c.src);
}

}  // namespace tandem
