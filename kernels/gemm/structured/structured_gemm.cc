#include "kernels/gemm/structured/structured_gemm.h"

#include <fmt/format.h>

#include <cstring>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "kernels/gemm/candidates.h"
#include "kernels/gemm/lt.h"
#include "kernels/gemm/structured/cusparselt.h"

namespace tandem::kernels {

namespace cs = cusparselt;

struct StructuredLt::Native {
  const cs::Functions* f = nullptr;
  cs::Handle handle;
};

namespace {

constexpr int kAlignment = 16;
/// The version that cusparselt.h is declared after: 801 is 0.8.1.
constexpr int kFirstVersion = 800;
constexpr int kLastVersion = 899;

void check_status(const cs::Functions& f, cs::Status status, const char* call) {
  if (status == cs::kSuccess) return;
  throw CudaError(fmt::format("cusparseLt{}: {}", call, f.GetErrorString(status)), status);
}
#define TANDEM_SPARSE_CHECK(f, name, ...) check_status(f, (f).name(__VA_ARGS__), #name)

/// A structure of the library's and how it ends.
template <typename T>
class Owned {
 public:
  explicit Owned(cs::Status (*destroy)(const T*)) : destroy_(destroy) {}
  ~Owned() {
    if (live_ && destroy_(&value_) != cs::kSuccess)
      std::fprintf(stderr, "tandem: cuSPARSELt: a descriptor could not be destroyed\n");
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  const T* get() const { return &value_; }
  T* put() { return &value_; }
  /// It has been initialised.
  void keep() { live_ = true; }

 private:
  cs::Status (*destroy_)(const T*);
  bool live_ = false;
  T value_{};
};

/// y^T [n, m] = w [n, k] x^T: w row-major and x transposed, y^T column-major is y row-major; a bias over the rows of y^T is
/// the bias over n.
struct Description {
  const StructuredLt::Native& lt;
  Owned<cs::Matrix> w{lt.f->MatDescriptorDestroy}, x{lt.f->MatDescriptorDestroy},
      y{lt.f->MatDescriptorDestroy};
  cs::Matmul matmul;
  Owned<cs::Algorithm> algorithm{lt.f->MatmulAlgSelectionDestroy};

  Description(const StructuredLt::Native& native, const GemmProblem& p, const void* bias) : lt(native) {
    check(p);
    if (!p.two_of_four)
      throw UsageError(fmt::format("product {}: structured products are 2:4", problem_text(p)));
    const cs::Functions& f = *lt.f;
    const cudaDataType type = cuda_type(p.x);
    TANDEM_SPARSE_CHECK(f, StructuredDescriptorInit, &lt.handle, w.put(), p.n, p.k, p.k, kAlignment, type,
                        cs::kRowMajor, cs::k50Percent);
    w.keep();
    TANDEM_SPARSE_CHECK(f, DenseDescriptorInit, &lt.handle, x.put(), p.m, p.k, p.x_stride(), kAlignment, type,
                        cs::kRowMajor);
    x.keep();
    TANDEM_SPARSE_CHECK(f, DenseDescriptorInit, &lt.handle, y.put(), p.n, p.m, p.y_stride(), kAlignment, type,
                        cs::kColumnMajor);
    y.keep();
    TANDEM_SPARSE_CHECK(f, MatmulDescriptorInit, &lt.handle, &matmul, cs::kNonTranspose, cs::kTranspose,
                        w.get(), x.get(), y.get(), y.get(), cs::kCompute32F);
    if (p.epilogue == GemmEpilogue::kRelu || p.epilogue == GemmEpilogue::kBiasRelu) {
      const int on = 1;
      TANDEM_SPARSE_CHECK(f, MatmulDescSetAttribute, &lt.handle, &matmul, cs::kActivationRelu, &on,
                          sizeof(on));
    }
    if (has_bias(p.epilogue)) {
      TANDEM_SPARSE_CHECK(f, MatmulDescSetAttribute, &lt.handle, &matmul, cs::kBiasPointer, &bias,
                          sizeof(bias));
    }
    TANDEM_SPARSE_CHECK(f, MatmulAlgSelectionInit, &lt.handle, algorithm.put(), &matmul, cs::kDefault);
    algorithm.keep();
  }
};

int algorithm_id(const GemmChoice& choice) {
  int id = 0;
  std::memcpy(&id, choice.algo.data(), sizeof(id));
  return id;
}

}  // namespace

StructuredLt::StructuredLt() : native_(new Native) {
  const cs::Library& found = cs::library();
  if (found.functions == nullptr) throw DeviceError(found.lacks);
  const cs::Functions& f = *found.functions;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device_));
  cudaDeviceProp properties{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, device_));
  if (const cs::Status status = f.Init(&native_->handle); status != cs::kSuccess)
    throw DeviceError(
        fmt::format("cuSPARSELt: {} refuses {}: {}", found.path, properties.name, f.GetErrorString(status)));
  native_->f = &f;  // from here on the handle is destroyed
  int version = 0;
  const cs::Status status = f.GetVersion(&native_->handle, &version);
  if (status != cs::kSuccess || version < kFirstVersion || version > kLastVersion) {
    f.Destroy(&native_->handle);
    throw DeviceError(fmt::format("cuSPARSELt: {} is version {}, known is 0.8", found.path, version));
  }
  place_ = {properties.name, version};
}

StructuredLt::~StructuredLt() {
  if (native_->f->Destroy(&native_->handle) != cs::kSuccess)
    std::fprintf(stderr, "tandem: cuSPARSELt: the handle could not be destroyed\n");
}

std::string structured_lacks() {
  try {
    StructuredLt();
    return {};
  } catch (const DeviceError& e) {
    return e.what();
  }
}

