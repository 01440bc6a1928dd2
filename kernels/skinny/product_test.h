// What the tests of skinny products share: operands as host and device have them, and the truth in double.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/base/host_device.h"
#include "harness/weights/values/quantise.h"
#include "kernels/common/device_test.h"
#include "kernels/skinny/choose/skinny_plan.h"
#include "kernels/skinny/formats/sparse_matrix.h"
#include "kernels/skinny/skinny.h"

namespace tandem::kernels {

inline double activated(std::optional<Activation> activation, double v) {
  if (!activation.has_value()) return v;
  switch (*activation) {
    case Activation::kRelu:
      return v > 0 ? v : 0;
    case Activation::kGelu:
      return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case Activation::kSilu:
      return v / (1 + std::exp(-v));
    case Activation::kTanh:
      return std::tanh(v);
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-v));
  }
  return NAN;
}

/// ||got - want|| / ||want||, 0 for zeros that are zeros (a relu of few columns); NaN if any value is NaN.
inline double relative_l2(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return error == 0 ? 0 : std::sqrt(error / norm);
}

/// Rows of numbers that a product multiplies: plain values, or codes with the scales of their groups.
struct Rows {
  int64_t cols = 0;
  int64_t group = 0;  // neighbours that share a scale
  std::vector<float> values;
  std::vector<double> scales;  // [rows, groups]

  int64_t groups() const { return ceil_div(cols, group); }

  static Rows plain(std::vector<float> values, int64_t cols) {
    Rows rows{.cols = cols, .group = cols, .values = std::move(values), .scales = {}};
    rows.scales.assign(rows.values.size() / static_cast<size_t>(cols), 1.0);
    return rows;
  }
};

/// A quantised matrix: as the truth and as the device has it.
struct QuantisedRows {
  Rows rows;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  Storage storage;

  QuantisedRows() = default;
  QuantisedRows(const std::vector<float>& values, int64_t cols, DType type) {
    storage = {.dtype = type, .scale_group = Storage::kWholeRow};
    if (type == DType::kI4) storage = {.dtype = type, .scale_group = 128, .scale_dtype = DType::kBF16};
    const int64_t count = static_cast<int64_t>(values.size()) / cols;
    const int64_t groups = storage.scales_per_row(cols);
    rows = {.cols = cols, .group = type == DType::kI4 ? 128 : cols, .values = {}, .scales = {}};
    rows.values.resize(values.size());
    scales.resize(static_cast<size_t>(count * groups));
    codes.assign(static_cast<size_t>(count * storage.value_row_bytes(cols)), 0);
    std::vector<uint32_t> bits(static_cast<size_t>(cols));
    const std::vector<float> ones(static_cast<size_t>(groups), 1.0f);
    for (int64_t r = 0; r < count; ++r) {
      const auto n = static_cast<size_t>(cols);
      quantise_row(storage, {&values[r * cols], n}, bits, {&scales[r * groups], static_cast<size_t>(groups)});
      dequantise_row(storage, bits, ones, {&rows.values[r * cols], n});
      uint8_t* to = &codes[static_cast<size_t>(r * storage.value_row_bytes(cols))];
      for (int64_t j = 0; j < cols; ++j) {
        if (type == DType::kI4) {
          to[j / 2] |= static_cast<uint8_t>(bits[j] << (j % 2 * 4));
        } else {
          to[j] = static_cast<uint8_t>(bits[j]);
        }
      }
    }
    rows.scales.assign(scales.begin(), scales.end());
  }
};

/// x w^T in double, row by row of x.
inline std::vector<double> products(const Rows& x, const Rows& w, int m, int64_t n) {
  std::vector<double> all(static_cast<size_t>(m) * n);
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < n; ++row) {
    for (int i = 0; i < m; ++i) {
      double sum = 0;
      for (int64_t g = 0; g < w.groups(); ++g) {
        double part = 0;
        for (int64_t j = g * w.group; j < std::min(w.cols, (g + 1) * w.group); ++j)
          part += static_cast<double>(x.values[i * x.cols + j]) * w.values[row * w.cols + j];
        sum += part * w.scales[row * w.groups() + g];
      }
      all[i * n + row] = sum * x.scales[i];
    }
  }
  return all;
}

/// " w i8 x too", for messages.
inline std::string format_text(DType weights, std::optional<DType> inputs, bool x_codes) {
  return fmt::format(" w {}{}", dtype_name(weights), x_codes ? " x is codes" : inputs ? " x too" : "");
}

