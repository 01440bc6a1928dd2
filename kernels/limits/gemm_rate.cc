#include <cublasLt.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/random.h"
#include "kernels/common/device_buffer.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/lt.h"
#include "kernels/gemm/operands.h"
#include "kernels/gemm/structured/structured_gemm.h"
#include "kernels/limits/limit_stream.h"
#include "kernels/limits/limits.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kWorkspaceBytes = 64ll << 20;
constexpr int kCandidates = 16;
constexpr int kTimed =
    3;  // products of one timing of a candidate, fewer where they take longer than kTimedUs
constexpr double kTimedUs = 10e3;
// Products of one burst sample, fewer where they take longer than kBurstUs: a long one is at the power limit before its end.
constexpr int kBurst = 20;
constexpr double kBurstUs = 30e3;
constexpr int kSampledOutputs = 64;
constexpr auto kRest = std::chrono::milliseconds(500);
constexpr double kSettleUs = 500e3;  // without pause before the first sustained sample, at least
constexpr double kSettleMostUs = 3e6;
constexpr size_t kSteady = 3;  // samples in a row that agree
constexpr double kAgreement = 0.005;
constexpr double kSampleUs = 50e3;  // of one sustained sample

/// The library's types for y = x w^T, and how far a sampled output may be from the exact one: `tolerance`
/// times the root of the sum of squared products, which is what rounding errors grow with.
struct Types {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  DType operand;
  DType out;
  double tolerance;
};

Types types_of(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, DType::kF32, DType::kF32, 1e-4};
    case Precision::kTf32:
      return {CUBLAS_COMPUTE_32F_FAST_TF32, CUDA_R_32F, DType::kF32, DType::kF32, 1e-2};
    case Precision::kFp16:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, DType::kF16, DType::kF16, 1e-2};
    case Precision::kBf16:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, DType::kBF16, DType::kBF16, 3e-2};
    case Precision::kFp8:
      return {CUBLAS_COMPUTE_32F, CUDA_R_32F, DType::kF8, DType::kBF16, 1e-1};
    case Precision::kInt8:
      return {CUBLAS_COMPUTE_32I, CUDA_R_32I, DType::kI8, DType::kI32, 0};
    default:
      throw UsageError("matrix rate: precision must be fp32, tf32, fp16, bf16, fp8 or int8");
  }
}

template <typename T>
T load(const char* raw) {
  T v;
  std::memcpy(&v, raw, sizeof(v));
  return v;
}

/// Of an element in host memory; of a tf32 operand the value as stored: the product rounds it.
double value_of(DType type, const char* raw) {
  switch (type) {
    case DType::kF16:
      return fp16_to_float(load<uint16_t>(raw));
    case DType::kBF16:
      return bf16_to_float(load<uint16_t>(raw));
    case DType::kF8:
      return f8_to_float(load<uint8_t>(raw));
    case DType::kI8:
      return load<int8_t>(raw);
    case DType::kI32:
      return load<int32_t>(raw);
    default:
      return load<float>(raw);
  }
}

/// As many repetitions of `one_us` as fit into `us`, at least one and at most `most`.
int at_most(int most, double us, double one_us) {
  return static_cast<int>(std::clamp(us / one_us, 1.0, static_cast<double>(most)));
}

/// Where operands of a product lie.
struct Places {
  const void* x;
  const void* w;
  void* y;
  void* workspace;  ///< kWorkspaceBytes
  cudaStream_t stream;
};

/// Enqueues one product with one algorithm; false where the library refuses.
using Enqueue = std::function<bool()>;

