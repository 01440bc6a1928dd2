// How a card stores what masks removed: without its zeros where kernels are proven to compute with that and gain by it.
#pragma once

#include <span>
#include <string>

#include "harness/weights/form.h"
#include "harness/weights/storage.h"

namespace tandem::kernels {

/// Kernels of one sparse storage, for products of so many rows.
struct SparseKernels {
  bool bitmap = false;  ///< else 2:4
  int bits = 16;        ///< of a stored value
  int first_row = 1, last_row = 0;
  const char* kernel = "";
  bool proven = false;   ///< right on a card, and not slower there than the dense product
  const char* why = "";  ///< the run that says so, or what is missing
};

/// One line of kernels. What a card has shown changes here, and nowhere else.
std::span<const SparseKernels> sparse_kernels_proven();

/// The form as it is stored on a card: sparse where all kernels of that storage are proven, since weights are stored once for all
/// rows; otherwise with zeros, and dense kernels compute with them.
WeightForm card_form(WeightForm form);
WeightForm card_form(WeightForm form, std::span<const SparseKernels> proven);
/// Why `form` is stored with zeros: "zeros stored: ..."; empty where it is not, or removes nothing by masks.
std::string zeros_reason(const WeightForm& form);
std::string zeros_reason(const WeightForm& form, std::span<const SparseKernels> proven);

}  // namespace tandem::kernels
