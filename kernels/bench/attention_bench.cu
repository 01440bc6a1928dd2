// Times the attention kernels over the shapes of README's models, after checking samples of each result in double
// precision. Not a test: run it by hand on a card. Usage: attention_bench [substring of a line to run]
//
// Decode: a graph of one launch a layer, each layer with its own keys and values, L2 flushed before every replay; us is a
// launch. Encoder: ten launches on the same input. TANDEM_ARCH=sm80 times the plain paths.
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "harness/base/half.h"
#include "harness/base/random.h"
#include "harness/base/stats.h"
#include "kernels/attention/decode_attention.h"
#include "kernels/attention/encoder_attention.h"
#include "kernels/attention/relative_bias.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/timed_graph.h"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

constexpr int kReplays = 15;
constexpr int64_t kFlushBytes = int64_t{256} << 20;
constexpr int kMaxDistance = 128;
constexpr double kTolerance = 1.5e-2;  // relative L2 over the samples, bf16

__global__ void fill_kernel(__nv_bfloat16* to, int64_t count, uint64_t key, float deviation) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    to[i] = __float2bfloat16_rn(static_cast<float>(centred_sum(key, i) / kCentredSumStd) * deviation);
  }
}

DeviceBuffer random_bf16(int64_t count, uint64_t key) {
  DeviceBuffer buffer(2 * count);
  fill_kernel<<<2048, 256>>>(buffer.data<__nv_bfloat16>(), count, key, 1.0f);
  TANDEM_LAUNCH_CHECK("fill_kernel");
  return buffer;
}

/// `rows` rows of `columns` bf16, `stride` elements apart, starting at element `at`.
std::vector<float> fetch(const DeviceBuffer& from, int64_t at, int rows, int columns, int64_t stride) {
  std::vector<uint16_t> raw(static_cast<size_t>(rows) * columns);
  TANDEM_CUDA_CHECK(cudaMemcpy2D(raw.data(), 2 * columns, from.data<uint16_t>() + at, 2 * stride, 2 * columns,
                                 rows, cudaMemcpyDeviceToHost));
  std::vector<float> v(raw.size());
  std::transform(raw.begin(), raw.end(), v.begin(), bf16_to_float);
  return v;
}

/// Keys and values as a kernel reads them, and as bf16 for the check.
struct KvBuffer {
  DeviceBuffer values;  ///< bf16; of codes those times their scales
  DeviceBuffer codes;   ///< none: the kernel reads `values`
  /// [layers, heads, tokens] where a layer is [tokens, heads, dim]; [layers, 1, rows] where it is [rows, dim]
  DeviceBuffer scales;

  const char* data() const { return (codes.bytes() != 0 ? codes : values).data<char>(); }
  const float* layer_scales(int64_t first) const {
    return scales.bytes() != 0 ? scales.data<float>() + first : nullptr;
  }
};

/// Random bf16, quantised where `kv` says so. A layer is [tokens, heads, dim].
KvBuffer random_kv(std::optional<DType> kv, int layers, int64_t tokens, int heads, int dim, uint64_t key) {
  KvBuffer b;
  const int64_t layer = tokens * heads * dim;
  b.values = random_bf16(layers * layer, key);
  if (!kv) return b;
  b.codes = DeviceBuffer(layers * layer);
  b.scales = DeviceBuffer(tensor_bytes(DType::kF32, layers * tokens * heads));
  const DeviceBuffer in_order(b.scales.bytes());
  for (int l = 0; l < layers; ++l) {
    QuantiseRowsParams p{.code_dtype = *kv,
                         .rows = tokens,
                         .cols = static_cast<int64_t>(heads) * dim,
                         .group = dim,
                         .x = b.values.data<uint16_t>() + l * layer,
                         .codes = b.codes.data<char>() + l * layer,
                         .scales = in_order.data<float>() + l * tokens * heads};
    launch_quantise_rows(p, nullptr);
    p.scales = b.scales.data<float>() + l * tokens * heads;
    p.scale_stride = 1;
    p.scale_group_stride = tokens;
    launch_quantise_rows(p, nullptr);
  }
  launch_dequantise({.code_dtype = *kv,
                     .rows = layers * tokens * heads,
                     .cols = dim,
                     .codes = b.codes.data(),
                     .scales = in_order.data(),
                     .y = b.values.data()},
                    nullptr);
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  return b;
}

