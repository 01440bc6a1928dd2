// The smaller model that whole parts leave.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <vector>

#include "harness/base/error.h"
#include "harness/weights/layout.h"

namespace tandem {
namespace {

/// Throws UsageError unless the lists are of `layers` layers, of one length each, rising and within [0, whole).
void check_lists(std::string_view what, const std::vector<std::vector<int>>& lists, int layers, int whole) {
  if (lists.empty()) return;
  const auto refuse = [&](std::string_view why) { throw UsageError(fmt::format("kept {}: {}", what, why)); };
  if (static_cast<int>(lists.size()) != layers)
    refuse(fmt::format("{} lists for {} layers", lists.size(), layers));
  for (const std::vector<int>& list : lists) {
    if (list.empty() || list.size() != lists.front().size())
      refuse("lists of several lengths, or empty ones");
    if (list.front() < 0 || list.back() >= whole || !std::ranges::is_sorted(list, std::less_equal<>()))
      refuse(fmt::format("indices must rise within [0, {})", whole));
  }
}

StackConfig kept_stack(std::string_view side, const StackConfig& whole, const KeptStack& kept) {
  StackConfig stack = whole;
  if (!kept.layers.empty()) {
    check_lists(fmt::format("{}.layers", side), {kept.layers}, 1, whole.layers);
    stack.layers = static_cast<int>(kept.layers.size());
  }
  check_lists(fmt::format("{}.self_heads", side), kept.self_heads, stack.layers, whole.heads);
  check_lists(fmt::format("{}.cross_heads", side), kept.cross_heads, stack.layers, whole.heads);
  check_lists(fmt::format("{}.ffn", side), kept.ffn, stack.layers, whole.d_ff);
  if (!kept.self_heads.empty()) stack.heads = static_cast<int>(kept.self_heads.front().size());
  if (!kept.ffn.empty()) stack.d_ff = static_cast<int>(kept.ffn.front().size());
  return stack;
}

}  // namespace

ModelConfig kept_config(const ModelConfig& whole, const Kept& kept) {
  ModelConfig config = whole;
  config.encoder = kept_stack("encoder", whole.encoder, kept.encoder);
  config.decoder = kept_stack("decoder", whole.decoder, kept.decoder);
  if (kept.decoder.cross_heads.empty() != kept.decoder.self_heads.empty() ||
      (!kept.decoder.cross_heads.empty() &&
       kept.decoder.cross_heads.front().size() != kept.decoder.self_heads.front().size())) {
    throw UsageError("kept decoder.cross_heads: must be as many as decoder.self_heads");
  }
  return config;
}

}  // namespace tandem