/// A product with everything it may have, its operands on host and device, and the truth in double.
struct Product {
  SkinnyParams params;
  bool with_bias = false;
  bool with_residual = false;
  bool in_place = false;
  bool with_sums = false;  // of a layer norm: norm_sums
  bool x_codes = false;    // x is codes with scales in memory
  int pad = 0;             // elements between rows of x, residual and y
  SparseWeights sparse = SparseWeights::kNone;
  double allowed = 0;         // relative error of y, instead of what follows from the types
  std::vector<uint8_t> kept;  // with sparse weights [rows of w, k]: those that are

  std::vector<float> x, w, bias, residual, gamma, beta;
  std::vector<float> dense_x;  // [m, k]
  Rows weights;
  QuantisedRows codes;
  std::vector<double> truth;   // [m, n]
  std::vector<double> normed;  // [m, k]
  std::vector<DeviceTensor> device;
  DeviceBuffer device_codes;
  DeviceBuffer device_x_codes;
  std::vector<float> multiplied;  // what the truth was made of: x, or the normalised rows that a kernel wrote

  DType x_type() const { return params.x_float ? DType::kF32 : params.dtype; }
  DType residual_type() const { return params.residual_float ? DType::kF32 : params.dtype; }
  DType y_type() const { return params.y_float ? DType::kF32 : params.dtype; }
  DType w_type() const { return params.w_dtype.value_or(params.dtype); }
  bool quantised() const { return w_type() != params.dtype; }
  int w_rows() const { return params.gated ? 2 * params.n : params.n; }
  SkinnyProblem problem() const {
    return {.dtype = params.dtype,
            .w_dtype = params.w_dtype,
            .input_dtype = params.input_dtype,
            .m = params.m,
            .n = params.n,
            .k = params.k,
            .gated = params.gated,
            .norm = params.norm.has_value(),
            .x_codes = x_codes,
            .sparse = sparse};
  }
  std::string text() const {
    const SkinnyParams& p = params;
    const std::string norm = !p.norm ? "" : *p.norm == Norm::kLayer ? " layer" : " rms";
    const std::string_view activation = p.activation ? activation_name(*p.activation) : "linear";
    const std::string format = quantised() ? format_text(w_type(), p.input_dtype, x_codes)
                               : sparse == SparseWeights::kTwoOfFour ? " 2:4"
                               : sparse == SparseWeights::kBitmap    ? " bitmap"
                                                                     : "";
    return fmt::format("{}{} m {} n {} k {}{}{}{} {}{}{}{}{}{} pad {}", dtype_name(p.dtype), format, p.m, p.n,
                       p.k, norm, p.norm_sums != nullptr ? " sums" : "", p.x_float ? " x_float" : "",
                       activation, p.gated ? " gated" : "", with_bias ? " bias" : "",
                       with_residual ? (in_place ? " in place" : " residual") : "",
                       p.residual_float ? " (float)" : "", p.y_float ? " y_float" : "", pad);
  }

  void draw(RandomValues& random) {
    SkinnyParams& p = params;
    if (in_place) p.residual_float = p.y_float;
    p.ldx = p.k + (x_codes ? 16 : 8) * pad;
    p.ldy = p.ld_residual = p.n + pad;
    x = random.normal(p.m * p.ldx, x_type(), p.norm ? 1.5f : 0.0f, p.norm ? 2.0f : 1.0f);
    w = random.normal(static_cast<int64_t>(w_rows()) * p.k, p.dtype, 0,
                      1 / std::sqrt(static_cast<float>(p.k)));
    bias = random.normal(w_rows(), p.dtype, 0, 0.5f);
    residual = random.normal(p.m * p.ld_residual, residual_type());
    gamma = random.normal(p.k, p.dtype, 1, 0.2f);
    beta = random.normal(p.k, p.dtype, 0, 0.2f);
    finish_draw();
  }