double kv_bytes(std::optional<DType> kv, int64_t elements, int dim) {
  return kv ? static_cast<double>(elements) * (1 + 4.0 / dim) : 2.0 * static_cast<double>(elements);
}
std::string kv_name(std::optional<DType> kv) {
  return kv ? " kv " + std::string(dtype_name(*kv)) : "";
}

struct Sample {
  std::vector<float> q, k, v, out;  ///< [dim], [keys, dim], [keys, dim], [dim]
  std::vector<float> bias;          ///< [keys] or empty
};

/// Accumulated relative L2 error of samples.
class Check {
 public:
  void add(const Sample& s, double scale) {
    const size_t dim = s.q.size();
    const size_t keys = s.k.size() / dim;
    std::vector<double> p(keys);
    for (size_t j = 0; j < keys; ++j) {
      double dot = 0;
      for (size_t i = 0; i < dim; ++i) dot += static_cast<double>(s.q[i]) * s.k[j * dim + i];
      p[j] = dot * scale + (s.bias.empty() ? 0.0 : s.bias[j]);
    }
    const double top = *std::max_element(p.begin(), p.end());
    double total = 0;
    for (double& x : p) total += x = std::exp(x - top);
    for (size_t i = 0; i < dim; ++i) {
      double want = 0;
      for (size_t j = 0; j < keys; ++j) want += p[j] / total * s.v[j * dim + i];
      difference_ += (s.out[i] - want) * (s.out[i] - want);
      norm_ += want * want;
    }
  }
  double error() const { return std::sqrt(difference_ / norm_); }

 private:
  double difference_ = 0;
  double norm_ = 0;
};

