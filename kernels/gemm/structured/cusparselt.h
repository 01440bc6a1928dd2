// cuSPARSELt, found when it is first asked for. Nothing is linked and no header of it is needed.
//
// Declared from the documentation of version 0.8 (docs.nvidia.com/cuda/cusparselt); other versions have other values of their
// enumerations and are not used. Internal to kernels/gemm/structured.
#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tandem::kernels::cusparselt {

/// The library's structures have 512 bytes in version 0.8.
struct alignas(16) Opaque {
  std::array<std::byte, 1024> data{};
};
struct Handle : Opaque {};
struct Matrix : Opaque {};
struct Matmul : Opaque {};
struct Algorithm : Opaque {};
struct Plan : Opaque {};

using Status = int;  // cusparseStatus_t
inline constexpr Status kSuccess = 0;
enum Operation : int { kNonTranspose = 0, kTranspose = 1 };
enum Order : int { kColumnMajor = 1, kRowMajor = 2 };
enum Sparsity : int { k50Percent = 0 };
enum ComputeType : int { kCompute32F = 2 };
enum MatmulAttribute : int { kActivationRelu = 0, kBiasPointer = 8 };
enum AlgorithmKind : int { kDefault = 0 };
enum AlgorithmAttribute : int { kConfigId = 0, kConfigMaxId = 1 };

/// The functions by their names without the prefix cusparseLt.
struct Functions {
  Status (*Init)(Handle*) = nullptr;
  Status (*Destroy)(const Handle*) = nullptr;
  Status (*GetVersion)(const Handle*, int*) = nullptr;
  const char* (*GetErrorString)(Status) = nullptr;
  Status (*DenseDescriptorInit)(const Handle*, Matrix*, int64_t rows, int64_t cols, int64_t ld,
                                uint32_t alignment, cudaDataType type, Order order) = nullptr;
  Status (*StructuredDescriptorInit)(const Handle*, Matrix*, int64_t rows, int64_t cols, int64_t ld,
                                     uint32_t alignment, cudaDataType type, Order order,
                                     Sparsity sparsity) = nullptr;
  Status (*MatDescriptorDestroy)(const Matrix*) = nullptr;
  Status (*MatmulDescriptorInit)(const Handle*, Matmul*, Operation a, Operation b, const Matrix*,
                                 const Matrix*, const Matrix* c, const Matrix* d, ComputeType) = nullptr;
  Status (*MatmulDescSetAttribute)(const Handle*, Matmul*, MatmulAttribute, const void*, size_t) = nullptr;
  Status (*MatmulAlgSelectionInit)(const Handle*, Algorithm*, const Matmul*, AlgorithmKind) = nullptr;
  Status (*MatmulAlgSelectionDestroy)(const Algorithm*) = nullptr;
  Status (*MatmulAlgSetAttribute)(const Handle*, Algorithm*, AlgorithmAttribute, const void*,
                                  size_t) = nullptr;
  Status (*MatmulAlgGetAttribute)(const Handle*, const Algorithm*, AlgorithmAttribute, void*,
                                  size_t) = nullptr;
  Status (*MatmulPlanInit)(const Handle*, Plan*, const Matmul*, const Algorithm*) = nullptr;
  Status (*MatmulPlanDestroy)(const Plan*) = nullptr;
  Status (*MatmulGetWorkspace)(const Handle*, const Plan*, size_t*) = nullptr;
  Status (*Matmul)(const Handle*, const Plan*, const void* alpha, const void* a, const void* b,
                   const void* beta, const void* c, void* d, void* workspace, cudaStream_t* streams,
                   int32_t count) = nullptr;
  Status (*SpMMACompressedSize)(const Handle*, const Plan*, size_t* compressed, size_t* scratch) = nullptr;
  Status (*SpMMACompress)(const Handle*, const Plan*, const void* dense, void* compressed, void* scratch,
                          cudaStream_t) = nullptr;
};

/// What was found. `functions` null: `lacks` says why.
struct Library {
  const Functions* functions = nullptr;
  std::string path;   ///< as it was opened
  std::string lacks;  ///< names what was looked for
};

/// Looks once a process: TANDEM_CUSPARSELT where it is set (a path, or "none"), the loader's own places, and the
/// site-packages of the Pythons on PATH (nvidia/cusparselt/lib, which PyTorch brings).
const Library& library();

}  // namespace tandem::kernels::cusparselt
