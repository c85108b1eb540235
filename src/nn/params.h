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
  bool half = false;           // read as bfloat16 by a network that computes in it
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
  /// `channels_last`: kernels [out, in, height, width] lie in memory as [out, height, width, in],
  /// which convolutions of channels-last feature maps read as they are.
  explicit ParamLayout(bool channels_last = false) : channels_last_(channels_last) {}

  /// Registers a parameter; returns its number. Matrices and kernels (two and more dimensions) are
  /// decayed.
  int64_t add(std::string name, std::vector<int64_t> shape, Init init, bool half = false);
  /// Gives every parameter its offset; nothing can be added afterwards.
  void finalize();

  const std::vector<ParamInfo>& infos() const { return infos_; }  // in the order of registration
  int64_t flat_size() const { return flat_size_; }                // with padding
  int64_t decay_end() const { return decay_end_; }  // [0, decay_end) is the decayed part
  int64_t count() const;                            // real parameters, without padding

  /// The tensors of a flat buffer of this layout, as views (no copy), of the shapes of infos().
  Weights views(const at::Tensor& flat) const;

  /// The content of a flat buffer with every tensor in row-major order, as files have them: a new
  /// buffer, or `flat` itself where that is its order; and the way back.
  at::Tensor to_row_major(const at::Tensor& flat) const;
  at::Tensor from_row_major(const at::Tensor& flat) const;

  /// A flat float32 CPU buffer of initial values: parameter number i draws from Stream{seed,
  /// Purpose::init, 0, i}, so the values depend on nothing else.
  at::Tensor initial(uint64_t seed) const;

 private:
  /// Views of `flat`; `channels_last`: of kernels in that order.
  Weights views_of(const at::Tensor& flat, bool channels_last) const;

  bool channels_last_;
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

  /// Keeps a copy of flat() in bfloat16, made now. Whoever changes flat() changes it, too.
  void keep_half(const ParamLayout& layout);
  const at::Tensor& half() const { return half_; }  // undefined without keep_half()
  /// What a network that computes in bfloat16 reads without rounding anything: weights(), those
  /// with ParamInfo::half from half(). Their backward() writes all of grad() when `first`, else it
  /// adds; this object must live until then.
  Weights rounded(bool first) const;

 private:
  friend class RoundedFunction;

  at::Tensor flat_;
  at::Tensor grad_;
  at::Tensor half_;
  Weights weights_;
  Weights grads_;      // views of grad_
  Weights rounded_;    // of half_ or flat_
  at::Tensor anchor_;  // requires a gradient, so that what rounded() gives has one
};

}  // namespace diffuse
