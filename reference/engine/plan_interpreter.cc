#include "reference/engine/plan_interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <span>

#include "harness/base/error.h"
#include "harness/base/half.h"
#include "harness/base/random.h"
#include "reference/model/next_token.h"
#include "reference/model/sublayer.h"
#include "reference/ops/dense.h"
#include "reference/ops/embedding.h"
#include "reference/ops/ffn.h"
#include "reference/ops/head.h"

namespace tandem::reference {
namespace {

// A NaN that no arithmetic makes in any of the float types, -1 as an id, no flag.
constexpr std::byte kPoison{0xff};

constexpr std::string_view kFloats = "f32, f16, bf16";

bool is_float(DType t) {
  return t == DType::kF32 || t == DType::kF16 || t == DType::kBF16;
}

float from_16_bits(DType dtype, uint16_t bits) {
  return dtype == DType::kF16 ? fp16_to_float(bits) : bf16_to_float(bits);
}

/// Of the types of is_float() only.
float decode(DType dtype, const std::byte* p) {
  if (dtype == DType::kF32) {
    float v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return from_16_bits(dtype, bits);
}

std::vector<int32_t> lengths_of(const std::vector<int32_t>& offsets) {
  std::vector<int32_t> lengths(offsets.size() - 1);
  for (size_t b = 0; b < lengths.size(); ++b) lengths[b] = offsets[b + 1] - offsets[b];
  return lengths;
}

std::vector<int32_t> even_offsets(int64_t count, int stride) {
  std::vector<int32_t> offsets(count + 1);
  for (int64_t b = 0; b <= count; ++b) offsets[b] = static_cast<int32_t>(b * stride);
  return offsets;
}

Matrix activated(const Matrix& x, Activation activation, bool gated) {
  Matrix y(x.rows, gated ? x.cols / 2 : x.cols);
  for (int64_t r = 0; r < y.rows; ++r) {
    for (int64_t c = 0; c < y.cols; ++c) {
      const double a = activate(activation, x.row(r)[c]);
      y.row(r)[c] = static_cast<float>(gated ? a * x.row(r)[y.cols + c] : a);
    }
  }
  return y;
}

}  // namespace

PlanInterpreter::PlanInterpreter(const StepPlan& plan)
    : plan_(plan), arena_(plan.arena_bytes, kPoison), written_(plan.arena_bytes) {}

// ---- Memory
// -----------------------------------------------------------------------------------------------------------

std::string PlanInterpreter::where() const {
  return op_ < 0 ? "plan" : "plan: " + op_text(plan_, op_);
}

const PlanBuffer& PlanInterpreter::buffer(const PlanTensor& t) const {
  if (t.empty()) throw Error(fmt::format("{} lacks a tensor that it needs", where()));
  return plan_.buffers.at(t.buffer);
}

void PlanInterpreter::refuse_type(const PlanTensor& t, std::string_view allowed) const {
  const PlanBuffer& b = buffer(t);
  throw Error(
      fmt::format("{}: buffer '{}' is {}, allowed here: {}", where(), b.name, dtype_name(b.dtype), allowed));
}

const std::byte* PlanInterpreter::address(const PlanTensor& t, int64_t row, int64_t col) const {
  const PlanBuffer& b = buffer(t);
  const int64_t bytes = dtype_bytes(b.dtype);
  const int64_t at = b.offset_bytes + tensor_bytes(b.dtype, t.offset + row * t.stride + col);
  if (at < 0 || at + bytes > plan_.arena_bytes)
    throw Error(fmt::format("{}: '{}' leaves the arena", where(), b.name));
  return arena_.data() + at;
}

std::byte* PlanInterpreter::address(const PlanTensor& t, int64_t row, int64_t col) {
  return const_cast<std::byte*>(std::as_const(*this).address(t, row, col));
}

/// Where an element is to be written.
std::byte* PlanInterpreter::mark(const PlanTensor& t, int64_t row, int64_t col) {
  std::byte* p = address(t, row, col);
  std::fill_n(written_.begin() + (p - arena_.data()), dtype_bytes(buffer(t).dtype), true);
  return p;
}

/// Where a written element stands.
const std::byte* PlanInterpreter::written(const PlanTensor& t, int64_t row, int64_t col) const {
  const PlanBuffer& b = buffer(t);
  const std::byte* p = address(t, row, col);
  const auto at = static_cast<size_t>(p - arena_.data());
  if (!written_[at]) {
    throw Error(
        fmt::format("{} reads ({}, {}) of buffer '{}', which nobody wrote", where(), row, col, b.name));
  }
  return p;
}

float PlanInterpreter::read(const PlanTensor& t, int64_t row, int64_t col) const {
  const DType dtype = buffer(t).dtype;
  if (!is_float(dtype)) refuse_type(t, kFloats);
  return decode(dtype, written(t, row, col));
}

int32_t PlanInterpreter::read_int(const PlanTensor& t, int64_t row, int64_t col) const {
  if (buffer(t).dtype != DType::kI32) refuse_type(t, "i32");
  int32_t v;
  std::memcpy(&v, written(t, row, col), sizeof(v));
  return v;
}

void PlanInterpreter::write(const PlanTensor& t, int64_t row, int64_t col, float value) {
  const DType dtype = buffer(t).dtype;
  if (!is_float(dtype)) refuse_type(t, kFloats);
  std::byte* p = mark(t, row, col);
  if (dtype == DType::kF32) {
    std::memcpy(p, &value, sizeof(value));
    return;
  }
  const uint16_t bits = to_16_bits(dtype, value);
  std::memcpy(p, &bits, sizeof(bits));
}

uint16_t PlanInterpreter::to_16_bits(DType dtype, float v) {
  const uint16_t nearest = dtype == DType::kF16 ? float_to_fp16(v) : float_to_bf16(v);
  const float at = from_16_bits(dtype, nearest);
  if (!chance_ || at == v || !std::isfinite(at)) return nearest;
  // The bits below the sign count magnitudes up; rounding keeps the sign, and what it made zero is larger.
  const auto other = static_cast<uint16_t>(std::fabs(at) < std::fabs(v) ? nearest + 1 : nearest - 1);
  const double share = (static_cast<double>(v) - at) / (static_cast<double>(from_16_bits(dtype, other)) - at);
  const double drawn = static_cast<double>(random_bits(*chance_, roundings_++) >> 11) * 0x1p-53;
  return drawn < share ? other : nearest;
}

void PlanInterpreter::write_int(const PlanTensor& t, int64_t row, int64_t col, int32_t value) {
  if (buffer(t).dtype != DType::kI32) refuse_type(t, "i32");
  std::memcpy(mark(t, row, col), &value, sizeof(value));
}

uint32_t PlanInterpreter::read_bits(const PlanTensor& t, int64_t row, int64_t col) const {
  if (dtype_bits(buffer(t).dtype) != 8) refuse_type(t, "f8, i8");
  return std::to_integer<uint32_t>(*written(t, row, col));
}

void PlanInterpreter::write_bits(const PlanTensor& t, int64_t row, int64_t col, uint32_t bits) {
  if (dtype_bits(buffer(t).dtype) != 8) refuse_type(t, "f8, i8");
  *mark(t, row, col) = static_cast<std::byte>(bits & 0xff);
}

Matrix PlanInterpreter::read(const PlanTensor& t) const {
  Matrix m(t.rows, t.cols);
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.cols; ++c) m.row(r)[c] = read(t, r, c);
  }
  return m;
}

