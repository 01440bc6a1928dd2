// The values of axis `sparsity`: what is removed from a dense model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

/// `sparsity` axis: what is removed from the dense model. "dense", or parts joined by "+", each at most once:
/// "2:4", "unstructured:R", "threshold:T", "heads:R", "ffn:R", "layers:R"; R is the fraction removed, 0 < R < 1.
struct SparsitySpec {
  bool two_of_four = false;
  double unstructured = 0;  ///< of the weights of each matrix; not together with 2:4 or a threshold
  double threshold = 0;     ///< weights with a smaller magnitude go; not together with 2:4
  double heads = 0;         ///< of the attention heads of each layer
  double ffn = 0;           ///< of the inner dimension of each FFN
  double layers = 0;        ///< of the layers of each side

  bool dense() const { return *this == SparsitySpec{}; }
  /// Are single weights removed by their magnitude, anywhere in a matrix?
  bool by_magnitude() const { return unstructured != 0 || threshold != 0; }
  /// Do matrices keep their size and lose weights?
  bool masks() const { return two_of_four || by_magnitude(); }
  /// Is the model smaller, so that it is another configuration?
  bool structured() const { return heads != 0 || ffn != 0 || layers != 0; }
  bool operator==(const SparsitySpec&) const = default;
};
/// Throws UsageError naming the allowed forms.
SparsitySpec parse_sparsity(std::string_view text);
/// Canonical: parts in the order above, fractions in their shortest form.
std::string sparsity_text(const SparsitySpec& spec);

/// Heads, columns or layers that go of `count`: the nearest integer.
int removed_units(double fraction, int count);
/// Weights that go of `count`: never more than the fraction.
int64_t removed_weights(double fraction, int64_t count);

/// How messages and --help state the grammar.
inline constexpr std::string_view kSparsityAllowed =
    "dense, or 2:4, unstructured:R, threshold:T, heads:R, ffn:R, layers:R joined by '+' (0 < R < 1, the "
    "fraction "
    "removed; T > 0, smaller magnitudes go; one of 2:4, unstructured and threshold)";

}  // namespace tandem
