// In which form a model's weights are held: what an axis of precision, sparsity or tensor parallelism makes of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "harness/base/precision.h"
#include "harness/weights/sparsity.h"

namespace tandem {

/// What scales and masks are chosen by, beside the weights themselves.
enum class Calibration : uint8_t { kNone, kSmoothQuant, kAwq };

/// How the vocabulary head is stored: as the precision has it, or in the 16 bits of its activations.
enum class HeadStorage : uint8_t { kSame, k16Bit };

/// The part of a model that one rank of a tensor-parallel group holds.
struct TensorSlice {
  int degree = 1;
  int rank = 0;  ///< 0 .. degree - 1
  bool operator==(const TensorSlice&) const = default;
};

struct WeightForm {
  Precision precision = Precision::kFp32;  ///< the grid that values lie on
  SparsitySpec sparsity = {};
  Calibration calibration = Calibration::kNone;
  HeadStorage head = HeadStorage::kSame;
  TensorSlice slice = {};
  /// Every tensor is stored as plain values of this type; the values are the form's all the same. kF32 is what the
  /// reference computes with, whatever the form.
  std::optional<DType> plain = {};
  /// What masks remove (2:4, unstructured, threshold) is stored too, as zeros: for kernels that know no sparse storage.
  bool zeros_stored = false;

  /// The same values in fp32.
  WeightForm in_fp32() const {
    WeightForm form = *this;
    form.plain = DType::kF32;
    return form;
  }
  bool operator==(const WeightForm&) const = default;
};

/// Do the values differ from the dense model's by more than rounding to a floating-point type?
bool lossy(const WeightForm& form);
/// Are activations quantised too, so that the values of the weights alone do not say what is computed?
bool quantises_activations(const WeightForm& form);
/// Throws ImpossibleCase naming the axis for a calibration that the precision does not have, or one of pruned weights.
void check_made(const WeightForm& form);
/// "bf16", "fp8 2:4 slice 1/4 as f32": for messages and keys of caches. Equal for equal forms alone.
std::string form_text(const WeightForm& form);

}  // namespace tandem
