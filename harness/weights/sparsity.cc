#include "harness/weights/sparsity.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "harness/base/axis_text.h"

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
    if (!fraction || !(*fraction > 0 && *fraction < 1)) fail();
    *target = *fraction;
  }
  if (spec.two_of_four && spec.unstructured != 0) fail();
  return spec;
}

std::string sparsity_text(const SparsitySpec& spec) {
  if (spec.dense()) return "dense";
  std::vector<std::string> parts;
  if (spec.two_of_four) parts.emplace_back("2:4");
  if (spec.unstructured != 0) parts.push_back(fmt::format("unstructured:{}", spec.unstructured));
  if (spec.heads != 0) parts.push_back(fmt::format("heads:{}", spec.heads));
  if (spec.ffn != 0) parts.push_back(fmt::format("ffn:{}", spec.ffn));
  if (spec.layers != 0) parts.push_back(fmt::format("layers:{}", spec.layers));
  return fmt::format("{}", fmt::join(parts, "+"));
}

}  // namespace tandem
