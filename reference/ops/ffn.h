// Activations and the feed-forward network.
#pragma once

#include "harness/model/config.h"
#include "harness/weights/weights.h"
#include "reference/ops/matrix.h"
#include "reference/ops/quantise.h"

namespace tandem::reference {

/// relu, gelu (with erf), gelu_tanh (Hendrycks and Gimpel's approximation; transformers' gelu_new), silu (x
/// sigmoid(x)), tanh or sigmoid of one number.
double activate(Activation activation, double x);

/// x [tokens, d_model] -> [tokens, d_model].
/// FFN(x) = act(x W1 + b1) W2 + b2 (Vaswani et al. 2017, section 3.3), or gated
/// FFN(x) = (act(x Wgate) * (x Wup)) Wdown (Shazeer 2020): the activation is on the gate, not on `up`.
Matrix feed_forward(MatrixView x, const FfnWeight& w, Activation activation, const Numerics& numerics = {});

}  // namespace tandem::reference
