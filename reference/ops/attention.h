// Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2) with T5's relative position
// bias.
#pragma once

#include <cstdint>
#include <span>

#include "harness/model/batch.h"
#include "reference/ops/matrix.h"

namespace tandem::reference {

/// T5's bias (Raffel et al. 2020, section 2.1): one number for each head and bucket of (key position - query
/// position), added to the scaled scores of self-attention.
struct RelativeBias {
  MatrixView table;           ///< [buckets, heads]; empty: no bias
  bool bidirectional = true;  ///< encoder; the decoder's buckets only look back
  int max_distance = 128;
};

struct AttentionParams {
  MatrixView q;                            ///< [query tokens, heads * head_dim], packed
  std::span<const int32_t> query_offsets;  ///< [batch + 1], first row of each sequence in q
  int query_position = 0;  ///< position of every sequence's first query (a decode step: tokens before)
  MatrixView k, v;         ///< [key rows, heads * head_dim]
  std::span<const int32_t> key_offsets;  ///< [batch at least], row of each sequence's first key in k and v
  AttentionMask mask;                    ///< with the number of keys of each sequence
  int heads = 1;
  double scale = 1;
  RelativeBias bias{};
};

/// softmax(scale * Q K^T + bias) V for each head of each sequence -> [query tokens, heads * head_dim]. A
/// query that sees no key gets zeros.
Matrix attention(const AttentionParams& p);

}  // namespace tandem::reference
