#include "kernels/plan/card_form.h"

#include <fmt/format.h>

#include <limits>

#include "harness/base/precision.h"
#include "kernels/skinny/skinny_shape.h"

namespace tandem::kernels {
namespace {

constexpr int kAny = std::numeric_limits<int>::max();

// H200, 2026-11-29 and 30: kernels/PERFORMANCE.md has the figures.
constexpr SparseKernels kTable[] = {
    {.bitmap = false,
     .last_row = 1,
     .kernel = "own row kernel (mma.sp)",
     .proven = false,
     .why = "right, and not timed"},
    {.bitmap = false,
     .first_row = 2,
     .last_row = kSkinnyMaxRows,
     .kernel = "own wide kernel (wgmma.sp)",
     .proven = false,
     .why = "right, and not timed"},
    {.bitmap = false,
     .first_row = kSkinnyMaxRows + 1,
     .last_row = kAny,
     .kernel = "cuSPARSELt, or the library on the unpacked matrix",
     .proven = false,
     .why = "right, and not timed"},
    {.bitmap = true,
     .last_row = 1,
     .kernel = "own row kernel",
     .proven = false,
     .why = "right, and not faster than the dense product"},
    {.bitmap = true,
     .first_row = 2,
     .last_row = kBitmapMaxRows,
     .kernel = "own wide kernel",
     .proven = false,
     .why = "right, and not timed"},
    {.bitmap = true,
     .first_row = kBitmapMaxRows + 1,
     .last_row = kAny,
     .kernel = "library on the unpacked matrix",
     .proven = false,
     .why = "right, and not timed"},
    {.bitmap = false, .bits = 8, .last_row = kAny, .kernel = "none", .proven = false, .why = "not built"},
    {.bitmap = true, .bits = 8, .last_row = kAny, .kernel = "none", .proven = false, .why = "not built"},
};

}  // namespace

std::span<const SparseKernels> sparse_kernels_proven() {
  return kTable;
}

std::string zeros_reason(const WeightForm& form, std::span<const SparseKernels> proven) {
  if (!form.sparsity.masks()) return {};
  const int bits = dtype_bits(weight_dtype(form.precision));
  const char* const pattern = form.sparsity.two_of_four ? "2:4" : "a bitmap";
  bool any = false;
  for (const SparseKernels& k : proven) {
    const bool same_bits = k.bits == bits || (k.bits == 8 && bits < 16);
    if (k.bitmap == form.sparsity.two_of_four || !same_bits) continue;
    any = true;
    if (k.proven) continue;
    const std::string rows = k.last_row == k.first_row ? fmt::format("{} row", k.first_row)
                             : k.last_row == kAny      ? fmt::format("{} rows and more", k.first_row)
                                                  : fmt::format("{} to {} rows", k.first_row, k.last_row);
    return fmt::format("zeros stored: {} of {} bits at {}: {}: {}", pattern, bits, rows, k.kernel, k.why);
  }
  return any ? std::string() : fmt::format("zeros stored: {} of {} bits has no kernel", pattern, bits);
}

std::string zeros_reason(const WeightForm& form) {
  return zeros_reason(form, kTable);
}

WeightForm card_form(WeightForm form, std::span<const SparseKernels> proven) {
  form.zeros_stored = !zeros_reason(form, proven).empty();
  return form;
}

WeightForm card_form(WeightForm form) {
  return card_form(form, kTable);
}

}  // namespace tandem::kernels
