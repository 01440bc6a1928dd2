#include "harness/engine/planted.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "harness/base/error.h"

// Both are defined for this file alone, so that such a build differs from a plain one in as little as it can.
#ifndef TANDEM_PLANT_DELAY_PERCENT
#define TANDEM_PLANT_DELAY_PERCENT 0
#endif
#ifndef TANDEM_PLANT_PADDING_BYTES
#define TANDEM_PLANT_PADDING_BYTES 0
#endif

#define TANDEM_TEXT_OF(x) #x
#define TANDEM_TEXT(x) TANDEM_TEXT_OF(x)
asm(".text\n\t.skip " TANDEM_TEXT(TANDEM_PLANT_PADDING_BYTES) ", 0");

namespace tandem {

double planted_delay_percent() {
  return TANDEM_PLANT_DELAY_PERCENT;
}

int64_t planted_padding_bytes() {
  return TANDEM_PLANT_PADDING_BYTES;
}

int64_t planted_first_bytes() {
  const char* text = std::getenv("TANDEM_ALLOCATE_FIRST");
  if (text == nullptr) return 0;
  constexpr int64_t kMost = int64_t{1} << 30;
  int64_t bytes = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, bytes);
  if (error != std::errc() || stop != end || bytes < 0 || bytes > kMost) {
    throw UsageError(
        fmt::format("TANDEM_ALLOCATE_FIRST: '{}' is not allowed; bytes from 0 to {}", text, kMost));
  }
  return bytes;
}

}  // namespace tandem
