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
  f(class_conditional, "class_conditional", "learn one embedding for each class")
      .also_called({"class_cond", "conditional", "num_class_embeds", "num_classes"});
  f(zero_init, "zero_init", "start each layer's last matrix at zero");
}

std::vector<std::string> MlpOptions::problems(int64_t image_channels,
                                              int64_t height,
                                              int64_t width) const {
  std::vector<std::string> out;
  if (image_channels < 1) out.push_back("data.channels must be at least 1");
  if (height != 1 || width != 1)
    out.push_back("model.type mlp is for points (data.source: points), not for pictures of " +
                  std::to_string(height) + " x " + std::to_string(width) +
                  "; use model.type: unet");
  if (hidden % 2 != 0)
    out.push_back("model.hidden must be even for the time embedding, got " +
                  std::to_string(hidden) + "; nearest: " + std::to_string(hidden - 1) + " or " +
                  std::to_string(hidden + 1));
  return out;
}

}  // namespace diffuse