void PlanInterpreter::write(const PlanTensor& t, MatrixView values) {
  expect_shape(values, t.rows, t.cols, plan_.buffers[t.buffer].name.c_str());
  for (int64_t r = 0; r < t.rows; ++r) {
    for (int64_t c = 0; c < t.cols; ++c) write(t, r, c, values.row(r)[c]);
  }
}

std::vector<int32_t> PlanInterpreter::read_ints(const PlanTensor& t) const {
  std::vector<int32_t> v(t.rows * t.cols);
  for (int64_t i = 0; i < t.rows * t.cols; ++i) v[i] = read_int(t, i / t.cols, i % t.cols);
  return v;
}

void PlanInterpreter::set(std::string_view buffer, std::span<const int32_t> values) {
  const int index = plan_.find(buffer);
  const auto n = static_cast<int64_t>(values.size());
  if (n > plan_.buffers[index].elements) throw Error(fmt::format("plan: {} values for '{}'", n, buffer));
  for (int64_t i = 0; i < n; ++i)
    write_int({.buffer = index, .rows = 1, .cols = n, .stride = n}, 0, i, values[i]);
}

void PlanInterpreter::set(std::string_view buffer, std::span<const float> values) {
  const int index = plan_.find(buffer);
  const auto n = static_cast<int64_t>(values.size());
  if (n > plan_.buffers[index].elements) throw Error(fmt::format("plan: {} values for '{}'", n, buffer));
  write(PlanTensor{.buffer = index, .rows = 1, .cols = n, .stride = n}, MatrixView(values.data(), 1, n));
}

