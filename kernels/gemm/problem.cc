#include "kernels/gemm/problem.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem::kernels {
namespace {

constexpr std::array<std::string_view, 6> kEpilogues = {"none",      "bias",      "relu",
                                                        "bias_relu", "gelu_tanh", "bias_gelu_tanh"};
constexpr int kMaxAlignment = 16;
/// cuBLASLt's scales a row and column of fp8 products exist on this compute capability alone (documentation of
/// cublasLtMatmulMatrixScale_t, cuBLAS 12.9 to 13.1).
constexpr int kOuterScalesCapability = 90;

std::vector<DType> outputs_of(DType x) {
  switch (x) {
    case DType::kF32:
      return {DType::kF32};
    case DType::kF16:
    case DType::kBF16:
      return {x, DType::kF32};
    case DType::kF8:
      return {DType::kBF16, DType::kF32};
    case DType::kI8:
      return {DType::kI32};
    default:
      return {};
  }
}

[[noreturn]] void refuse(const GemmProblem& p, std::string_view what) {
  throw UsageError(fmt::format("product {}: {}", problem_text(p), what));
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (DType t : {DType::kF32, DType::kF16, DType::kBF16, DType::kI32, DType::kI8, DType::kU8, DType::kF8}) {
    if (dtype_name(t) == name) return t;
  }
  return std::nullopt;
}

/// "k1024" with prefix "k": 1024.
std::optional<int64_t> number_after(std::string_view word, std::string_view prefix) {
  if (!word.starts_with(prefix) || word.size() == prefix.size()) return std::nullopt;
  int64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data() + prefix.size(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

}  // namespace

std::string_view epilogue_name(GemmEpilogue epilogue) {
  return kEpilogues.at(static_cast<size_t>(epilogue));
}

GemmEpilogue parse_epilogue(std::string_view name) {
  for (size_t i = 0; i < kEpilogues.size(); ++i) {
    if (kEpilogues[i] == name) return static_cast<GemmEpilogue>(i);
  }
  throw UsageError(fmt::format("epilogue '{}': allowed are {}", name, fmt::join(kEpilogues, ", ")));
}

std::string library_lacks(DType x, int compute_capability) {
  if (x != DType::kF8 || compute_capability == kOuterScalesCapability) return {};
  return fmt::format(
      "precision: fp8 needs compute capability 9.0, where alone cuBLASLt scales rows; the card has {}.{}",
      compute_capability / 10, compute_capability % 10);
}

void check(const GemmProblem& p) {
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  for (int64_t size : {p.m, p.n, p.k}) {
    if (size < 1 || size > kMax) refuse(p, "m, n and k must be in 1 .. 2147483647");
  }
  const std::vector<DType> outputs = outputs_of(p.x);
  if (outputs.empty()) refuse(p, "x must be f32, f16, bf16, f8 or i8");
  if (p.w != p.x) {
    refuse(p, fmt::format("w is {1}, allowed with x of {0}: {0}", dtype_name(p.x), dtype_name(p.w)));
  }
  if (std::ranges::find(outputs, p.out) == outputs.end()) {
    std::vector<std::string_view> names;
    for (DType t : outputs) names.push_back(dtype_name(t));
    refuse(p, fmt::format("`out` must be {}", fmt::join(names, " or ")));
  }
  if (p.two_of_four) {
    const bool types = (p.x == DType::kF16 || p.x == DType::kBF16) && p.out == p.x;
    if (!types) refuse(p, "2:4 needs x and `out` of f16 or of bf16");
    if (!structured_takes(p.m, p.n, p.k) || !structured_takes(8, p.y_stride(), p.x_stride()))
      refuse(p, "with 2:4 n, k and strides must be multiples of 16, m of 8");
    if (p.epilogue == GemmEpilogue::kGeluTanh || p.epilogue == GemmEpilogue::kBiasGeluTanh)
      refuse(p, "2:4 goes with epilogue none, bias, relu or bias_relu");
    if (p.alignment != kMaxAlignment) refuse(p, "alignment must be 16 with 2:4");
  }
  if (p.tf32 && p.x != DType::kF32) refuse(p, "tf32 needs f32 storage");
  if (!library_fuses(p.x, p.epilogue, p.residual)) {
    refuse(p, p.x == DType::kI8
                  ? "8-bit integers go with epilogue none and without residual only"
                  : "a residual goes with epilogue none or bias only (the library would activate it too)");
  }
  if (p.ldx != 0 && (p.ldx < p.k || p.ldx > kMax)) refuse(p, "ldx must be 0 or at least k");
  if (p.ldy != 0 && (p.ldy < p.n || p.ldy > kMax)) refuse(p, "ldy must be 0 or at least n");
  const bool power_of_two = p.alignment > 0 && (p.alignment & (p.alignment - 1)) == 0;
  if (!power_of_two || p.alignment > kMaxAlignment || p.alignment < dtype_bytes(p.x)) {
    refuse(p, "alignment must be a power of two from the element size up to 16 bytes");
  }
  if (dtype_bytes(p.x) > 1) return;
  if (p.alignment != kMaxAlignment) refuse(p, "alignment must be 16 with 8-bit operands");
  if (!library_takes(p.x, p.out, p.n, p.k) || !library_takes(p.x, p.out, p.y_stride(), p.x_stride())) {
    refuse(p, fmt::format("with 8-bit operands k and ldx must be multiples of 16, n and ldy of {}",
                          kMaxAlignment / dtype_bytes(p.out)));
  }
}

std::string problem_text(const GemmProblem& p) {
  std::string text = fmt::format("m{} n{} k{} {}", p.m, p.n, p.k, dtype_name(p.x));
  if (p.w != p.x) text += fmt::format("*{}", dtype_name(p.w));
  if (p.two_of_four) text += "*2:4";
  text += fmt::format("-{}", dtype_name(p.out));
  if (p.tf32) text += " tf32";
  text += fmt::format(" {}", epilogue_name(p.epilogue));
  if (p.residual) text += " residual";
  if (p.x_stride() != p.k) text += fmt::format(" ldx{}", p.ldx);
  if (p.y_stride() != p.n) text += fmt::format(" ldy{}", p.ldy);
  if (p.alignment != kMaxAlignment) text += fmt::format(" align{}", p.alignment);
  return text;
}

GemmProblem parse_problem(std::string_view text) {
  const auto bad = [&](std::string_view word) -> UsageError {
    return UsageError(
        fmt::format("product '{}': cannot read '{}'; expected the form 'm64 n3072 k1024 bf16-bf16 [tf32] "
                    "EPILOGUE [residual] [ldxN] [ldyN] [alignN]'",
                    text, word));
  };
  std::vector<std::string> words;
  std::istringstream stream{std::string(text)};
  for (std::string word; stream >> word;) words.push_back(word);
  if (words.size() < 5) throw bad(text);

  GemmProblem p;
  const std::array<std::pair<std::string_view, int64_t*>, 3> sizes = {
      {{"m", &p.m}, {"n", &p.n}, {"k", &p.k}}};
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto value = number_after(words[i], sizes[i].first);
    if (!value) throw bad(words[i]);
    *sizes[i].second = *value;
  }
  const size_t dash = words[3].find('-');
  const std::string operands = words[3].substr(0, dash);
  const size_t star = operands.find('*');
  const auto x = parse_dtype(operands.substr(0, star));
  const std::string other = star == std::string::npos ? "" : operands.substr(star + 1);
  p.two_of_four = other == "2:4";
  const auto w = star == std::string::npos || p.two_of_four ? x : parse_dtype(other);
  const auto out = dash == std::string::npos ? std::nullopt : parse_dtype(words[3].substr(dash + 1));
  if (!x || !w || !out) throw bad(words[3]);
  p.x = *x;
  p.w = *w;
  p.out = *out;
  size_t next = 4;
  if (words[next] == "tf32") {
    p.tf32 = true;
    ++next;
  }
  if (next == words.size()) throw bad(text);
  p.epilogue = parse_epilogue(words[next++]);
  for (; next < words.size(); ++next) {
    const std::string& word = words[next];
    if (word == "residual") {
      p.residual = true;
    } else if (auto ldx = number_after(word, "ldx")) {
      p.ldx = *ldx;
    } else if (auto ldy = number_after(word, "ldy")) {
      p.ldy = *ldy;
    } else if (auto align = number_after(word, "align")) {
      p.alignment = static_cast<int>(*align);
    } else {
      throw bad(word);
    }
  }
  check(p);
  return p;
}

int pointer_alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p) | kMaxAlignment;
  return static_cast<int>(address & (~address + 1));
}

}  // namespace tandem::kernels

size_t std::hash<tandem::kernels::GemmProblem>::operator()(
    const tandem::kernels::GemmProblem& p) const noexcept {
  uint64_t h = 0xcbf29ce484222325ull;
  const auto mix = [&h](uint64_t v) { h = (h ^ v) * 0x100000001b3ull ^ (h >> 29); };
  for (int64_t v : {p.m, p.n, p.k, p.ldx, p.ldy, static_cast<int64_t>(p.alignment)})
    mix(static_cast<uint64_t>(v));
  mix(static_cast<uint64_t>(p.x) | static_cast<uint64_t>(p.out) << 8 |
      static_cast<uint64_t>(p.epilogue) << 16 | static_cast<uint64_t>(p.tf32) << 24 |
      static_cast<uint64_t>(p.residual) << 25 | static_cast<uint64_t>(p.two_of_four) << 26 |
      static_cast<uint64_t>(p.w) << 32);
  return static_cast<size_t>(h);
}
