// The encoder, as the paper writes it.
#pragma once

#include "harness/model/batch.h"
#include "harness/model/config.h"
#include "harness/weights/weights.h"
#include "reference/ops/attention.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// x [tokens, d_model], packed as `source` says -> [tokens, d_model].
Matrix encoder_layer(const ModelConfig& config, const EncoderLayerWeight& w, const RelativeBias& bias,
                     const TransformerBatch& source, MatrixView x, const Numerics& numerics = {});

/// Encoder output, packed [tokens, d_model]. Weights are fp32 in host memory.
Matrix encoder_forward(const ModelConfig& config, const EncoderWeight& w, const TransformerBatch& source,
                       const Numerics& numerics = {});

}  // namespace tandem::reference