std::vector<int32_t> PlanInterpreter::integers(std::string_view buffer) const {
  const int index = plan_.find(buffer);
  const int64_t n = plan_.buffers[index].elements;
  return read_ints({.buffer = index, .rows = 1, .cols = n, .stride = n});
}

std::vector<float> PlanInterpreter::values(std::string_view buffer) const {
  const int index = plan_.find(buffer);
  const int64_t n = plan_.buffers[index].elements;
  return read(PlanTensor{.buffer = index, .rows = 1, .cols = n, .stride = n}).values;
}

void PlanInterpreter::poison(const PlanBuffer& buffer) {
  std::fill_n(arena_.begin() + buffer.offset_bytes, buffer.bytes(), kPoison);
  std::fill_n(written_.begin() + buffer.offset_bytes, buffer.bytes(), false);
}

// ---- Operations
// -------------------------------------------------------------------------------------------------------

void PlanInterpreter::run(PlanSection section) {
  const OpRange& range = plan_.section(section);
  for (int op = range.first; op < range.last; ++op) {
    enter(op);
    std::visit([this](const auto& body) { apply(body); }, plan_.ops[op].body);
    leave();
  }
}

void PlanInterpreter::enter(int op) {
  op_ = op;
  refuse_unknown(plan_, op_);
  for (const PlanBuffer& b : plan_.buffers) {
    if (b.role == BufferRole::kScratch && b.first_op == op_) poison(b);
  }
}

void PlanInterpreter::leave() {
  for (const PlanBuffer& b : plan_.buffers) {
    if (b.role == BufferRole::kScratch && b.last_op == op_) poison(b);
  }
  op_ = -1;
}

Matrix PlanInterpreter::norm(const NormWeight& w, MatrixView x) const {
  return normalise(plan_.config, in_fp32(w), x);
}

RelativeBias PlanInterpreter::bias(const RelativeBiasRef& ref, bool bidirectional) const {
  if (ref.distance_bias.empty()) return {};
  return {.table = in_fp32(ref.table),
          .bidirectional = bidirectional,
          .max_distance = plan_.config.relative_max_distance};
}

bool PlanInterpreter::finished(const PlanTensor& flags, int64_t row) const {
  return !flags.empty() && read_int(flags, 0, row) != 0;
}

void PlanInterpreter::apply(const EmbedOp& op) {
  const std::vector<int32_t> ids = read_ints(op.ids);
  std::vector<int32_t> positions(ids.size());
  if (op.offsets.empty()) {
    std::fill(positions.begin(), positions.end(), read_int(op.position, 0, 0));
  } else {
    const std::vector<int32_t> offsets = read_ints(op.offsets);
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      std::iota(positions.begin() + offsets[b], positions.begin() + offsets[b + 1], 0);
    }
  }
  write(op.x,
        embed(plan_.config, {.ids = ids,
                             .positions = positions,
                             .table = in_fp32(op.table),
                             .first_id = plan_.slice.degree > 1 ? std::optional(op.first_id) : std::nullopt,
                             .position_table = in_fp32(op.learned)}));
}

void PlanInterpreter::apply(const NormOp& op) {
  norm(op, read(op.x));
}

void PlanInterpreter::norm(const NormOp& op, const Matrix& input) {
  const Matrix x = op.residual.empty() ? input : add(input, read(op.residual));
  if (!op.sum.empty()) write(op.sum, x);
  const Matrix y = norm(op.weight, x);
  if (!op.codes.empty()) write_codes(op.codes, op.scales, in_activation_type(y), y.cols);
  if (!op.y.empty()) write(op.y, y);
}

void PlanInterpreter::apply(const DenseOp& op) {
  Matrix y;
  if (op.x_stats.empty()) {
    const Matrix x = product_input(op.x, op.x_scales, op.norm, op.norm_out, op.weight);
    y = head(x, in_fp32(op.weight), op.scale);
  } else {
    y = product_by_statistics(op);
  }
  if (op.activation) y = activated(y, *op.activation, op.gated);
  if (!op.residual.empty()) y = add(y, residual(op));
  write(op.y, y);
  if (!op.stats.empty()) write_statistics(op, y);
}

