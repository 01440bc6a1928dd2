#include "kernels/gemm/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "kernels/gemm/candidates.h"
#include "kernels/gemm/lt.h"

namespace tandem::kernels {
namespace {

constexpr int kWorkspaceAlignment = 256;
constexpr int kScalesAlignment = 16;
/// Up to this depth sums of fp8 products stay in the tensor cores' own registers, of about 14 bits (the library's fast
/// accumulation); of deeper products they leave for fp32 ones every few steps over k. On an H200 passes of an encoder took 1.1
/// to 1.2 times as long without it; the error of the sums was 0.2 % at 2048 and 1.8 % at 16384.
constexpr int64_t kFastDepth = 4096;

cublasLtEpilogue_t lt_epilogue(GemmEpilogue e) {
  switch (e) {
    case GemmEpilogue::kNone:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case GemmEpilogue::kBias:
      return CUBLASLT_EPILOGUE_BIAS;
    case GemmEpilogue::kRelu:
      return CUBLASLT_EPILOGUE_RELU;
    case GemmEpilogue::kBiasRelu:
      return CUBLASLT_EPILOGUE_RELU_BIAS;
    case GemmEpilogue::kGeluTanh:
      return CUBLASLT_EPILOGUE_GELU;
    case GemmEpilogue::kBiasGeluTanh:
      return CUBLASLT_EPILOGUE_GELU_BIAS;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

LtLayout layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride) {
  LtLayout l;
  TANDEM_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(l.put(), type, static_cast<uint64_t>(rows),
                                                 static_cast<uint64_t>(cols), stride));
  return l;
}

cublasComputeType_t compute_type(const GemmProblem& p) {
  if (p.x == DType::kI8) return CUBLAS_COMPUTE_32I;
  return p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

void set_scales(const LtOperation& op, const float* w_scales, const float* x_scales) {
  set_attribute(op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, w_scales);
  set_attribute(op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, x_scales);
}

LtMatmul describe(const GemmProblem& p) {
  check(p);
  if (p.two_of_four) throw UsageError(fmt::format("product {}: cuBLASLt has no 2:4", problem_text(p)));
  LtMatmul d;
  TANDEM_CUBLAS_CHECK(cublasLtMatmulDescCreate(d.operation.put(), compute_type(p),
                                               p.x == DType::kI8 ? CUDA_R_32I : CUDA_R_32F));
  set_attribute(d.operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set_attribute(d.operation, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  set_attribute(d.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, lt_epilogue(p.epilogue));
  if (has_bias(p.epilogue)) {
    set_attribute(d.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cuda_type(p.bias_type()));
    // Never read: run() sets the real one. Its alignment is what the heuristic may count on.
    const auto placeholder = reinterpret_cast<const void*>(static_cast<uintptr_t>(4096 + p.alignment));
    set_attribute(d.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, placeholder);
  }
  if (p.x == DType::kF8) {
    // The rows of y^T, the library's A, are those of w.
    const auto mode = static_cast<int32_t>(CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set_attribute(d.operation, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
    set_attribute(d.operation, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    set_attribute(d.operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                  static_cast<int8_t>(p.k <= kFastDepth ? 1 : 0));
    const auto placeholder = reinterpret_cast<const float*>(uintptr_t{4096});
    set_scales(d.operation, placeholder, placeholder);
  }
  d.w = layout(cuda_type(p.w), p.k, p.n, p.k);
  d.x = layout(cuda_type(p.x), p.k, p.m, p.x_stride());
  d.y = layout(cuda_type(p.out), p.n, p.m, p.y_stride());
  return d;
}

cublasLtHandle_t native(const CublasLt& lt) {
  return static_cast<cublasLtHandle_t>(lt.handle());
}

template <typename T>
T config(const cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  size_t written = 0;
  TANDEM_CUBLAS_CHECK(
      cublasLtMatmulAlgoConfigGetAttribute(&algo, attribute, &value, sizeof(value), &written));
  return value;
}

}  // namespace

cudaDataType_t cuda_type(DType t) {
  switch (t) {
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF8:
      return CUDA_R_8F_E4M3;
    case DType::kI8:
      return CUDA_R_8I;
    case DType::kI32:
      return CUDA_R_32I;
    default:
      throw UsageError(fmt::format("product: no operand of type {}", dtype_name(t)));
  }
}

CublasLt::CublasLt() {
  TANDEM_CUDA_CHECK(cudaGetDevice(&device_));
  cudaDeviceProp properties{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, device_));
  cublasLtHandle_t handle = nullptr;
  TANDEM_CUBLAS_CHECK(cublasLtCreate(&handle));
  handle_ = handle;
  compute_capability_ = 10 * properties.major + properties.minor;
  place_ = {properties.name, static_cast<int64_t>(cublasLtGetVersion())};
}

CublasLt::~CublasLt() {
  TANDEM_CUBLAS_WARN(cublasLtDestroy(native(*this)));
}

std::vector<GemmChoice> candidates(const CublasLt& lt, const GemmProblem& problem, int count,
                                   int64_t max_workspace_bytes) {
  const LtMatmul d = describe(problem);
  if (!library_lacks(problem.x, lt.compute_capability()).empty()) return {};
  LtPreference preference;
  TANDEM_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(preference.put()));
  set_attribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                static_cast<uint64_t>(max_workspace_bytes));
  // Partial sums of split-K in fp32 in the workspace, added in a fixed order. In place they would be rounded
  // to `out`.
  set_attribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (auto which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    set_attribute(preference, which, static_cast<uint32_t>(problem.alignment));
  }
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(count));
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(native(lt), d.operation.get(), d.w.get(), d.x.get(), d.y.get(),
                                     d.y.get(), preference.get(), count, results.data(), &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) found = 0;
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) TANDEM_CUBLAS_CHECK(status);

  std::vector<GemmChoice> choices;
  for (int i = 0; i < found; ++i) {
    const cublasLtMatmulHeuristicResult_t& r = results[static_cast<size_t>(i)];
    if (r.state != CUBLAS_STATUS_SUCCESS) continue;
    const auto reduction = config<uint32_t>(r.algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
    if (reduction != CUBLASLT_REDUCTION_SCHEME_NONE && reduction != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
      continue;
    // The heuristic can say less workspace than the launch needs (a counter of 4 bytes): the check says it right.
    cublasLtMatmulHeuristicResult_t checked{};
    if (cublasLtMatmulAlgoCheck(native(lt), d.operation.get(), d.w.get(), d.x.get(), d.y.get(), d.y.get(),
                                &r.algo, &checked) != CUBLAS_STATUS_SUCCESS) {
      continue;
    }
    const auto workspace = static_cast<int64_t>(std::max(r.workspaceSize, checked.workspaceSize));
    if (workspace > std::max<int64_t>(max_workspace_bytes, kWorkspaceAlignment)) continue;
    GemmChoice c;
    static_assert(sizeof(r.algo) == sizeof(c.algo));
    std::memcpy(c.algo.data(), &r.algo, c.algo.size());
    c.workspace_bytes = workspace;
    c.description = fmt::format("algo {} tile {} stages {} split-k {} swizzle {} custom {} reduction {}",
                                config<int32_t>(r.algo, CUBLASLT_ALGO_CONFIG_ID),
                                config<uint32_t>(r.algo, CUBLASLT_ALGO_CONFIG_TILE_ID),
                                config<uint32_t>(r.algo, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                                config<int32_t>(r.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
                                config<uint32_t>(r.algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING),
                                config<uint32_t>(r.algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION), reduction);
    choices.push_back(std::move(c));
  }
  return choices;
}

GemmChoice suggested(const CublasLt& lt, const GemmProblem& problem, int64_t max_workspace_bytes) {
  // More than one is asked for because the first may be of a reduction scheme that candidates() leaves out.
  const auto found = candidates(lt, problem, 8, max_workspace_bytes);
  if (found.empty()) throw UsageError(no_algorithm_text(lt, problem));
  return found.front();
}

bool has_algorithm(const CublasLt& lt, const GemmProblem& problem) {
  return !candidates(lt, problem, 8, kGemmWorkspaceBytes).empty();
}

std::string no_algorithm_text(const CublasLt& lt, const GemmProblem& problem) {
  const std::string lacks = library_lacks(problem.x, lt.compute_capability());
  return fmt::format("cuBLASLt has no algorithm for product {}{}{}", problem_text(problem),
                     lacks.empty() ? "" : ": ", lacks);
}

struct Gemm::Impl {
  cublasLtHandle_t handle = nullptr;
  GemmProblem problem;
  GemmChoice choice;
  LtMatmul matmul;
  cublasLtMatmulAlgo_t algo{};
};

Gemm::Gemm(const CublasLt& lt, const GemmProblem& problem, const GemmChoice& choice) : impl_(new Impl) {
  impl_->handle = native(lt);
  impl_->problem = problem;
  impl_->choice = choice;
  impl_->matmul = describe(problem);
  std::memcpy(&impl_->algo, choice.algo.data(), sizeof(impl_->algo));
  const LtMatmul& d = impl_->matmul;
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(native(lt), d.operation.get(), d.w.get(), d.x.get(),
                                                        d.y.get(), d.y.get(), &impl_->algo, &result);
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw UsageError(fmt::format("product {}: the library refuses the chosen algorithm ({}): {}",
                                 problem_text(problem), choice.description, cublasLtGetStatusString(status)));
  }
  if (static_cast<int64_t>(result.workspaceSize) > choice.workspace_bytes) {
    throw UsageError(
        fmt::format("product {}: the chosen algorithm needs {} bytes of workspace, the choice says {}",
                    problem_text(problem), result.workspaceSize, choice.workspace_bytes));
  }
}
Gemm::~Gemm() = default;
Gemm::Gemm(Gemm&&) noexcept = default;
Gemm& Gemm::operator=(Gemm&&) noexcept = default;

const GemmProblem& Gemm::problem() const {
  return impl_->problem;
}
const GemmChoice& Gemm::choice() const {
  return impl_->choice;
}

void check_args(const GemmProblem& p, const GemmArgs& args, int64_t workspace_bytes) {
  const auto need = [&](const void* pointer, const char* name, int alignment) {
    if (pointer == nullptr) throw UsageError(fmt::format("product {}: {} is null", problem_text(p), name));
    if (reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(alignment) != 0) {
      throw UsageError(
          fmt::format("product {}: {} must be {}-byte aligned", problem_text(p), name, alignment));
    }
  };
  need(args.x, "x", p.alignment);
  need(args.w, "w", p.alignment);
  need(args.y, "y", p.alignment);
  if (p.residual) need(args.residual, "residual", p.alignment);
  if (has_bias(p.epilogue)) need(args.bias, "bias", p.alignment);
  if (p.x == DType::kF8) {
    need(args.x_scales, "x_scales", kScalesAlignment);
    need(args.w_scales, "w_scales", kScalesAlignment);
  }
  if (p.x == DType::kI8 && args.alpha != 1) {
    throw UsageError(
        fmt::format("product {}: alpha is {}, allowed with 8-bit integers: 1", problem_text(p), args.alpha));
  }
  if (workspace_bytes > 0) {
    need(args.workspace, "workspace", kWorkspaceAlignment);
    if (args.workspace_bytes < workspace_bytes) {
      throw UsageError(fmt::format("product {}: workspace of {} bytes, the algorithm needs {}",
                                   problem_text(p), args.workspace_bytes, workspace_bytes));
    }
  }
}

void Gemm::run(const GemmArgs& args, cudaStream_t stream) {
  const GemmProblem& p = impl_->problem;
  const int64_t workspace_bytes = impl_->choice.workspace_bytes;
  check_args(p, args, workspace_bytes);
  if (has_bias(p.epilogue))
    set_attribute(impl_->matmul.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
  if (p.x == DType::kF8) set_scales(impl_->matmul.operation, args.w_scales, args.x_scales);
  const bool integer = p.x == DType::kI8;
  const float beta = p.residual ? 1.0f : 0.0f;
  const int32_t one_int = 1;
  const int32_t zero_int = 0;
  const void* by = integer ? static_cast<const void*>(&one_int) : &args.alpha;
  const void* plus = integer ? static_cast<const void*>(&zero_int) : &beta;
  const LtMatmul& d = impl_->matmul;
  TANDEM_CUBLAS_CHECK(cublasLtMatmul(impl_->handle, d.operation.get(), by, args.w, d.w.get(), args.x,
                                     d.x.get(), plus, p.residual ? args.residual : args.y, d.y.get(), args.y,
                                     d.y.get(), &impl_->algo, workspace_bytes > 0 ? args.workspace : nullptr,
                                     static_cast<size_t>(workspace_bytes), stream));
}

}  // namespace tandem::kernels
