// SPDX-License-Identifier: MIT
#include "nn/mlp_options.h"

#include <algorithm>

namespace diffuse {

void MlpOptions::fields(Fields& f) {
  f(hidden, "hidden", "width of the layers and of the time embedding")
      .at_least(2)
      .at_most(16384)
      .also_called({"hidden_size", "hidden_dim", "width", "dim"});
  f(layers, "layers", "residual layers")
      .at_least(1)
      .at_most(256)
      .also_called({"num_layers", "depth", "hidden_layers", "n_layers"});
  f(fourier_octaves,
    "fourier_octaves",
    "sines and cosines of each coordinate that the first layer sees beside it, in octaves from "
    "period 2 down")
      .at_least(0)
      .at_most(16)
      .also_called({"fourier_features", "num_frequencies", "octaves"});
  f(dropout, "dropout", "dropout in the residual layers")
      .at_least(0)
      .below(1)
      .also_called({"drop", "dropout_rate"});
  f(zero_init, "zero_init", "start each layer's last matrix at zero");
}

std::vector<std::string> MlpOptions::problems() const {
  if (hidden % 2 == 0) return {};
  return {"mlp.hidden must be even for the time embedding, got " + std::to_string(hidden) +
          "; nearest: " + std::to_string(hidden - 1) + " or " + std::to_string(hidden + 1)};
}

NetworkCost MlpOptions::cost(int64_t in_channels, int64_t out_channels, int64_t num_classes) const {
  NetworkCost sum;
  // A layer's input is kept, and what the activation before it read.
  const auto linear = [&](int64_t in, int64_t out) {
    sum.parameters += (in + 1) * out;
    sum.macs += in * out;
    sum.kept += 2 * in;
    sum.widest = std::max({sum.widest, in, out});
  };
  linear(in_channels * (1 + 2 * fourier_octaves), hidden);
  for (int i = 0; i < 2; ++i) linear(hidden, hidden);
  sum.parameters += num_classes * hidden;
  for (int64_t i = 0; i < layers; ++i)
    for (int k = 0; k < 3; ++k) linear(hidden, hidden);
  linear(hidden, out_channels);
  return sum;
}

}  // namespace diffuse