/// Products of cuBLASLt's candidates.
class DenseProducts {
 public:
  DenseProducts(const GemmRateParams& p, const Types& types) : types_(types) {
    TANDEM_CUBLAS_CHECK(cublasLtMatmulDescCreate(matmul_.operation.put(), types.compute, types.scale));
    set_attribute(matmul_.operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set_attribute(matmul_.operation, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    if (p.precision == Precision::kFp8) {
      // The tensor cores' own accumulation, which the card's peak is quoted for: about 14 bits.
      set_attribute(matmul_.operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    }
    const auto layout = [](LtLayout& l, DType type, int64_t rows, int64_t cols) {
      TANDEM_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(l.put(), cuda_type(type), static_cast<uint64_t>(rows),
                                                     static_cast<uint64_t>(cols), rows));
    };
    layout(matmul_.w, types.operand, p.k, p.n);
    layout(matmul_.x, types.operand, p.k, p.m);
    layout(matmul_.y, types.out, p.n, p.m);
  }

  std::vector<Enqueue> candidates(const Places& at) {
    LtPreference preference;
    TANDEM_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(preference.put()));
    set_attribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                  static_cast<uint64_t>(kWorkspaceBytes));
    std::vector<cublasLtMatmulHeuristicResult_t> results(kCandidates);
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle(), matmul_.operation.get(), matmul_.w.get(), matmul_.x.get(), matmul_.y.get(), matmul_.y.get(),
        preference.get(), kCandidates, results.data(), &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) TANDEM_CUBLAS_CHECK(status);
    std::vector<Enqueue> all;
    for (size_t i = 0; i < static_cast<size_t>(found); ++i) {
      if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
      all.emplace_back(
          [this, at, algo = results[i].algo] { return enqueue(at, algo) == CUBLAS_STATUS_SUCCESS; });
    }
    return all;
  }

 private:
  cublasLtHandle_t handle() const { return static_cast<cublasLtHandle_t>(lt_.handle()); }

  cublasStatus_t enqueue(const Places& at, const cublasLtMatmulAlgo_t& algo) const {
    const float one = 1;
    const float zero = 0;
    const int32_t one_int = 1;
    const int32_t zero_int = 0;
    const bool integer = types_.scale == CUDA_R_32I;
    const void* alpha = integer ? static_cast<const void*>(&one_int) : &one;
    const void* beta = integer ? static_cast<const void*>(&zero_int) : &zero;
    return cublasLtMatmul(handle(), matmul_.operation.get(), alpha, at.w, matmul_.w.get(), at.x,
                          matmul_.x.get(), beta, at.y, matmul_.y.get(), at.y, matmul_.y.get(), &algo,
                          at.workspace, static_cast<size_t>(kWorkspaceBytes), at.stream);
  }

  Types types_;
  CublasLt lt_;
  LtMatmul matmul_;
};

/// Products of cuSPARSELt's algorithms.
class StructuredProducts {
 public:
  StructuredProducts(const GemmRateParams& p, const Types& types)
      : problem_{.m = p.m,
                 .n = p.n,
                 .k = p.k,
                 .x = types.operand,
                 .w = types.operand,
                 .out = types.out,
                 .two_of_four = true} {}

  /// at.w is the dense matrix, of whose values two of four are 0.
  std::vector<Enqueue> candidates(const Places& at) {
    std::vector<Enqueue> all;
    for (const GemmChoice& choice : structured_candidates(lt_, problem_)) {
      if (choice.workspace_bytes > kWorkspaceBytes) continue;
      auto gemm = std::make_shared<StructuredGemm>(lt_, problem_, choice, nullptr);
      if (compressed_.bytes() == 0) {
        compressed_ = DeviceBuffer(gemm->compressed_bytes());
        const DeviceBuffer scratch(gemm->compress_scratch_bytes());
        gemm->compress(at.w, compressed_.data(), scratch.data(), at.stream);
        TANDEM_CUDA_CHECK(cudaStreamSynchronize(at.stream));
      }
      all.emplace_back([gemm, at, w = compressed_.data()] {
        try {
          gemm->run(
              {.x = at.x, .w = w, .y = at.y, .workspace = at.workspace, .workspace_bytes = kWorkspaceBytes},
              at.stream);
          return true;
        } catch (const CudaError&) {
          return false;
        }
      });
    }
    return all;
  }

 private:
  GemmProblem problem_;
  StructuredLt lt_;
  DeviceBuffer compressed_;
};

}  // namespace

