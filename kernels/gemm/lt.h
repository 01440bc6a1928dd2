// cuBLASLt's descriptors as owned objects. Internal to the files that call the library.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "harness/base/error.h"
#include "harness/base/tensor.h"

namespace tandem::kernels {

inline void check_cublas(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw CudaError(
      std::string(file) + ":" + std::to_string(line) + ": " + call + ": " + cublasLtGetStatusString(status),
      static_cast<int>(status));
}
/// For destructors: reports on stderr, never throws.
inline void warn_cublas(cublasStatus_t status, const char* call, const char* file, int line) noexcept {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "tandem: %s:%d: %s: %s\n", file, line, call, cublasLtGetStatusString(status));
}
#define TANDEM_CUBLAS_CHECK(call) ::tandem::kernels::check_cublas((call), #call, __FILE__, __LINE__)
#define TANDEM_CUBLAS_WARN(call) ::tandem::kernels::warn_cublas((call), #call, __FILE__, __LINE__)

/// Owns one descriptor and destroys it with `destroy`.
template <typename Handle, cublasStatus_t (*destroy)(Handle)>
class LtOwned {
 public:
  LtOwned() = default;
  ~LtOwned() {
    if (handle_ != nullptr) TANDEM_CUBLAS_WARN(destroy(handle_));
  }
  LtOwned(LtOwned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  LtOwned& operator=(LtOwned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Handle get() const { return handle_; }
  Handle* put() { return &handle_; }

 private:
  Handle handle_ = nullptr;
};

using LtOperation = LtOwned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using LtLayout = LtOwned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using LtPreference = LtOwned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <typename T>
void set_attribute(const LtOperation& op, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  TANDEM_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(op.get(), attribute, &value, sizeof(value)));
}
template <typename T>
void set_attribute(const LtPreference& pref, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  TANDEM_CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(pref.get(), attribute, &value, sizeof(value)));
}

/// The library's name of an element type. Throws UsageError for a type that no product here has.
cudaDataType_t cuda_type(DType type);

/// The operation and the layouts of y^T[n, m] = w x^T in the library's column-major terms: a row-major matrix
/// is its own transpose there, so W is read as [k, n] and transposed, x as [k, m], y as [n, m], and a bias
/// over the rows of y^T is the bias over n.
struct LtMatmul {
  LtOperation operation;
  LtLayout w;
  LtLayout x;
  LtLayout y;
};

}  // namespace tandem::kernels
