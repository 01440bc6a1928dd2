#include "harness/weights/storage.h"

#include "harness/base/host_device.h"

namespace tandem {

int64_t Storage::scales_per_row(int64_t cols) const {
  if (scale_group == 0) return 0;
  return scale_group == kWholeRow ? 1 : ceil_div(cols, scale_group);
}

Storage storage_of(const WeightForm& form, TensorUse use) {
  if (form.plain) return {.dtype = *form.plain};
  Storage storage{.dtype = activation_dtype(form.precision)};
  const bool narrow =
      use == TensorUse::kProduct || (use == TensorUse::kHead && form.head == HeadStorage::kSame);
  if (narrow) {
    storage.dtype = use == TensorUse::kHead ? head_dtype(form.precision) : weight_dtype(form.precision);
    if (storage.dtype == DType::kI4) {
      storage.scale_group = kInt4Group;
      storage.scale_dtype = DType::kBF16;
    } else if (dtype_bits(storage.dtype) == 8) {
      storage.scale_group = Storage::kWholeRow;
    }
  }
  storage.two_of_four = use == TensorUse::kProduct && form.sparsity.two_of_four && !form.zeros_stored;
  return storage;
}

Storage own_storage(WeightForm form, TensorUse use) {
  form.plain.reset();
  return storage_of(form, use);
}

}  // namespace tandem
