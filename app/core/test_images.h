// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "core/model.h"
#include "data/dataset.h"
#include "diffusion/objective.h"

namespace diffuse {

/// Pictures that a network is judged by.
struct TestImages {
  at::Tensor x0;             // [n, channels, height, width] float32 on the host, in [-1, 1]
  at::Tensor labels;         // [n] int64 on the host; undefined without classes
  uint64_t fingerprint = 0;  // of the pixels, in order

  /// The network for images first ... first + n - 1, with their labels.
  Network bind(const Model& network, const Weights& weights, int64_t first, int64_t n) const;
};

/// The first `count` of the pictures `indices` of `data` that can be used, neither mirrored nor
/// cropped at random. `with_labels`: the model has classes.
TestImages load_test_images(const Dataset& data,
                            const DataOptions& options,
                            const std::vector<int64_t>& indices,
                            int64_t count,
                            bool with_labels);

/// `count` points of the distribution `options.points` that no training sees: of a seed of their
/// own.
TestImages load_test_points(const DataOptions& options, int64_t count);

/// Bits of a value of the data for the bound's decoder: 8 for pictures, 0 (continuous) for points.
int64_t data_bits(const DataOptions& options);

/// The bound's terms of every picture.
struct BoundTable {
  at::Tensor prior;  // [n] float64: L_T in bits a dimension
  // [n, 1 + parts]: column 0 is t = 0, each other column a part of the steps t >= 1.
  at::Tensor steps;               // int64: t
  at::Tensor bits, clipped_bits;  // float64, likelihood/bound.h
  at::Tensor mse_x0, mse_eps;
  at::Tensor weight;  // float64: steps that each stands for

  /// [n] each, in bits a dimension.
  at::Tensor rest(bool clipped) const;  // sum of L_{t-1} over t >= 1, or its estimate
  at::Tensor decoder(bool clipped) const;
  at::Tensor total(bool clipped) const;
};

struct BoundRequest {
  const Objective& objective;
  const Model& network;
  const Weights& weights;
  const TestImages& images;
  int64_t parts = 1;  // at most T - 1: then all terms, each once
  int64_t batch = 1;
  uint64_t seed = 0;
  std::function<void(int64_t done, int64_t total)> progress;  // in network evaluations of a picture
};

BoundTable bound_table(const BoundRequest& request);

/// Mean and standard error; the latter is NaN for a single value.
struct Mean {
  double mean = 0;
  double error = 0;
};
Mean mean_of(const at::Tensor& values);

}  // namespace diffuse
