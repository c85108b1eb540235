// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace diffuse {

/// How the initial values of a parameter are drawn.
struct Init {
  enum class Kind { constant, uniform, normal };
  Kind kind = Kind::constant;
  double value =
      0.0;  // the constant; the bound of a uniform around 0; the standard deviation of a normal

  static Init constant(double value) { return {Kind::constant, value}; }
  static Init uniform(double bound) { return {Kind::uniform, bound}; }
  static Init normal(double deviation) { return {Kind::normal, deviation}; }
};

/// One parameter tensor and its place in a flat buffer.
struct ParamInfo {
  std::string name;            // as in diffusers' state_dict
  std::vector<int64_t> shape;  // row-major
  int64_t size = 0;            // elements
  int64_t offset = 0;          // elements from the start of the flat buffer
  bool decay = false;          // weight matrices and kernels; not norms and biases
  Init init;
};

/// The tensors of a network in the order of their registration.
using Weights = std::vector<at::Tensor>;

/// Where each parameter lies in a flat buffer. Every tensor starts at a multiple of 16 elements (a
/// cache line of float32) and what lies between is padding that stays zero; the decayed tensors
/// come first. So AdamW, clipping and EMA are a few operations over flat storage, and any buffer of
/// this layout (weights, EMA, moments) can be the network's weights.
class ParamLayout {
 public:
  /// Registers a parameter; returns its number. Matrices and kernels (two and more dimensions) are
  /// decayed.
  int64_t add(std::string name, std::vector<int64_t> shape, Init init);
  /// Gives every parameter its offset; nothing can be added afterwards.
  void finalize();

  const std::vector<ParamInfo>& infos() const { return infos_; }  // in the order of registration
  int64_t flat_size() const { return flat_size_; }                // with padding
  int64_t decay_end() const { return decay_end_; }  // [0, decay_end) is the decayed part
  int64_t count() const;                            // real parameters, without padding

  /// The tensors of a flat buffer of this layout, as views (no copy).
  Weights views(const at::Tensor& flat) const;

  /// A flat float32 CPU buffer of initial values: parameter number i draws from Stream{seed,
  /// Purpose::init, 0, i}, so the values depend on nothing else.
  at::Tensor initial(uint64_t seed) const;

 private:
  std::vector<ParamInfo> infos_;
  int64_t flat_size_ = 0;
  int64_t decay_end_ = 0;
};

/// Trainable weights: a flat buffer, its gradient, and the leaf tensors that are views of both.
/// backward() accumulates in place into grad(); zero it with grad().zero_().
class Params {
 public:
  /// `flat` is a contiguous 1-D buffer of the layout, on the device to train on; it is kept, not
  /// copied.
  Params(const ParamLayout& layout, at::Tensor flat);

  const at::Tensor& flat() const { return flat_; }
  const at::Tensor& grad() const { return grad_; }
  const Weights& weights() const { return weights_; }  // leaves that require a gradient

 private:
  at::Tensor flat_;
  at::Tensor grad_;
  Weights weights_;
};

}  // namespace diffuse
