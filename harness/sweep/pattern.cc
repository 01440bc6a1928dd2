#include "harness/sweep/pattern.h"

#include <fmt/format.h>

#include <array>

#include "harness/base/error.h"

namespace tandem {

Pattern::Pattern(const std::string& expression) {
  const int error = ::regcomp(&compiled_, expression.c_str(), REG_EXTENDED | REG_NOSUB);
  if (error == 0) return;
  std::array<char, 200> why{};
  ::regerror(error, &compiled_, why.data(), why.size());
  throw UsageError(fmt::format("'{}' is not a regular expression: {}", expression, why.data()));
}

}  // namespace tandem
