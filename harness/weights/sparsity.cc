#include "harness/weights/sparsity.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "harness/base/text.h"

namespace tandem {

SparsitySpec parse_sparsity(std::string_view text) {
  SparsitySpec spec;
  if (text == "dense") return spec;
  auto fail = [&] { not_allowed("sparsity", text, kSparsityAllowed); };
  for (const std::string_view part : split_text(text, '+')) {
    if (part == "2:4") {
      if (spec.two_of_four) fail();
      spec.two_of_four = true;
      continue;
    }
    double* target = nullptr;
    std::string_view number;
    const std::pair<std::string_view, double*> kinds[] = {{"unstructured", &spec.unstructured},
                                                          {"threshold", &spec.threshold},
                                                          {"heads", &spec.heads},
                                                          {"ffn", &spec.ffn},
                                                          {"layers", &spec.layers}};
    for (const auto& [name, field] : kinds) {
      if (const auto value = option_value(part, name)) {
        target = field;
        number = *value;
      }
    }
    if (target == nullptr || *target != 0) fail();
    const auto fraction = parse_number<double>(number);
    const bool allowed =
        fraction && *fraction > 0 && (target == &spec.threshold ? std::isfinite(*fraction) : *fraction < 1);
    if (!allowed) fail();
    *target = *fraction;
  }
  if ((spec.two_of_four ? 1 : 0) + (spec.unstructured != 0 ? 1 : 0) + (spec.threshold != 0 ? 1 : 0) > 1)
    fail();
  return spec;
}

std::string sparsity_text(const SparsitySpec& spec) {
  if (spec.dense()) return "dense";
  std::vector<std::string> parts;
  if (spec.two_of_four) parts.emplace_back("2:4");
  if (spec.unstructured != 0) parts.push_back(fmt::format("unstructured:{}", spec.unstructured));
  if (spec.threshold != 0) parts.push_back(fmt::format("threshold:{}", spec.threshold));
  if (spec.heads != 0) parts.push_back(fmt::format("heads:{}", spec.heads));
  if (spec.ffn != 0) parts.push_back(fmt::format("ffn:{}", spec.ffn));
  if (spec.layers != 0) parts.push_back(fmt::format("layers:{}", spec.layers));
  return fmt::format("{}", fmt::join(parts, "+"));
}

int removed_units(double fraction, int count) {
  return static_cast<int>(std::lround(fraction * count));
}

int64_t removed_weights(double fraction, int64_t count) {
  return static_cast<int64_t>(std::floor(fraction * static_cast<double>(count)));
}

}  // namespace tandem
