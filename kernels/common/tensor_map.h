// Tensor maps for the copy engine of sm_90, made without linking the driver.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <string>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/tensor.h"

namespace tandem::kernels {

/// A tensor of a 16-bit or 8-bit type in device memory, its contiguous dimension first, and the box that one copy brings: into
/// shared memory as rows of 128 bytes under the 128-byte swizzle, so box[0] is 64 or 128. Elements outside are zero.
template <int kDims>
struct TensorMapSpec {
  const char* user;  ///< named when the driver refuses
  DType dtype;
  const void* data;                  ///< on 16 bytes
  std::array<int64_t, kDims> sizes;  ///< elements
  std::array<int64_t, kDims - 1>
      strides{};  ///< elements from one index of dimension 1, 2, ... to the next; multiples of 16 bytes
  std::array<int, kDims> box;  ///< up to 256 each
  CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
};

/// Codes are copied as bytes, whatever they stand for.
inline CUtensorMapDataType tensor_map_type(DType dtype) {
  if (dtype_bits(dtype) == 8) return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  return dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    TANDEM_CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                       cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess)
      throw DeviceError("the driver lacks cuTensorMapEncodeTiled (CUDA 12.0)");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encode;
}

/// Throws CudaError when the driver refuses the tensor.
template <int kDims>
CUtensorMap tensor_map(const TensorMapSpec<kDims>& spec) {
  cuuint64_t sizes[kDims];
  cuuint64_t strides[kDims - 1];
  cuuint32_t box[kDims];
  cuuint32_t steps[kDims];
  for (int i = 0; i < kDims; ++i) {
    sizes[i] = static_cast<cuuint64_t>(spec.sizes[i]);
    box[i] = static_cast<cuuint32_t>(spec.box[i]);
    steps[i] = 1;
    if (i > 0) strides[i - 1] = static_cast<cuuint64_t>(tensor_bytes(spec.dtype, spec.strides[i - 1]));
  }
  CUtensorMap map;
  const CUresult status =
      tensor_map_encoder()(&map, tensor_map_type(spec.dtype), kDims, const_cast<void*>(spec.data), sizes,
                           strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           spec.promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw CudaError(std::string(spec.user) + ": cuTensorMapEncodeTiled failed with " + std::to_string(status),
                    status);
  }
  return map;
}

}  // namespace tandem::kernels