/// One product with its operands and the algorithm in use.
class GemmRate::Product {
 public:
  explicit Product(const GemmRateParams& p) : p_(p), types_(types_of(p.precision)) {
    x_ = DeviceBuffer(tensor_bytes(types_.operand, p.m * p.k));
    w_ = DeviceBuffer(tensor_bytes(types_.operand, p.n * p.k));
    y_ = DeviceBuffer(tensor_bytes(types_.out, p.m * p.n));
    workspace_ = DeviceBuffer(kWorkspaceBytes);
    const auto operand = [&](const DeviceBuffer& buffer, int64_t count, uint64_t key) -> RandomFillParams {
      return {.out = buffer.data(),
              .dtype = types_.operand,
              .count = count,
              .key = key,
              .scale = types_.operand == DType::kI8 ? 127.0f : 1.0f};
    };
    launch_random_fill(operand(x_, p.m * p.k, 1), stream_.get());
    (p.two_of_four ? launch_random_two_of_four : launch_random_fill)(operand(w_, p.n * p.k, 2),
                                                                     stream_.get());
    stream_.wait();
    const Places at{x_.data(), w_.data(), y_.data(), workspace_.data(), stream_.get()};
    candidates_ = p.two_of_four ? structured_.emplace(p, types_).candidates(at)
                                : dense_.emplace(p, types_).candidates(at);
  }

  const LimitStream& stream() const { return stream_; }

  /// Tries the library's candidates and keeps the fastest; returns the time of one product.
  double choose_us() {
    double best_us = 0;
    const Enqueue* best = nullptr;
    for (const Enqueue& candidate : candidates_) {
      enqueue_ = &candidate;
      if (!candidate()) continue;
      stream_.wait();
      const double first_us = time_us(1);
      const int count = at_most(kTimed, kTimedUs, first_us);
      const double us = std::min(first_us, time_us(count) / count);
      if (best_us == 0 || us < best_us) {
        best_us = us;
        best = &candidate;
      }
    }
    if (best == nullptr) {
      throw UsageError(fmt::format("matrix rate: {} has no {} kernel for m {}, n {}, k {} on this card",
                                   p_.two_of_four ? "cuSPARSELt" : "cuBLASLt", precision_name(p_.precision),
                                   p_.m, p_.n, p_.k));
    }
    enqueue_ = best;
    return best_us;
  }

  /// `count` products back to back between two events; us of all of them.
  double time_us(int count) {
    TANDEM_CUDA_CHECK(cudaEventRecord(events_.begin, stream_.get()));
    for (int i = 0; i < count; ++i) {
      if (!(*enqueue_)()) throw Error("matrix rate: a product that ran is refused");
    }
    TANDEM_CUDA_CHECK(cudaEventRecord(events_.end, stream_.get()));
    TANDEM_CUDA_CHECK(cudaEventSynchronize(events_.end));
    float ms = 0;
    TANDEM_CUDA_CHECK(cudaEventElapsedTime(&ms, events_.begin, events_.end));
    return ms * 1e3;
  }

  /// Blocks of products without pause until the rate is steady.
  void settle(int block) {
    std::vector<double> us;
    for (double spent = 0; spent < kSettleMostUs; spent += us.back()) {
      if (spent >= kSettleUs && last_agree(us, kSteady, kAgreement)) return;
      us.push_back(time_us(block));
    }
  }

  /// Fills y with a pattern that no product gives before the samples that check_output looks at.
  void poison() {
    TANDEM_CUDA_CHECK(cudaMemsetAsync(y_.data(), 0x7f, static_cast<size_t>(y_.bytes()), stream_.get()));
  }

