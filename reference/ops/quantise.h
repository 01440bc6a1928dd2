// What of the activations is held in fewer bits: the rows that a product quantises, and the K/V cache. Values are quantised
// and read back at once, so that everything else goes on in fp32.
#pragma once

#include <functional>

#include "harness/base/tensor.h"
#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"

namespace tandem {
class Communicator;
}

namespace tandem::reference {

/// What happens to activations on their way into products, into the K/V cache and between ranks.
struct Numerics {
  DType kv = DType::
      kF32;  ///< keys and values of the decoder: kF8 or kI8, one scale a head and token; kF32: as they are
  /// Rows that go into a product, keys and values are rounded to bf16 first, as an engine that keeps its activations in
  /// bf16 does. Shows how much such rounding changes a result.
  bool bf16_inputs = false;
  /// Sees the rows of every product and its matrix before the product.
  std::function<void(MatrixView x, const DenseWeight& w)> observe = {};
  /// The ranks that the model is laid over: the weights are this rank's (TensorSlice) and the config its rank_config(). Null:
  /// the model is whole.
  Communicator* ranks = nullptr;
  /// Of a whole model: rows of the products that end a sublayer are quantised in so many parts of equal width, as a model
  /// over so many ranks does it. A rank does not know the other ranks' largest values; the finer scales cost no accuracy.
  int input_parts = 1;
};

/// Each row of x as kF8 or kI8 codes with one scale, times that scale (harness/weights/values/quantise.h). Throws Error for
/// another type.
Matrix quantised_rows(MatrixView x, DType type);

/// The same with one scale for each head_dim values of a row: what a K/V cache of 8 bits gives back for x
/// [tokens, heads * head_dim]. Throws Error where head_dim does not divide the columns.
Matrix quantised_heads(MatrixView x, DType type, int head_dim);

/// Each value rounded to bf16.
Matrix bf16_values(MatrixView x);

/// Keys or values [tokens, heads * head_dim] as the decoder's attention reads them.
Matrix kept(Matrix x, const Numerics& numerics, int head_dim);

}  // namespace tandem::reference
