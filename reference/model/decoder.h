// The decoder twice: one token at a time with a K/V cache, and all positions at once without. The second is
// how the first is checked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// Keys and values of one decoder layer, as attention reads them: those of a cache of 8 bits are codes times scales.
struct LayerCache {
  Matrix self_k, self_v;    ///< [batch * capacity, inner]; row b * capacity + position
  Matrix cross_k, cross_v;  ///< [source tokens, inner], packed
};

struct DecoderState {
  std::vector<int32_t> source_lengths;  ///< [batch]
  std::vector<int32_t>
      source_offsets;  ///< [batch at least], first row of each sequence in cross_k and cross_v
  int capacity = 0;    ///< most tokens a sequence can get
  int length = 0;      ///< tokens every sequence has so far
  std::vector<LayerCache> layers;
  Numerics numerics;  ///< of every step

  int batch() const { return static_cast<int>(source_lengths.size()); }
};

/// A state with the cross-attention's keys and values of `encoder_output` [source tokens, d_model] and no
/// token yet.
DecoderState start_decoder(const ModelConfig& config, const DecoderWeight& w, const TransformerBatch& source,
                           MatrixView encoder_output, int capacity, const Numerics& numerics = {});

/// Row r becomes a copy of row rows[r]; there may be more or fewer rows than before. Copies of a row share the
/// cross-attention's keys and values. Throws Error for a row that is not there.
void reorder(DecoderState& state, std::span<const int32_t> rows);

/// Appends one token a sequence, ids [batch]. Gives the last layer's output [batch, d_model], before the
/// final norm. Throws Error when the state is full or ids has another size.
Matrix append_tokens(const ModelConfig& config, const DecoderWeight& w, DecoderState& state,
                     std::span<const int32_t> ids);

/// append_tokens, then the logits of the next token, [batch, vocab]; with ranks [batch, ids of this rank].
Matrix decoder_step(const ModelConfig& config, const DecoderWeight& w, DecoderState& state,
                    std::span<const int32_t> ids);

/// Logits of all positions of `target` (its first id is the decoder's start), packed [target tokens, vocab] (with ranks the
/// ids of this one),
/// without a cache: every layer sees all positions under a causal mask. Targets may be ragged.
Matrix decoder_full(const ModelConfig& config, const DecoderWeight& w, const TransformerBatch& source,
                    MatrixView encoder_output, const TransformerBatch& target, const Numerics& numerics = {});

}  // namespace tandem::reference