std::string structured_library() {
  return cs::library().path;
}

struct StructuredGemm::Impl {
  Impl(const StructuredLt& lt, const GemmProblem& p, const GemmChoice& c, const void* b)
      : problem(p),
        choice(c),
        bias(has_bias(p.epilogue) ? b : nullptr),
        described(lt.native(), p, bias),
        plan(lt.native().f->MatmulPlanDestroy) {}
  const cs::Functions& f() const { return *described.lt.f; }
  const cs::Handle* handle() const { return &described.lt.handle; }

  GemmProblem problem;
  GemmChoice choice;
  const void* bias;
  Description described;  // the plan refers to it
  Owned<cs::Plan> plan;
  size_t compressed_bytes = 0;
  size_t scratch_bytes = 0;
};

StructuredGemm::StructuredGemm(const StructuredLt& lt, const GemmProblem& problem, const GemmChoice& choice,
                               const void* bias)
    : impl_(new Impl(lt, problem, choice, bias)) {
  Impl& i = *impl_;
  const int id = algorithm_id(choice);
  size_t workspace = 0;
  const auto refused = [&](cs::Status status) {
    if (status == cs::kSuccess) return;
    throw UsageError(fmt::format("product {}: the library refuses the chosen algorithm ({}): {}",
                                 problem_text(problem), choice.description, i.f().GetErrorString(status)));
  };
  refused(
      i.f().MatmulAlgSetAttribute(i.handle(), i.described.algorithm.put(), cs::kConfigId, &id, sizeof(id)));
  refused(i.f().MatmulPlanInit(i.handle(), i.plan.put(), &i.described.matmul, i.described.algorithm.get()));
  i.plan.keep();
  refused(i.f().MatmulGetWorkspace(i.handle(), i.plan.get(), &workspace));
  refused(i.f().SpMMACompressedSize(i.handle(), i.plan.get(), &i.compressed_bytes, &i.scratch_bytes));
  if (static_cast<int64_t>(workspace) > choice.workspace_bytes) {
    throw UsageError(
        fmt::format("product {}: the chosen algorithm needs {} bytes of workspace, the choice says {}",
                    problem_text(problem), workspace, choice.workspace_bytes));
  }
}
StructuredGemm::~StructuredGemm() = default;
StructuredGemm::StructuredGemm(StructuredGemm&&) noexcept = default;
StructuredGemm& StructuredGemm::operator=(StructuredGemm&&) noexcept = default;

const GemmProblem& StructuredGemm::problem() const {
  return impl_->problem;
}
const GemmChoice& StructuredGemm::choice() const {
  return impl_->choice;
}
int64_t StructuredGemm::compressed_bytes() const {
  return static_cast<int64_t>(impl_->compressed_bytes);
}
int64_t StructuredGemm::compress_scratch_bytes() const {
  return static_cast<int64_t>(impl_->scratch_bytes);
}

void StructuredGemm::compress(const void* dense, void* compressed, void* scratch, cudaStream_t stream) const {
  TANDEM_SPARSE_CHECK(impl_->f(), SpMMACompress, impl_->handle(), impl_->plan.get(), dense, compressed,
                      scratch, stream);
}

void StructuredGemm::run(const GemmArgs& args, cudaStream_t stream) const {
  const GemmProblem& p = impl_->problem;
  check_args(p, args, impl_->choice.workspace_bytes);
  if (has_bias(p.epilogue) && args.bias != impl_->bias)
    throw UsageError(fmt::format("product {}: bias is not the one it was made with", problem_text(p)));
  const float beta = p.residual ? 1.0f : 0.0f;
  TANDEM_SPARSE_CHECK(impl_->f(), Matmul, impl_->handle(), impl_->plan.get(), &args.alpha, args.w, args.x,
                      &beta, p.residual ? args.residual : args.y, args.y,
                      impl_->choice.workspace_bytes > 0 ? args.workspace : nullptr, &stream, 1);
}

std::vector<GemmChoice> structured_candidates(const StructuredLt& lt, const GemmProblem& problem) {
  const cs::Functions& f = *lt.native().f;
  const cs::Handle* handle = &lt.native().handle;
  // Never read: no product is launched with it.
  const auto placeholder = reinterpret_cast<const void*>(uintptr_t{4096});
  int count = 0;
  {
    const Description d(lt.native(), problem, placeholder);
    TANDEM_SPARSE_CHECK(f, MatmulAlgGetAttribute, handle, d.algorithm.get(), cs::kConfigMaxId, &count,
                        sizeof(count));
  }
  std::vector<GemmChoice> choices;
  for (int id = 0; id < count; ++id) {
    Description d(lt.native(), problem, placeholder);
    if (f.MatmulAlgSetAttribute(handle, d.algorithm.put(), cs::kConfigId, &id, sizeof(id)) != cs::kSuccess)
      continue;
    Owned<cs::Plan> plan(f.MatmulPlanDestroy);
    if (f.MatmulPlanInit(handle, plan.put(), &d.matmul, d.algorithm.get()) != cs::kSuccess) continue;
    plan.keep();
    size_t workspace = 0;
    if (f.MatmulGetWorkspace(handle, plan.get(), &workspace) != cs::kSuccess) continue;
    GemmChoice c;
    std::memcpy(c.algo.data(), &id, sizeof(id));
    c.workspace_bytes = static_cast<int64_t>(workspace);
    c.description = fmt::format("cuSPARSELt algorithm {} of {}", id, count);
    choices.push_back(std::move(c));
  }
  return choices;
}

GemmChoice choose(const StructuredLt& lt, GemmChoices& choices, const GemmProblem& problem,
                  cudaStream_t stream) {
  return known_or_searched(lt, choices, problem, stream);
}

}  // namespace tandem::kernels
