// SPDX-License-Identifier: MIT
#include "nn/model.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace diffuse {
namespace {

/// [2, kLevelFeatures] float32 on the host: frequencies N(0, 1) and phases U(0, 1), the same in
/// every model; the first feature is constant.
const at::Tensor& fourier_features() {
  static const at::Tensor features = [] {
    std::vector<float> frequency, phase;
    for (int64_t i = 0; i < kLevelFeatures; ++i) {
      const Stream stream{0, Purpose::init, 1, static_cast<uint64_t>(i)};
      frequency.push_back(i == 0 ? 0 : random_normal4(stream, 0)[0]);
      phase.push_back(i == 0 ? 0 : static_cast<float>(random_uniform(stream, 2)));
    }
    return at::stack({at::tensor(frequency, at::kFloat), at::tensor(phase, at::kFloat)});
  }();
  return features;
}

}  // namespace

std::function<void(ParamLayout&)> Model::head(bool wanted) {
  return [this, wanted](ParamLayout& layout) {
    if (wanted) head_ = layout.add("level_weight.weight", {kLevelFeatures}, Init::constant(0));
  };
}

Model::Model(const UNetOptions& options,
             int64_t in_channels,
             int64_t out_channels,
             int64_t height,
             int64_t width,
             int64_t num_classes,
             bool learned_weight,
             bool fused)
    : network_(std::in_place_type<UNet>,
               options,
               in_channels,
               out_channels,
               height,
               width,
               num_classes,
               fused,
               head(learned_weight)) {}

Model::Model(const MlpOptions& options,
             int64_t in_channels,
             int64_t out_channels,
             int64_t num_classes,
             bool learned_weight)
    : network_(std::in_place_type<Mlp>,
               options,
               in_channels,
               out_channels,
               num_classes,
               head(learned_weight)) {}

const ParamLayout& Model::layout() const {
  return std::visit([](const auto& network) -> const ParamLayout& { return network.layout(); },
                    network_);
}

int64_t Model::num_classes() const {
  return std::visit([](const auto& network) { return network.num_classes(); }, network_);
}

at::Tensor Model::forward(const Weights& weights,
                          const at::Tensor& x,
                          const at::Tensor& t,
                          const at::Tensor& labels,
                          const StepKey* dropout,
                          bool bf16) const {
  return std::visit(
      [&](const auto& network) { return network.forward(weights, x, t, labels, dropout, bf16); },
      network_);
}

Weights Model::rounded(const Weights& weights) const {
  const UNet* const unet = std::get_if<UNet>(&network_);
  return unet != nullptr ? unet->rounded(weights) : weights;
}

bool Model::fused() const {
  const UNet* const unet = std::get_if<UNet>(&network_);
  return unet != nullptr && unet->fused();
}

at::Tensor Model::level_weight(const Weights& weights, const at::Tensor& logsnr) const {
  DIFFUSE_CHECK(has_level_weight());
  const at::Tensor& weight = weights[static_cast<size_t>(head_)];
  const at::Tensor features = fourier_features().to(weight.device());
  // ln(sigma / alpha) / 4; a step without signal has no finite one
  const at::Tensor noise = at::mul(at::clamp(logsnr, -40, 40), -0.125).unsqueeze(1);
  const at::Tensor angle =
      at::mul(at::add(at::mul(noise, features[0]), features[1]), 2 * std::numbers::pi);
  const at::Tensor cosines = at::mul(at::cos(angle), std::numbers::sqrt2);
  return at::mv(cosines, at::div(weight, std::sqrt(static_cast<double>(kLevelFeatures))));
}

}  // namespace diffuse
