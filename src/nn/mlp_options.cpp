// SPDX-License-Identifier: MIT
#include "nn/mlp_options.h"

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

}  // namespace diffuse
