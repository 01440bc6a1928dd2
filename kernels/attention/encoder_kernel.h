// What encoder_attention.cc hands to the kernels of this folder.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/attention/encoder_attention.h"

namespace tandem::kernels {

/// Tensor cores of sm_80 and later; kF16 and kBF16.
void launch_encoder_attention_mma(const EncoderAttentionParams& params, cudaStream_t stream);
/// CUDA cores; kF32.
void launch_encoder_attention_f32(const EncoderAttentionParams& params, cudaStream_t stream);
/// wgmma and TMA; kF16 and kBF16, head_dim 64 and 128, sm_90a only.
void launch_encoder_attention_wgmma(const EncoderAttentionParams& params, cudaStream_t stream);

}  // namespace tandem::kernels
