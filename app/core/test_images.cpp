// SPDX-License-Identifier: MIT
#include "core/test_images.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "data/points.h"
#include "likelihood/bound.h"

namespace diffuse {

TestImages load_test_images(const Dataset& data,
                            const DataOptions& options,
                            const std::vector<int64_t>& indices,
                            int64_t count,
                            bool with_labels) {
  const int64_t channels = options.channels, height = options.height(), width = options.width();
  std::vector<uint8_t> image(static_cast<size_t>(height * width * channels)), pixels;
  std::vector<int64_t> labels;
  for (const int64_t index : indices) {
    if (static_cast<int64_t>(labels.size()) == count) break;
    if (!data.fetch(index, false, 0.5, 0.5, image.data())) continue;
    pixels.insert(pixels.end(), image.begin(), image.end());
    labels.push_back(data.label(index));
  }
  if (labels.empty())
    throw Error(Exit::data,
                "no picture in " + options.path + " can be used; " + list_skipped(data.bad()));
  const at::Tensor bytes =
      at::tensor(at::ArrayRef<uint8_t>(pixels), at::kByte)
          .view({static_cast<int64_t>(labels.size()), height, width, channels});
  return {.x0 = bytes.permute({0, 3, 1, 2}).contiguous().to(at::kFloat).div_(127.5).sub_(1),
          .labels = with_labels ? at::tensor(labels, at::kLong) : at::Tensor(),
          .fingerprint = hash_of(pixels)};
}

TestImages load_test_points(const DataOptions& options, int64_t count) {
  constexpr uint64_t kSeed = 0x7E57'0000'0000'0000;  // of no run by chance
  std::vector<float> values;
  for (const Point& point : sample_points(*options.points(), kSeed, 0, count)) {
    values.push_back(static_cast<float>(point.x));
    values.push_back(static_cast<float>(point.y));
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
  return {
      .x0 = at::tensor(values, at::kFloat).view({count, 2, 1, 1}),
      .labels = {},
      .fingerprint = hash_of(std::vector<uint8_t>(bytes, bytes + values.size() * sizeof(float)))};
}

int64_t data_bits(const DataOptions& options) { return options.are_points() ? 0 : 8; }

Network TestImages::bind(const Model& network,
                         const Weights& weights,
                         int64_t first,
                         int64_t n) const {
  const at::Device device = weights.front().device();
  return bind_network(
      network, weights, labels.defined() ? labels.narrow(0, first, n).to(device) : labels);
}

at::Tensor BoundTable::rest(bool clipped) const {
  const at::Tensor& all = clipped ? clipped_bits : bits;
  return all.mul(weight).narrow(1, 1, all.size(1) - 1).sum(1);
}

at::Tensor BoundTable::decoder(bool clipped) const {
  return (clipped ? clipped_bits : bits).select(1, 0);
}

at::Tensor BoundTable::total(bool clipped) const {
  return prior.add(rest(clipped)).add(decoder(clipped));
}

BoundTable bound_table(const BoundRequest& request) {
  const Chain& chain = request.objective.process().chain();
  const at::Tensor& all = request.images.x0;
  const int64_t n = all.size(0);
  const int64_t parts = std::min(request.parts, chain.steps() - 1);
  const at::TensorOptions float64 = at::TensorOptions(at::kDouble);
  BoundTable out{.prior = prior_bits(chain, all),
                 .steps = at::zeros({n, 1 + parts}, at::kLong),
                 .bits = at::empty({n, 1 + parts}, float64),
                 .clipped_bits = at::empty({n, 1 + parts}, float64),
                 .mse_x0 = at::empty({n, 1 + parts}, float64),
                 .mse_eps = at::empty({n, 1 + parts}, float64),
                 .weight = at::ones({n, 1 + parts}, float64)};
  const at::Device device = request.weights.front().device();
  for (int64_t first = 0; first < n; first += request.batch) {
    const int64_t size = std::min(request.batch, n - first);
    const at::Tensor x0 = all.narrow(0, first, size).to(device);
    const Network network = request.images.bind(request.network, request.weights, first, size);
    for (int64_t column = 0; column <= parts; ++column) {
      const DrawnSteps steps =
          column == 0 ? DrawnSteps{.t = std::vector<int64_t>(static_cast<size_t>(size), 0),
                                   .weight = std::vector<double>(static_cast<size_t>(size), 1)}
                      : draw_steps(chain, parts, column - 1, first, size, request.seed);
      const BoundTerms terms =
          bound_terms(request.objective, network, x0, steps.t, first, request.seed);
      const auto put = [&](const at::Tensor& table, const at::Tensor& values) {
        table.select(1, column).narrow(0, first, size).copy_(values);
      };
      put(out.steps, at::tensor(steps.t, at::kLong));
      put(out.weight, at::tensor(steps.weight, at::kDouble));
      put(out.bits, terms.bits);
      put(out.clipped_bits, terms.clipped_bits);
      put(out.mse_x0, terms.mse_x0);
      put(out.mse_eps, terms.mse_eps);
      if (request.progress)
        request.progress(first * (parts + 1) + (column + 1) * size, n * (parts + 1));
    }
  }
  return out;
}

Mean mean_of(const at::Tensor& values) {
  const auto n = static_cast<double>(values.numel());
  const at::Tensor exact = values.to(at::kDouble);
  return {.mean = exact.mean().item<double>(),
          .error = n > 1 ? exact.std(/*unbiased=*/true).item<double>() / std::sqrt(n)
                         : std::numeric_limits<double>::quiet_NaN()};
}

}  // namespace diffuse
