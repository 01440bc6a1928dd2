// What the host and the device share: the mark of such functions, and the division that sizes and maps are made of.
#pragma once

#include <type_traits>

// Functions that run on the host and, when nvcc compiles them, on the device too.
#if defined(__CUDACC__)
#define TANDEM_HD __host__ __device__
#else
#define TANDEM_HD
#endif

namespace tandem {

/// a / b rounded up, for a >= 0 and b > 0 with a + b - 1 in the range of their common type.
template <typename A, typename B>
TANDEM_HD constexpr std::common_type_t<A, B> ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

/// The least multiple of `multiple` that is not less than n; as ceil_div.
template <typename A, typename B>
TANDEM_HD constexpr std::common_type_t<A, B> round_up(A n, B multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace tandem
