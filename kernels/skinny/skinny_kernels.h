// The kernels of each element type, compiled in files of their own. Null where config_problem() has an objection.
#pragma once

#include "kernels/skinny/args.h"
#include "kernels/skinny/skinny_config.h"

namespace tandem::kernels {

using SkinnyKernel = void (*)(SkinnyArgs);

SkinnyKernel find_kernel_f32(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_f16(const SkinnyConfig& config, bool head, bool norm);
SkinnyKernel find_kernel_bf16(const SkinnyConfig& config, bool head, bool norm);

}  // namespace tandem::kernels