  /// Compares sampled outputs with products computed here in double; empty when all are right.
  std::string check_output() const {
    stream_.wait();
    const int64_t size = dtype_bytes(types_.operand);
    std::vector<char> x(static_cast<size_t>(tensor_bytes(types_.operand, p_.k)));
    std::vector<char> w(x.size());
    for (int s = 0; s < kSampledOutputs; ++s) {
      // The corners first, then anywhere.
      const auto pick = [&](uint64_t key, int64_t size) {
        return s < 2 ? s * (size - 1)
                     : static_cast<int64_t>(
                           uniform_below(key, static_cast<uint64_t>(s), static_cast<uint32_t>(size)));
      };
      const int64_t i = pick(3, p_.m);
      const int64_t j = pick(4, p_.n);
      copy_row(x_, i, x);
      copy_row(w_, j, w);
      double exact = 0;
      double squares = 0;
      for (int64_t k = 0; k < p_.k; ++k) {
        const double term = value_of(types_.operand, &x[static_cast<size_t>(k * size)]) *
                            value_of(types_.operand, &w[static_cast<size_t>(k * size)]);
        exact += term;
        squares += term * term;
      }
      char raw[4] = {};
      TANDEM_CUDA_CHECK(cudaMemcpy(raw, y_.data<char>() + tensor_bytes(types_.out, i * p_.n + j),
                                   static_cast<size_t>(dtype_bytes(types_.out)), cudaMemcpyDeviceToHost));
      const double got = value_of(types_.out, raw);
      // Written so that a NaN fails.
      if (!(std::abs(got - exact) <= types_.tolerance * std::sqrt(squares))) {
        return fmt::format("output [{}, {}] is {}, not {}", i, j, got, exact);
      }
    }
    return {};
  }

 private:
  struct Events {
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    Events() {
      TANDEM_CUDA_CHECK(cudaEventCreate(&begin));
      TANDEM_CUDA_CHECK(cudaEventCreate(&end));
    }
    ~Events() {
      TANDEM_CUDA_WARN(cudaEventDestroy(begin));
      TANDEM_CUDA_WARN(cudaEventDestroy(end));
    }
    Events(const Events&) = delete;
    Events& operator=(const Events&) = delete;
  };

  void copy_row(const DeviceBuffer& matrix, int64_t row, std::vector<char>& out) const {
    TANDEM_CUDA_CHECK(cudaMemcpy(out.data(), matrix.data<char>() + tensor_bytes(types_.operand, row * p_.k),
                                 out.size(), cudaMemcpyDeviceToHost));
  }

  GemmRateParams p_;
  Types types_;
  LimitStream stream_;
  DeviceBuffer x_, w_, y_, workspace_;
  Events events_;
  std::optional<DenseProducts> dense_;
  std::optional<StructuredProducts> structured_;
  std::vector<Enqueue> candidates_;
  const Enqueue* enqueue_ = nullptr;  // the one in use
};

GemmRate::GemmRate(const GemmRateParams& p) : params_(p) {
  if (p.m < 1 || p.n < 1 || p.k < 1) throw UsageError("matrix rate: m, n and k must be at least 1");
  if (p.two_of_four && p.precision != Precision::kFp16 && p.precision != Precision::kBf16)
    throw UsageError("matrix rate: 2:4 goes with precision fp16 or bf16");
  product_ = std::make_unique<Product>(p);
  one_us_ = product_->choose_us();
}

GemmRate::~GemmRate() = default;

Limit GemmRate::measure(int samples) {
  if (samples < 1) throw UsageError("matrix rate: samples must be at least 1");
  const double flops =
      2.0 * static_cast<double>(params_.m) * static_cast<double>(params_.n) * static_cast<double>(params_.k);
  product_->poison();
  const bool burst = params_.regime == Regime::kBurst;
  const int block =
      burst ? at_most(kBurst, kBurstUs, one_us_) : std::max(1, static_cast<int>(kSampleUs / one_us_));
  if (!burst) product_->settle(block);
  std::vector<double> tflops;
  for (int i = 0; i < samples; ++i) {
    if (burst) {
      product_->stream().wait();
      std::this_thread::sleep_for(kRest);
    }
    tflops.push_back(flops * block / product_->time_us(block) * 1e-6);
  }
  const std::string wrong = product_->check_output();
  if (!wrong.empty()) return wrong_limit(wrong);
  return good_limit(std::move(tflops));
}

}  // namespace tandem::kernels
