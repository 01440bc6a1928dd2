// Decode attention for one type of element: the kernel and its instance that serve a launch.
#pragma once

#include "kernels/attention/decode/decode_pairs.cuh"
#include "kernels/attention/decode/decode_split.cuh"

namespace tandem::kernels::decode {

template <typename S>
void launch_instance(const DecodeArgs& a, const DecodeLaunch& how) {
  if (a.grid.log2_workers == 0) return launch_pairs<S>(a, how);
  return launch_split<S>(a, how);
}

template <typename T, typename Elements, bool Self>
void launch_typed(const DecodeArgs& a, const DecodeLaunch& how) {
  switch (a.head_dim) {
    case 32:
      return launch_instance<Shape<T, Elements, 1, true, Self>>(a, how);
    case 64:
      return launch_instance<Shape<T, Elements, 2, true, Self>>(a, how);
    case 128:
      return launch_instance<Shape<T, Elements, 4, true, Self>>(a, how);
    default:
      return launch_instance<Shape<T, Elements, 4, false, Self>>(a, how);
  }
}

template <typename T, typename Elements>
void launch_elements(bool self, const DecodeArgs& a, const DecodeLaunch& how) {
  return self ? launch_typed<T, Elements, true>(a, how) : launch_typed<T, Elements, false>(a, how);
}

}  // namespace tandem::kernels::decode
