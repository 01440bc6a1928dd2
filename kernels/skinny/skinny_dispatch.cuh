// The kernels of one element type or format of weights, by config. skinny_plan.cc lists the same ones (kShapes).
#pragma once

#include <type_traits>

#include "kernels/skinny/row/row_kernel.cuh"
#include "kernels/skinny/skinny_kernels.h"
#include "kernels/skinny/tiled/codes_core.cuh"
#include "kernels/skinny/tiled/dot_kernel.cuh"
#include "kernels/skinny/tiled/mma_kernel.cuh"

namespace tandem::kernels {

template <class Core>
SkinnyKernel pick_dot(bool head) {
  return head ? &skinny_dot_kernel<Core, true> : &skinny_dot_kernel<Core, false>;
}
template <class Core>
SkinnyKernel pick_mma(bool head) {
  return head ? &skinny_mma_kernel<Core, true> : &skinny_mma_kernel<Core, false>;
}

template <class Format, int kSets>
SkinnyKernel find_row(bool head, bool norm) {
  if (!head) {
    return norm ? &skinny_row_kernel<Format, kSets, true, false>
                : &skinny_row_kernel<Format, kSets, false, false>;
  }
  if constexpr (Format::kHasHead) {
    return norm ? &skinny_row_kernel<Format, kSets, true, true>
                : &skinny_row_kernel<Format, kSets, false, true>;
  }
  return nullptr;
}

template <typename T>
SkinnyKernel find_dot(int rows, int batch, bool head) {
  switch (10 * rows + batch) {
    case 11:
      if constexpr (std::is_same_v<T, float>)
        return head ? nullptr : &skinny_dot_kernel<DotCore<T, 1, 1>, false>;
      return nullptr;
    case 21:
      return pick_dot<DotCore<T, 1, 2>>(head);
    case 22:
      return pick_dot<DotCore<T, 2, 2>>(head);
    case 24:
      return pick_dot<DotCore<T, 4, 2>>(head);
    case 28:
      if constexpr (std::is_same_v<T, float>) return pick_dot<DotCore<T, 8, 2>>(head);
      return nullptr;
    default:
      return nullptr;
  }
}

template <typename T>
SkinnyKernel find_mma(int rows, int batch, bool head) {
  switch (100 * rows + batch) {
    case 808:
      return head ? nullptr : &skinny_mma_kernel<MmaCore<T, 8, 8>, false>;
    case 816:
      return head ? nullptr : &skinny_mma_kernel<MmaCore<T, 8, 16>, false>;
    case 1608:
      return pick_mma<MmaCore<T, 16, 8>>(head);
    case 1616:
      return pick_mma<MmaCore<T, 16, 16>>(head);
    case 1632:
      return pick_mma<MmaCore<T, 16, 32>>(head);
    case 1664:
      return head ? nullptr : &skinny_mma_kernel<MmaCore<T, 16, 64>, false>;
    case 3232:
      return head ? nullptr : &skinny_mma_kernel<MmaCore<T, 32, 32>, false>;
    case 3264:
      return pick_mma<MmaCore<T, 32, 64>>(head);
    default:
      return nullptr;
  }
}

template <typename T>
SkinnyKernel find_kernel(const SkinnyConfig& config, bool head, bool norm) {
  if (config.kind == SkinnyConfig::Kind::kDot) return find_dot<T>(config.rows, config.batch, head);
  if constexpr (sizeof(T) == 2) {
    if (config.kind == SkinnyConfig::Kind::kRow) return find_row<PlainFormat<T>, 1>(head, norm);
  }
  if constexpr (sizeof(T) == 2) return find_mma<T>(config.rows, config.batch, head);
  return nullptr;
}

/// The same of a format of codes: fewer shapes.
template <class Format>
SkinnyKernel find_codes_mma(int rows, int batch, bool head) {
  const auto mma = [&]<int kRows, int kBatch>() -> SkinnyKernel {
    if (!head) return &skinny_mma_kernel<CodesCore<Format, kRows, kBatch>, false>;
    if constexpr (Format::kHasHead) return &skinny_mma_kernel<CodesCore<Format, kRows, kBatch>, true>;
    return nullptr;
  };
  switch (100 * rows + batch) {
    case 808:
      return head ? nullptr : &skinny_mma_kernel<CodesCore<Format, 8, 8>, false>;
    case 1608:
      return mma.template operator()<16, 8>();
    case 1616:
      return mma.template operator()<16, 16>();
    case 1632:
      return mma.template operator()<16, 32>();
    case 1664:
      return head ? nullptr : &skinny_mma_kernel<CodesCore<Format, 16, 64>, false>;
    case 3264:
      if constexpr (Format::kGroupScales)
        return nullptr;  // the registers do not hold it
      else
        return mma.template operator()<32, 64>();
    default:
      return nullptr;
  }
}

/// The kernels of a format of codes. Several rows that are quantised come as codes, to wide kernels.
template <class Format>
SkinnyKernel find_format(const SkinnyConfig& config, bool head, bool norm) {
  if (config.kind == SkinnyConfig::Kind::kRow) {
    return config.rows == 2 ? find_row<Format, 1>(head, norm)
                            : find_row<Format, row_sets(Format::kElements)>(head, norm);
  }
  if constexpr (!Format::kQuantises) {
    if (config.kind == SkinnyConfig::Kind::kMma)
      return find_codes_mma<Format>(config.rows, config.batch, head);
  }
  return nullptr;
}

/// The kernels of weights of which only some are stored. No head is.
template <class Format>
SkinnyKernel find_sparse(const SkinnyConfig& config, bool norm) {
  if (config.kind != SkinnyConfig::Kind::kRow) return nullptr;
  if constexpr (!Format::kBitmap) {
    if (config.rows > 2) return find_row<Format, row_sets(Format::kElements)>(false, norm);
  }
  return find_row<Format, 1>(false, norm);
}

}  // namespace tandem::kernels