class Bench {
 public:
  explicit Bench(std::string filter) : filter_(std::move(filter)), flush_(kFlushBytes) {
    TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    const std::vector<float> table =
        fetch(random_bf16(32 * 64, stream_key(1, "table")), 0, 1, 32 * 64, 32 * 64);
    table_ = DeviceBuffer::of(table);
    std::printf("%-72s %10s %10s %-8s %9s\n", "kernel and shape", "us", "rate", "", "error");
  }
  ~Bench() { TANDEM_CUDA_WARN(cudaStreamDestroy(stream_)); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  /// `work` launches `launches` kernels that together do `amount` (bytes or operations).
  void report(const std::string& name, int launches, double amount, const char* unit, bool flush,
              const Check& check, const std::function<void(cudaStream_t)>& work) {
    TimedGraph graph(stream_, work);
    std::vector<double> us;
    for (int i = 0; i < kReplays + 2; ++i) {
      if (flush) TANDEM_CUDA_CHECK(cudaMemsetAsync(flush_.data(), i, kFlushBytes, stream_));
      const double t = graph.time_us() / launches;
      if (i >= 2) us.push_back(t);
    }
    const double t = median(us);
    const double error = check.error();
    const double rate = amount / launches / t * (std::strcmp(unit, "GB/s") == 0 ? 1e-3 : 1e-6);
    std::printf("%-72s %10.2f %10.1f %-8s %9.2e%s\n", name.c_str(), t, rate, unit, error,
                error <= kTolerance ? "" : "  WRONG");
    wrong_ = wrong_ || !(error <= kTolerance);
  }

  DeviceBuffer distance_bias(int heads, bool bidirectional) {
    DeviceBuffer out(tensor_bytes(DType::kF32, int64_t{heads} * (2 * kMaxDistance + 1)));
    launch_distance_bias({.table = table_.data(),
                          .heads = heads,
                          .table_stride = 64,
                          .max_distance = kMaxDistance,
                          .bidirectional = bidirectional,
                          .distance_bias = out.data<float>()},
                         nullptr);
    return out;
  }
  bool wrong() const { return wrong_; }

 private:
  std::string filter_;
  DeviceBuffer flush_;
  DeviceBuffer table_;
  cudaStream_t stream_ = nullptr;
  bool wrong_ = false;
};

enum class Overlap { kNone, kDependent, kReady };
const char* overlap_name(Overlap o) {
  return o == Overlap::kNone ? "plain" : o == Overlap::kDependent ? "pdl" : "pdl+ready";
}

/// Layers so that the keys and values exceed L2 several times, within reason.
int layer_count(double layer_bytes) {
  return std::clamp(static_cast<int>(std::ceil(5e8 / layer_bytes)), 4, 48);
}

void bench_self(Bench& bench, int batch, int heads, int dim, int length, int workers, bool bias,
                Overlap overlap, std::optional<DType> kv = {}) {
  const std::string name = "self b" + std::to_string(batch) + " h" + std::to_string(heads) + " d" +
                           std::to_string(dim) + " len" + std::to_string(length) + (bias ? " bias" : "") +
                           " workers" + std::to_string(workers) + " " + overlap_name(overlap) + kv_name(kv);
  if (!bench.wanted(name)) return;
  const int inner = heads * dim;
  const int64_t cache = static_cast<int64_t>(batch) * inner * length;
  const int64_t element_bytes = kv ? 1 : 2;
  const double bytes = kv_bytes(kv, 2 * cache, dim);
  const int layers = layer_count(bytes);
  const DeviceBuffer qkv = random_bf16(static_cast<int64_t>(batch) * 3 * inner, stream_key(2, "qkv"));
  const KvBuffer k = random_kv(kv, layers, cache / dim, 1, dim, stream_key(2, "k"));
  const KvBuffer v = random_kv(kv, layers, cache / dim, 1, dim, stream_key(2, "v"));
  const DeviceBuffer out(static_cast<int64_t>(layers) * batch * inner * 2);
  const DeviceBuffer position = DeviceBuffer::of(std::vector<int32_t>{length - 1});
  const DeviceBuffer distance = bias ? bench.distance_bias(heads, false) : DeviceBuffer();
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto work = [&](cudaStream_t stream) {
    for (int layer = 0; layer < layers; ++layer) {
      const int64_t scales = layer * cache / dim;
      launch_decode_self_attention({.kv_dtype = kv,
                                    .q = qkv.data(),
                                    .k = qkv.data<uint16_t>() + inner,
                                    .v = qkv.data<uint16_t>() + 2 * inner,
                                    .qkv_stride = 3 * inner,
                                    .k_cache = const_cast<char*>(k.data()) + layer * cache * element_bytes,
                                    .v_cache = const_cast<char*>(v.data()) + layer * cache * element_bytes,
                                    .k_scales = const_cast<float*>(k.layer_scales(scales)),
                                    .v_scales = const_cast<float*>(v.layer_scales(scales)),
                                    .out = out.data<uint16_t>() + static_cast<int64_t>(layer) * batch * inner,
                                    .out_stride = inner,
                                    .position = position.data<int32_t>(),
                                    .distance_bias = distance.data<float>(),
                                    .max_distance = kMaxDistance,
                                    .batch = batch,
                                    .heads = heads,
                                    .head_dim = dim,
                                    .capacity = length,
                                    .scale = scale,
                                    .workers = workers,
                                    .dependent = overlap != Overlap::kNone && layer > 0,
                                    .kv_ready = overlap == Overlap::kReady},
                                   stream);
    }
  };
  work(nullptr);
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  Check check;
  for (uint64_t i = 0; i < 12; ++i) {
    const int row = static_cast<int>(uniform_below(3, 3 * i, batch));
    const int head = static_cast<int>(uniform_below(3, 3 * i + 1, heads));
    const int layer = static_cast<int>(uniform_below(3, 3 * i + 2, layers));
    const int64_t at = layer * cache + (static_cast<int64_t>(row) * heads + head) * length * dim;
    Sample s{.q = fetch(qkv, static_cast<int64_t>(row) * 3 * inner + head * dim, 1, dim, dim),
             .k = fetch(k.values, at, length, dim, dim),
             .v = fetch(v.values, at, length, dim, dim),
             .out = fetch(out, (static_cast<int64_t>(layer) * batch + row) * inner + head * dim, 1, dim, dim),
             .bias = {}};
    if (kv) {  // the new token's, not quantised here
      const int64_t from = static_cast<int64_t>(row) * 3 * inner + inner + head * dim;
      std::ranges::copy(fetch(qkv, from, 1, dim, dim), s.k.end() - dim);
      std::ranges::copy(fetch(qkv, from + inner, 1, dim, dim), s.v.end() - dim);
    }
    if (bias) {
      const std::vector<float> all = distance.to_host<float>();
      for (int j = 0; j < length; ++j) {
        const int d = std::max(j - (length - 1), -kMaxDistance);
        s.bias.push_back(all[head * (2 * kMaxDistance + 1) + d + kMaxDistance]);
      }
    }
    check.add(s, scale);
  }
  bench.report(name, layers, bytes * layers, "GB/s", true, check, work);
}

void bench_cross(Bench& bench, int sources, int beams, int heads, int dim, int length, int workers,
                 bool head_major, Overlap overlap, std::optional<DType> kv_type = {}) {
  const std::string name = "cross b" + std::to_string(sources) + " beams" + std::to_string(beams) + " h" +
                           std::to_string(heads) + " d" + std::to_string(dim) + " src" +
                           std::to_string(length) + (head_major ? " head-major" : " token-major") +
                           " workers" + std::to_string(workers) + " " + overlap_name(overlap) +
                           kv_name(kv_type);
  if (!bench.wanted(name)) return;
  const int inner = heads * dim;
  const int rows = sources * beams;
  const int64_t element_bytes = kv_type ? 1 : 2;
  const int64_t tokens = static_cast<int64_t>(sources) * length;
  const double bytes = kv_bytes(kv_type, 2 * tokens * inner, dim);
  const int layers = layer_count(bytes);
  const DeviceBuffer q = random_bf16(static_cast<int64_t>(rows) * inner, stream_key(4, "q"));
  const KvBuffer kv = random_kv(kv_type, layers, tokens, 2 * heads, dim, stream_key(4, "kv"));
  const DeviceBuffer out(static_cast<int64_t>(layers) * rows * inner * 2);
  std::vector<int32_t> offsets(sources + 1);
  for (int s = 0; s <= sources; ++s) offsets[s] = s * length;
  const DeviceBuffer device_offsets = DeviceBuffer::of(offsets);
  const int64_t token_stride = head_major ? dim : 2 * inner;
  const int64_t head_stride = head_major ? tokens * dim : dim;
  const int64_t v_at = head_major ? tokens * inner : inner;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto work = [&](cudaStream_t stream) {
    for (int layer = 0; layer < layers; ++layer) {
      const char* k = kv.data() + layer * tokens * 2 * inner * element_bytes;
      const float* scales = kv.layer_scales(layer * tokens * 2 * heads);
      launch_decode_cross_attention({.kv_dtype = kv_type,
                                     .q = q.data(),
                                     .q_stride = inner,
                                     .k = k,
                                     .v = k + v_at * element_bytes,
                                     .token_stride = token_stride,
                                     .head_stride = head_stride,
                                     .k_scales = scales,
                                     .v_scales = kv_type ? scales + heads * tokens : nullptr,
                                     .scale_token_stride = 1,
                                     .scale_head_stride = tokens,
                                     .offsets = device_offsets.data<int32_t>(),
                                     .out = out.data<uint16_t>() + static_cast<int64_t>(layer) * rows * inner,
                                     .out_stride = inner,
                                     .sources = sources,
                                     .rows_per_source = beams,
                                     .heads = heads,
                                     .head_dim = dim,
                                     .max_source_length = length,
                                     .scale = scale,
                                     .workers = workers,
                                     .dependent = overlap != Overlap::kNone && layer > 0,
                                     .kv_ready = overlap == Overlap::kReady},
                                    stream);
    }
  };
  work(nullptr);
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  Check check;
  for (uint64_t i = 0; i < 12; ++i) {
    const int row = static_cast<int>(uniform_below(5, 3 * i, rows));
    const int head = static_cast<int>(uniform_below(5, 3 * i + 1, heads));
    const int layer = static_cast<int>(uniform_below(5, 3 * i + 2, layers));
    const int64_t at = layer * tokens * 2 * inner +
                       static_cast<int64_t>(row / beams) * length * token_stride + head * head_stride;
    check.add(
        {.q = fetch(q, static_cast<int64_t>(row) * inner + head * dim, 1, dim, dim),
         .k = fetch(kv.values, at, length, dim, token_stride),
         .v = fetch(kv.values, at + v_at, length, dim, token_stride),
         .out = fetch(out, (static_cast<int64_t>(layer) * rows + row) * inner + head * dim, 1, dim, dim),
         .bias = {}},
        scale);
  }
  bench.report(name, layers, bytes * layers, "GB/s", true, check, work);
}

void bench_encoder(Bench& bench, int batch, int heads, int dim, int length, bool bias, bool causal) {
  const std::string name = "encoder b" + std::to_string(batch) + " h" + std::to_string(heads) + " d" +
                           std::to_string(dim) + " s" + std::to_string(length) + (bias ? " bias" : "") +
                           (causal ? " causal" : "");
  if (!bench.wanted(name)) return;
  constexpr int kLaunches = 10;
  const int inner = heads * dim;
  const int64_t tokens = static_cast<int64_t>(batch) * length;
  const DeviceBuffer qkv = random_bf16(tokens * 3 * inner, stream_key(6, "qkv"));
  const DeviceBuffer out(tokens * inner * 2);
  std::vector<int32_t> offsets(batch + 1);
  for (int b = 0; b <= batch; ++b) offsets[b] = b * length;
  const DeviceBuffer device_offsets = DeviceBuffer::of(offsets);
  const DeviceBuffer distance = bias ? bench.distance_bias(heads, true) : DeviceBuffer();
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const auto work = [&](cudaStream_t stream) {
    for (int i = 0; i < kLaunches; ++i) {
      launch_encoder_attention({.q = qkv.data(),
                                .k = qkv.data<uint16_t>() + inner,
                                .v = qkv.data<uint16_t>() + 2 * inner,
                                .out = out.data(),
                                .q_stride = 3 * inner,
                                .k_stride = 3 * inner,
                                .v_stride = 3 * inner,
                                .out_stride = inner,
                                .offsets = device_offsets.data<int32_t>(),
                                .batch = batch,
                                .tokens = tokens,
                                .max_source = length,
                                .heads = heads,
                                .head_dim = dim,
                                .scale = scale,
                                .distance_bias = distance.data<float>(),
                                .max_distance = kMaxDistance,
                                .causal = causal},
                               stream);
    }
  };
  work(nullptr);
  TANDEM_CUDA_CHECK(cudaDeviceSynchronize());
  Check check;
  for (uint64_t i = 0; i < 24; ++i) {
    const int b = static_cast<int>(uniform_below(7, 3 * i, batch));
    const int query = static_cast<int>(uniform_below(7, 3 * i + 1, length));
    const int head = static_cast<int>(uniform_below(7, 3 * i + 2, heads));
    const int keys = causal ? query + 1 : length;
    const int64_t first = static_cast<int64_t>(b) * length;
    Sample s{.q = fetch(qkv, (first + query) * 3 * inner + head * dim, 1, dim, dim),
             .k = fetch(qkv, first * 3 * inner + inner + head * dim, keys, dim, 3 * inner),
             .v = fetch(qkv, first * 3 * inner + 2 * inner + head * dim, keys, dim, 3 * inner),
             .out = fetch(out, (first + query) * inner + head * dim, 1, dim, dim),
             .bias = {}};
    if (bias) {
      const std::vector<float> all = distance.to_host<float>();
      for (int j = 0; j < keys; ++j) {
        const int d = std::clamp(j - query, -kMaxDistance, kMaxDistance);
        s.bias.push_back(all[head * (2 * kMaxDistance + 1) + d + kMaxDistance]);
      }
    }
    check.add(s, scale);
  }
  const double operations = 4.0 * tokens * length * inner * (causal ? 0.5 : 1.0);
  bench.report(name, kLaunches, operations * kLaunches, "TFLOP/s", false, check, work);
}

void run(Bench& bench) {
  for (const Overlap overlap : {Overlap::kNone, Overlap::kDependent, Overlap::kReady}) {
    bench_self(bench, 1, 16, 64, 128, 0, false, overlap);
    bench_self(bench, 8, 16, 64, 128, 0, false, overlap);
    bench_self(bench, 64, 16, 64, 256, 0, false, overlap);
    bench_cross(bench, 1, 1, 16, 64, 128, 0, false, overlap);
    bench_cross(bench, 64, 1, 16, 64, 512, 0, false, overlap);
  }
  for (const int workers : {4, 8, 16, 32}) {
    bench_self(bench, 1, 16, 64, 128, workers, false, Overlap::kReady);
    bench_self(bench, 1, 16, 64, 512, workers, false, Overlap::kReady);
    bench_self(bench, 8, 16, 64, 512, workers, false, Overlap::kReady);
  }
  for (const int workers : {1, 2, 4}) {
    bench_self(bench, 64, 8, 64, 128, workers, false, Overlap::kReady);
    bench_self(bench, 64, 16, 64, 128, workers, false, Overlap::kReady);
    bench_self(bench, 64, 16, 64, 512, workers, false, Overlap::kReady);
    bench_self(bench, 64, 32, 128, 128, workers, false, Overlap::kReady);
    bench_cross(bench, 64, 1, 16, 64, 128, workers, false, Overlap::kReady);
    bench_cross(bench, 64, 1, 16, 64, 512, workers, false, Overlap::kReady);
    bench_cross(bench, 64, 4, 16, 64, 512, workers, false, Overlap::kReady);
  }
  bench_self(bench, 64, 8, 64, 128, 0, false, Overlap::kReady);
  bench_self(bench, 64, 16, 64, 128, 0, false, Overlap::kReady);
  bench_self(bench, 64, 16, 64, 512, 0, false, Overlap::kReady);
  bench_self(bench, 64, 32, 128, 128, 0, false, Overlap::kReady);
  bench_self(bench, 64, 32, 128, 128, 0, true, Overlap::kReady);
  bench_self(bench, 1, 32, 128, 128, 0, true, Overlap::kReady);
  for (const bool head_major : {false, true}) {
    bench_cross(bench, 64, 1, 16, 64, 128, 0, head_major, Overlap::kReady);
    bench_cross(bench, 64, 1, 16, 64, 512, 0, head_major, Overlap::kReady);
    bench_cross(bench, 64, 1, 32, 128, 512, 0, head_major, Overlap::kReady);
    bench_cross(bench, 64, 4, 16, 64, 512, 0, head_major, Overlap::kReady);
    bench_cross(bench, 64, 8, 16, 64, 512, 0, head_major, Overlap::kReady);
    bench_cross(bench, 8, 4, 16, 64, 128, 0, head_major, Overlap::kReady);
  }
  for (const std::optional<DType> kv :
       {std::optional<DType>(), std::optional(DType::kF8), std::optional(DType::kI8)}) {
    for (const int batch : {1, 8, 64}) {
      for (const int length : {128, 512}) {
        for (const auto& [heads, dim] : {std::pair{16, 64}, {32, 128}}) {
          bench_self(bench, batch, heads, dim, length, 0, false, Overlap::kReady, kv);
          bench_cross(bench, batch, 1, heads, dim, length, 0, false, Overlap::kReady, kv);
        }
      }
    }
  }
  for (const bool bias : {false, true}) {
    bench_encoder(bench, 8, 16, 64, 512, bias, false);
    bench_encoder(bench, 8, 16, 64, 2048, bias, false);
    bench_encoder(bench, 8, 32, 128, 512, bias, false);
    bench_encoder(bench, 64, 16, 64, 128, bias, false);
    bench_encoder(bench, 64, 32, 128, 128, bias, false);
    bench_encoder(bench, 64, 16, 64, 512, bias, false);
    bench_encoder(bench, 1, 16, 64, 128, bias, false);
    bench_encoder(bench, 32, 16, 64, 350, bias, false);
  }
  bench_encoder(bench, 8, 16, 64, 2048, false, true);
}

}  // namespace
}  // namespace tandem::kernels

int main(int argc, char** argv) {
  try {
    tandem::kernels::Bench bench(argc > 1 ? argv[1] : "");
    tandem::kernels::run(bench);
    return bench.wrong() ? 1 : 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "attention_bench: %s\n", e.what());
    return 2;
  }
}
