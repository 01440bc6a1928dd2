#include "harness/weights/form.h"

#include <fmt/format.h>

#include "harness/base/error.h"

namespace tandem {
namespace {

bool quantised(Precision precision) {
  return precision == Precision::kFp8 || precision == Precision::kInt8 || precision == Precision::kW8a16 ||
         precision == Precision::kW4a16;
}

}  // namespace

bool lossy(const WeightForm& form) {
  return quantised(form.precision) || !form.sparsity.dense();
}

bool quantises_activations(const WeightForm& form) {
  return form.precision == Precision::kFp8 || form.precision == Precision::kInt8;
}

void check_made(const WeightForm& form) {
  if (!form.sparsity.dense() && form.calibration != Calibration::kNone) {
    throw ImpossibleCase(
        fmt::format("calibration: for dense weights only, not sparsity '{}'", sparsity_text(form.sparsity)));
  }
  const bool fits = form.calibration == Calibration::kNone ||
                    (form.calibration == Calibration::kSmoothQuant
                         ? quantises_activations(form)
                         : quantised(form.precision) && !quantises_activations(form));
  if (!fits) {
    throw ImpossibleCase(fmt::format(
        "calibration: smoothquant is for fp8 and int8, awq for w8a16 and w4a16; not '{}'", form_text(form)));
  }
}

std::string form_text(const WeightForm& form) {
  std::string text(precision_name(form.precision));
  if (!form.sparsity.dense()) text += fmt::format(" {}", sparsity_text(form.sparsity));
  if (form.calibration == Calibration::kSmoothQuant) text += " smoothquant";
  if (form.calibration == Calibration::kAwq) text += " awq";
  if (form.head == HeadStorage::k16Bit) text += " 16-bit head";
  if (form.slice.degree != 1) text += fmt::format(" slice {}/{}", form.slice.rank, form.slice.degree);
  if (form.zeros_stored) text += " with zeros";
  if (form.plain) text += fmt::format(" as {}", dtype_name(*form.plain));
  return text;
}

}  // namespace tandem