void PlanInterpreter::apply(const ActivationOp& op) {
  Matrix x = read(op.x);
  if (!op.bias.empty()) {
    const MatrixView b(in_fp32(op.bias));
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < x.cols; ++c) x.row(r)[c] += b.data[c];
    }
  }
  write(op.y, activated(x, op.activation, op.gated));
}

void PlanInterpreter::apply(const EncoderAttentionOp& op) {
  const std::vector<int32_t> offsets = read_ints(op.offsets);
  const std::vector<int32_t> lengths = lengths_of(offsets);
  const Matrix q = read(op.q), k = read(op.k), v = read(op.v);
  if (*std::max_element(lengths.begin(), lengths.end()) > op.max_source)
    throw Error(fmt::format("{}: max_source {} is below a source's length", where(), op.max_source));
  write(op.out, attention({.q = q,
                           .query_offsets = offsets,
                           .k = k,
                           .v = v,
                           .key_offsets = offsets,
                           .mask = {AttentionMask::Kind::kPadding, lengths.data()},
                           .heads = op.heads,
                           .scale = plan_.config.attention_scale,
                           .bias = bias(op.bias, true)}));
}

void PlanInterpreter::append(const PlanTensor& rows, const Cache& cache, const SelfAttentionOp& op,
                             int position) {
  const int64_t head_dim = cache.rows.cols;
  for (int64_t b = 0; b < rows.rows; ++b) {
    if (finished(op.finished, b)) continue;
    for (int64_t h = 0; h < op.heads; ++h) {
      Matrix head(1, head_dim);
      for (int64_t i = 0; i < head_dim; ++i) head.values[i] = read(rows, b, h * head_dim + i);
      const int64_t at = (b * op.heads + h) * op.capacity + position;
      const PlanTensor place = cache.rows.some_rows(at, 1);
      if (cache.scales.empty()) {
        write(place, head);
      } else {
        write_codes(place, cache.scales.some_rows(at, 1), head, head_dim);
      }
    }
  }
}

Matrix PlanInterpreter::gather(const Cache& cache, const SelfAttentionOp& op, int keys) const {
  const int64_t head_dim = cache.rows.cols;
  const int64_t batch = op.q.rows;
  Matrix m(batch * keys, op.heads * head_dim);
  for (int64_t b = 0; b < batch; ++b) {
    if (finished(op.finished, b)) continue;
    for (int64_t t = 0; t < keys; ++t) {
      const int64_t from = op.ancestry.empty() || t == keys - 1 ? b : read_int(op.ancestry, b, t);
      for (int64_t h = 0; h < op.heads; ++h) {
        const int64_t at = (from * op.heads + h) * op.capacity + t;
        const Matrix head = cache.scales.empty() ? read(cache.rows.some_rows(at, 1))
                                                 : read_codes(cache.rows.some_rows(at, 1),
                                                              cache.scales.some_rows(at, 1), head_dim);
        std::copy_n(head.row(0), head_dim, m.row(b * keys + t) + h * head_dim);
      }
    }
  }
  return m;
}

void PlanInterpreter::apply(const SelfAttentionOp& op) {
  const int position = read_int(op.position, 0, 0);
  if (position < 0 || position >= op.capacity)
    throw Error(fmt::format("{}: position {} of {}", where(), position, op.capacity));
  const Cache k_cache{op.k_cache, op.k_scales}, v_cache{op.v_cache, op.v_scales};
  append(op.k, k_cache, op, position);
  append(op.v, v_cache, op, position);
  const Matrix q = read(op.q), k = gather(k_cache, op, position + 1), v = gather(v_cache, op, position + 1);
  const std::vector<int32_t> queries = even_offsets(q.rows, 1), keys = even_offsets(q.rows, position + 1);
  const std::vector<int32_t> lengths(q.rows, position + 1);
  Matrix out = attention({.q = q,
                          .query_offsets = queries,
                          .query_position = position,
                          .k = k,
                          .v = v,
                          .key_offsets = keys,
                          .mask = {AttentionMask::Kind::kCausal, lengths.data()},
                          .heads = op.heads,
                          .scale = plan_.config.attention_scale,
                          .bias = bias(op.bias, false)});
  for (int64_t b = 0; b < out.rows; ++b) {
    if (finished(op.finished, b)) std::fill_n(out.row(b), out.cols, 0.0f);
  }
  write(op.out, out);
}