  /// From the host's operands to the device's and the truth.
  void finish_draw() {
    SkinnyParams& p = params;
    normed.resize(static_cast<size_t>(p.m) * p.k);
    dense_x.resize(normed.size());
    for (int i = 0; i < p.m; ++i) {
      const float* row = &x[i * p.ldx];
      double mean = 0;
      double squares = 0;
      for (int j = 0; j < p.k; ++j) mean += row[j];
      mean = p.norm == Norm::kLayer ? mean / p.k : 0;
      for (int j = 0; j < p.k; ++j) squares += (row[j] - mean) * (row[j] - mean);
      const double scale = 1 / std::sqrt(squares / p.k + p.eps);
      for (int j = 0; j < p.k; ++j) {
        normed[i * p.k + j] =
            p.norm ? (row[j] - mean) * scale * gamma[j] + (p.beta != nullptr ? beta[j] : 0) : row[j];
        dense_x[i * p.k + j] = static_cast<float>(normed[i * p.k + j]);
      }
    }
    device.clear();
    device.emplace_back(x, x_type());
    device.emplace_back(w, p.dtype);
    device.emplace_back(bias, p.dtype);
    device.emplace_back(residual, residual_type());
    device.emplace_back(gamma, p.dtype);
    device.emplace_back(beta, p.dtype);
    p.x = device[0].data();
    p.w = device[1].data();
    p.bias = with_bias ? device[2].data() : nullptr;
    p.residual = with_residual ? device[3].data() : nullptr;
    p.gamma = p.norm ? device[4].data() : nullptr;
    if (p.beta != nullptr) p.beta = device[5].data();
    if (quantised()) {
      codes = QuantisedRows(w, p.k, w_type());
      weights = codes.rows;
      device_codes = DeviceBuffer::of(codes.codes);
      p.w = device_codes.data();
      device.emplace_back(codes.scales, codes.storage.scale_dtype);
      p.scales = device.back().data();
    } else if (sparse != SparseWeights::kNone) {
      SparseMatrix matrix(sparse, w, kept, p.k);
      device_codes = DeviceBuffer::of(matrix.bytes);
      matrix.put(p, device_codes.data());
      weights = Rows::plain(std::move(matrix.values), p.k);
    } else {
      weights = Rows::plain(w, p.k);
    }
    if (with_sums) p.norm_sums = nullptr;
    if (with_sums && !quantised() && sparse == SparseWeights::kNone) {
      const std::vector<float> parts =
          p.beta != nullptr ? std::vector(beta) : std::vector<float>(static_cast<size_t>(p.k), 0.0f);
      std::vector<float> sums;
      for (const std::vector<float>& part : {gamma, parts}) {
        for (const double sum : products(Rows::plain(part, p.k), weights, 1, w_rows()))
          sums.push_back(static_cast<float>(sum));
      }
      device.emplace_back(sums, DType::kF32);
      p.norm_sums = static_cast<const float*>(device.back().data());
    }
    if (x_codes) make_x_codes();
    multiplied.clear();
    if (!p.norm || !quantised()) make_truth(dense_x);
  }

  /// x on the device as codes, rows ldx apart; between the rows codes that would show.
  void make_x_codes() {
    SkinnyParams& p = params;
    const QuantisedRows rows(dense_x, p.k, *p.input_dtype);
    std::vector<uint8_t> padded(static_cast<size_t>(p.m * p.ldx), 0x55);
    for (int i = 0; i < p.m; ++i)
      std::copy_n(&rows.codes[static_cast<size_t>(i) * p.k], p.k, &padded[static_cast<size_t>(i * p.ldx)]);
    device_x_codes = DeviceBuffer::of(padded);
    device.emplace_back(rows.scales, DType::kF32);
    p.x = device_x_codes.data();
    p.x_scales = static_cast<const float*>(device.back().data());
  }

  /// The truth for these rows [m, k] of what is multiplied.
  void make_truth(const std::vector<float>& rows) {
    if (multiplied == rows) return;
    multiplied = rows;
    const SkinnyParams& p = params;
    const Rows x_rows =
        p.input_dtype ? QuantisedRows(rows, p.k, *p.input_dtype).rows : Rows::plain(rows, p.k);
    const std::vector<double> sums = products(x_rows, weights, p.m, w_rows());
    truth.assign(static_cast<size_t>(p.m) * p.n, 0);
    for (int i = 0; i < p.m; ++i) {
      const auto sum = [&](int64_t row) {
        return sums[i * int64_t{w_rows()} + row] + (with_bias ? bias[row] : 0);
      };
      for (int n = 0; n < p.n; ++n) {
        double v = activated(p.activation, sum(n));
        if (p.gated) v *= sum(static_cast<int64_t>(n) + p.n);
        truth[i * p.n + n] = v + (with_residual ? residual[i * p.ld_residual + n] : 0);
      }
    }
  }

  double tolerance() const {
    if (allowed > 0) return allowed;
    // The tensor cores add e4m3 with 13 bits after the point of the largest term, here 128 products at a time.
    if (x_codes && w_type() == DType::kF8) return params.y_float ? 1e-3 : 5e-3;
    if (sparse != SparseWeights::kNone && !params.norm) return params.y_float ? 2e-5 : 4e-3;
    if (!quantised()) return params.dtype == DType::kF32 ? 1e-5 : params.dtype == DType::kF16 ? 4e-3 : 1.5e-2;
    return params.y_float ? 2e-5 : 4e-3;  // of the sums in fp32, and of what is stored
  }

