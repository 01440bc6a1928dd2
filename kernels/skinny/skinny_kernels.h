// The kernels of each element type, compiled in files of their own. Null where config_problem() has an objection.
#pragma once

#include <cuda.h>

#include "kernels/skinny/args.h"
#include "kernels/skinny/choose/skinny_config.h"
#include "kernels/skinny/wide/wide_args.h"

namespace tandem::kernels {

using SkinnyKernel = void (*)(SkinnyArgs);

SkinnyKernel find_kernel_f32(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_f16(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_bf16(const SkinnyConfig& config, bool head, bool norm);

/// Of formats of codes, by what is multiplied (formats/format.cuh).
SkinnyKernel find_kernel_w8a16(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_w4a16(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_fp8(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_int8(const SkinnyConfig& config, bool head, bool norm);

/// Of weights of which only some are stored.
SkinnyKernel find_kernel_two_of_four(const SkinnyConfig& config, bool norm);
SkinnyKernel find_kernel_bitmap(const SkinnyConfig& config, bool norm);

/// Products for sm_90a with the tensor maps of weights and x.
using WideKernel = void (*)(CUtensorMap, CUtensorMap, WideArgs);

WideKernel find_wide_f16(int batch, bool head);
WideKernel find_wide_bf16(int batch, bool head);
WideKernel find_wide_w8a16(int batch, bool head);
WideKernel find_wide_w4a16(int batch, bool head);
WideKernel find_wide_fp8(int batch, bool head);
WideKernel find_wide_int8(int batch, bool head);
WideKernel find_wide_two_of_four(int batch);
WideKernel find_wide_bitmap(int batch);
/// bf16 with a norm by statistics.
WideKernel find_wide_stats(int batch);

}  // namespace tandem::kernels
