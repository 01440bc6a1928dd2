#include "harness/weights/pruning/remembered.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/sha256.h"

namespace tandem {
namespace {

/// Calls `word` with every number of a decision, in one order for writing and for reading. How many there are, and of which list,
/// follows from the form without the values (expected_pruning).
template <typename Word>
void each_word(Pruning& p, Word&& word) {
  const auto list = [&](std::vector<int>& v) {
    for (int& i : v) word(i);
  };
  for (KeptStack* side : {&p.kept.encoder, &p.kept.decoder}) {
    list(side->layers);
    for (auto* lists : {&side->self_heads, &side->cross_heads, &side->ffn}) {
      for (std::vector<int>& of_layer : *lists) list(of_layer);
    }
  }
  for (auto& [name, m] : p.matrices) {
    word(m.cut.threshold);
    word(m.cut.last_tie);
    word(m.size);
    word(m.kept);
    for (uint32_t& row : m.row_kept) word(row);
  }
}

size_t words_of(Pruning p) {
  size_t count = 0;
  each_word(p, [&](auto&) { ++count; });
  return count;
}

/// The tensors of the dense model and what a part of it is: decisions of another model are others.
std::string key_of(const std::string& content, const ModelConfig& config, const WeightForm& form) {
  Sha256 hash;
  for (const TensorSpec& t : weight_layout(config).tensors) {
    hash.update(fmt::format("{} {}x{} {} {}\n", t.whole.name, t.whole.rows, t.whole.cols, t.whole.base,
                            t.whole.exponent));
  }
  return fmt::format("pruning {} {} {}/{} {} {}", content, sparsity_text(form.sparsity), form.slice.rank,
                     form.slice.degree, config.head_dim, hash.hex());
}

}  // namespace

Pruning remembered_pruning(Level1Cache* cache, const std::string& content, const WeightSource& source,
                           const ModelConfig& config, const WeightForm& form, const MatrixPruner& matrices) {
  Pruning decided = expected_pruning(config, form);
  decided.expected = false;
  const size_t count = words_of(decided);
  if (cache == nullptr || count == 0) return prune(source, config, form, matrices);
  std::optional<Pruning> mine;
  const auto bytes = static_cast<int64_t>(count * sizeof(int64_t));
  try {
    const Level1Object object = cache->get(
        key_of(content.empty() ? source.key() : content, config, form), bytes, [&](std::span<std::byte> out) {
          mine = prune(source, config, form, matrices);
          if (words_of(*mine) != count) throw Error("pruning: a decision of another size than its form's");
          size_t at = 0;
          each_word(*mine, [&](auto& v) {
            const auto word = static_cast<int64_t>(v);
            std::memcpy(out.data() + sizeof(word) * at++, &word, sizeof(word));
          });
        });
    if (mine) return std::move(*mine);
    size_t at = 0;
    each_word(decided, [&](auto& v) {
      int64_t word = 0;
      std::memcpy(&word, static_cast<const std::byte*>(object.data()) + sizeof(word) * at++, sizeof(word));
      v = static_cast<std::remove_reference_t<decltype(v)>>(word);
    });
    return decided;
  } catch (const OutOfMemory&) {
    if (mine) return std::move(*mine);
    return prune(source, config, form, matrices);
  }
}

}  // namespace tandem