  /// Runs with `config` (null: the chosen one) into fresh poisoned buffers and compares. Returns the bytes of y.
  std::vector<uint8_t> check(const SkinnyConfig* config, const std::string& what) {
    SkinnyParams p = params;
    const DeviceTensor y = in_place ? DeviceTensor(residual, y_type()) : DeviceTensor(p.m * p.ldy, y_type());
    const DeviceTensor norm_out(static_cast<int64_t>(p.m) * p.k, p.dtype);
    p.y = y.data();
    if (in_place) p.residual = y.data();
    // Codes are of the values that the kernel stores, so the truth needs them.
    if (p.norm_out != nullptr || (p.norm && quantised())) p.norm_out = norm_out.data();
    p.config = config;
    launch_skinny(p, nullptr);
    if (p.norm && quantised()) make_truth(norm_out.values());
    const std::vector<float> all = y.values();
    std::vector<float> got;
    for (int i = 0; i < p.m; ++i) got.insert(got.end(), &all[i * p.ldy], &all[i * p.ldy] + p.n);
    EXPECT_LE(relative_l2(got, truth), tolerance()) << what;
    for (int i = 0; i < p.m; ++i) {  // between the rows nothing may change
      for (int64_t j = p.n; j < p.ldy; ++j) {
        const float before = in_place ? residual[i * p.ldy + j] : NAN;
        const float after = all[i * p.ldy + j];
        EXPECT_TRUE(after == before || (std::isnan(after) && std::isnan(before)))
            << what << ": wrote past row " << i;
      }
    }
    if (p.norm_out != nullptr) {
      EXPECT_LE(relative_l2(norm_out.values(), normed), p.dtype == DType::kBF16 ? 1.5e-2 : tolerance())
          << what << ": norm_out";
    }
    return y.bytes();
  }
};

/// `launch` must be refused, naming `field`, before anything is launched; no device is needed for that.
template <class Launch>
void expect_refused(const char* field, Launch launch) {
  try {
    launch();
    ADD_FAILURE() << field << " was accepted";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
  }
}

/// Random features for given sizes; weights and x quantised as asked.
inline Product random_product(RandomValues& random, DType dtype, int m, int n, int k,
                              std::optional<DType> w_dtype = {}, std::optional<DType> input_dtype = {},
                              bool x_codes = false) {
  static constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu, Activation::kGeluTanh,
                                        Activation::kSilu, Activation::kTanh, Activation::kSigmoid};
  static const int kThere = 0;  // any address: draw() replaces it
  Product product;
  SkinnyParams& p = product.params;
  p.dtype = dtype;
  p.w_dtype = w_dtype;
  p.input_dtype = input_dtype;
  p.m = m;
  p.n = n;
  p.k = k;
  product.x_codes = x_codes;
  p.gated = random.between(0, 3) == 0 && (!x_codes || n % 8 == 0);
  if (p.gated || random.coin()) p.activation = random.one_of(kAll);
  if (!x_codes && skinny_norm_supports(m, k) && random.coin()) {
    p.norm = random.coin() ? Norm::kLayer : Norm::kRms;
    p.beta = random.coin() ? &kThere : nullptr;
    p.norm_out = random.coin() ? const_cast<int*>(&kThere) : nullptr;
    p.x_float = random.coin();
    product.with_sums = p.norm == Norm::kLayer && random.coin();
  }
  p.y_float = random.coin();
  product.with_bias = random.coin();
  product.with_residual = random.coin();
  product.in_place = product.with_residual && random.coin();
  p.residual_float = product.with_residual && random.coin();
  product.pad = static_cast<int>(random.between(0, 2));
  product.draw(random);
  return product;
}

/// Which weights of [rows, k] are stored. Rows of a bitmap are of all kinds: some have nothing, some everything.
inline std::vector<uint8_t> random_matrix_kept(RandomValues& random, SparseWeights form, int rows, int k) {
  std::mt19937_64 engine(static_cast<uint64_t>(random.between(0, INT64_MAX)));
  return random_kept(engine, form, rows, k, random.coin() ? 0.5 : 0.2, true);
}

/// The same with weights of which only some are stored.
inline Product random_sparse(RandomValues& random, SparseWeights form, int m, int n, int k) {
  Product product = random_product(random, DType::kBF16, m, n, k);
  product.sparse = form;
  product.kept = random_matrix_kept(random, form, product.w_rows(), k);
  product.finish_draw();
  return product;
}

}  // namespace tandem::kernels