void PlanInterpreter::apply(const CrossAttentionOp& op) {
  const std::vector<int32_t> offsets = read_ints(op.offsets);
  const std::vector<int32_t> lengths = lengths_of(offsets);
  const Matrix q = read(op.q), k = keys_values(op.k, op.k_scales), v = keys_values(op.v, op.v_scales);
  if (*std::max_element(lengths.begin(), lengths.end()) > op.max_source)
    throw Error(fmt::format("{}: max_source {} is below a source's length", where(), op.max_source));
  const auto sources = static_cast<int64_t>(lengths.size());
  const std::vector<int32_t> queries = even_offsets(sources, static_cast<int>(q.rows / sources));
  Matrix out = attention({.q = q,
                          .query_offsets = queries,
                          .k = k,
                          .v = v,
                          .key_offsets = offsets,
                          .mask = {AttentionMask::Kind::kCross, lengths.data()},
                          .heads = op.heads,
                          .scale = plan_.config.attention_scale,
                          .bias = {}});
  for (int64_t b = 0; b < out.rows; ++b) {
    if (finished(op.finished, b)) std::fill_n(out.row(b), out.cols, 0.0f);
  }
  write(op.out, out);
}

void PlanInterpreter::apply(const HeadOp& op) {
  const Matrix x = product_input(op.x, op.x_scales, op.norm, {}, op.weight);
  logits_ = head(x, in_fp32(op.weight), op.scale);
  take_best(logits_, op.state, op.best);
}

void PlanInterpreter::apply(const SelectOp& op) {
  logits_ = with_bias(read(op.logits), op.bias);
  take_best(logits_, op.state, op.best);
}

void PlanInterpreter::take_best(const Matrix& logits, const TokenState& state,
                                const std::optional<RankBest>& best) {
  const std::vector<int32_t> ids = arg_max(logits);
  if (!best) return choose(ids, state);
  for (int64_t r = 0; r < logits.rows; ++r) {
    const int32_t id = ids[static_cast<size_t>(r)];
    write_int(best->candidates, 0, r, std::bit_cast<int32_t>(logits.row(r)[id]));
    write_int(best->candidates, 1, r, static_cast<int32_t>(best->first_id) + id);
  }
}

void PlanInterpreter::apply(const PickOp& op) {
  const int64_t degree = op.candidates.rows / 2;
  Matrix scores(op.candidates.cols, degree);
  for (int64_t r = 0; r < scores.rows; ++r) {
    for (int64_t rank = 0; rank < degree; ++rank)
      scores.row(r)[rank] = std::bit_cast<float>(read_int(op.candidates, 2 * rank, r));
  }
  std::vector<int32_t> ids = arg_max(scores);  // ranks' ids rise: of equal scores the lowest id
  for (int64_t r = 0; r < scores.rows; ++r)
    ids[static_cast<size_t>(r)] = read_int(op.candidates, 2 * ids[static_cast<size_t>(r)] + 1, r);
  choose(ids, op.state);
}

Matrix PlanInterpreter::with_bias(Matrix logits, const TensorView& bias) const {
  if (bias.empty()) return logits;
  const MatrixView b(in_fp32(bias));
  for (int64_t r = 0; r < logits.rows; ++r) {
    for (int64_t c = 0; c < logits.cols; ++c) logits.row(r)[c] += b.data[c];
  }
  return logits;
}

void PlanInterpreter::choose(const std::vector<int32_t>& best, const TokenState& state) {
  const bool ends = !state.finished.empty();
  const std::span<const int32_t> eos(&plan_.config.eos_id, ends ? 1 : 0);
  const int position = read_int(state.position, 0, 0);
  int32_t running = 0;
  for (int64_t b = 0; b < static_cast<int64_t>(best.size()); ++b) {
    const NextToken next = next_token(best[static_cast<size_t>(b)], finished(state.finished, b),
                                      {.eos_ids = eos, .pad_id = plan_.config.pad_id});
    if (ends) write_int(state.finished, 0, b, next.ended ? 1 : 0);
    running += ends && !next.ended ? 1 : 0;
    write_int(state.next_ids, 0, b, next.id);
    if (position < state.tokens.cols) write_int(state.tokens, b, position, next.id);
  }
  write_int(state.position, 0, 0, position + 1);
  if (!state.running.empty()) write_int(state.running, 0, 0, running);
}

}  // namespace tandem::reference
