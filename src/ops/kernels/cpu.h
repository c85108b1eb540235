// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.h"

// Kernels of the CPU, compiled once for each instruction set (cpu_body.cpp); the best that the
// processor has is chosen when the program runs. They work on one piece of a tensor each: whoever
// calls them splits the work among threads.

namespace diffuse::kernels {

/// bfloat16: the upper half of a float32.
struct Bf16 {
  uint16_t bits;
};

/// The layer act(scale * norm(x + added) + shift) * mask of one picture, where norm is GroupNorm
/// (Wu & He 2018, eq. 1-6) with weight and bias and act is SiLU or nothing. Feature maps are
/// [pixels, channels]: channels last. What is null is not there. A call covers the channels
/// [first, last), whole groups of group_channels each.
struct NormShape {
  int64_t pixels = 0;
  int64_t channels = 0;
  int64_t group_channels = 0;
  int64_t first = 0, last = 0;
};

struct NormParameters {
  const float* weight = nullptr;  // [channels], as all that follow
  const float* bias = nullptr;
  const float* added = nullptr;
  const float* scale = nullptr;  // less 1
  const float* shift = nullptr;
  bool silu = false;
  // Bit e % 8 of byte e / 8 says whether element e = channel * pixels + pixel is kept.
  const uint8_t* kept = nullptr;
  float keep_value = 1;  // what is kept is multiplied by
};

/// Kernels for feature maps of type T: float or Bf16.
template <class T>
struct NormKernels {
  /// mean and rstd: [channels / group_channels], written.
  void (*forward)(const NormShape& shape,
                  const NormParameters& p,
                  double eps,
                  const T* x,
                  T* y,
                  float* mean,
                  float* rstd);
  /// dx = gradient of x, plus `more` where that is not null (the gradient by another way); it may
  /// be `more` itself. scratch: [pixels, last - first] floats. Written, all [channels]: of_scaled =
  /// sum over pixels of the gradient of scale * norm + shift, with_norm = the sum of its product
  /// with the normalised x, d_added (may be null).
  void (*backward)(const NormShape& shape,
                   const NormParameters& p,
                   const T* x,
                   const T* dy,
                   const T* more,
                   const float* mean,
                   const float* rstd,
                   T* dx,
                   float* scratch,
                   float* with_norm,
                   float* of_scaled,
                   float* d_added);
};

/// softmax(q k^T / sqrt(head)) v of one picture and one head (Vaswani et al. 2017, eq. 1). Rows of
/// q, k and v and their gradients, one a token, hold `head` values and are `stride` apart; those of
/// out, `out_stride`.
struct AttentionShape {
  int64_t tokens = 0;
  int64_t head = 0;
  int64_t stride = 0;
  int64_t out_stride = 0;
};

template <class T>
struct AttentionKernels {
  /// lse: [tokens], written: the logarithm of each row's sum of exponentials. scratch: see
  /// attention_scratch().
  void (*forward)(const AttentionShape& shape,
                  const T* q,
                  const T* k,
                  const T* v,
                  T* out,
                  float* lse,
                  float* scratch);
  void (*backward)(const AttentionShape& shape,
                   const T* q,
                   const T* k,
                   const T* v,
                   const T* out,
                   const T* d_out,
                   const float* lse,
                   T* dq,
                   T* dk,
                   T* dv,
                   float* scratch);
};

constexpr int64_t kMostLanes = 16;  // of any instruction set's vectors
constexpr int64_t kDims = 8;        // values of a head whose sums are in registers at once

/// Floats of scratch that an AttentionKernels call needs at most: nine copies of its rows, padded
/// to whole vectors and kDims, two weights for each token in the lanes, and two sums.
inline int64_t attention_scratch(const AttentionShape& shape) {
  const int64_t tokens = (shape.tokens + kMostLanes - 1) / kMostLanes * kMostLanes;
  const int64_t head = (shape.head + kDims - 1) / kDims * kDims;
  return tokens * (9 * head + 2 * kMostLanes + 2);
}

/// A convolution with stride 1 and kernel x kernel weights (1 or 3), padding kernel / 2, of
/// channels-last maps [height, width, in]. width is 4 or a multiple of 8; for the gradient of the
/// weights `in` and `out` are multiples of 16.
struct ConvShape {
  int64_t height = 0, width = 0;
  int64_t in = 0, out = 0;
  int64_t kernel = 0;
};

/// The weights from the channels [in, in_end) to [out, out_end), which are multiples of 16.
struct ConvPart {
  int64_t in = 0, in_end = 0;
  int64_t out = 0, out_end = 0;
};

struct ConvKernels {
  int64_t block;  // channels of the result whose weights lie together when packed
  /// Writes part number `part`, of one block and tap, of out [blocks, kernel, kernel, in, block]
  /// from weight [out, kernel, kernel, in]. `backward`: for the gradient of x by forward(), where
  /// the shape's `in` and `out` change places, and weight is [in, kernel, kernel, out].
  void (*pack)(
      const ConvShape& shape, const float* weight, bool backward, int64_t part, float* out);
  /// The rows [first_row, last_row) and the channels of some blocks of y = the convolution of n
  /// pictures, plus bias [out] and added, like y, where not null. No value's order of summation
  /// depends on what else is asked for.
  void (*forward)(const ConvShape& shape,
                  int64_t n,
                  int64_t first_row,
                  int64_t last_row,
                  int64_t first_block,
                  int64_t last_block,
                  const float* packed,
                  const float* bias,
                  const float* added,
                  const float* x,
                  float* y);
  /// Writes a part of the gradient dw [out, kernel, kernel, in] and, where db is not null, the same
  /// outputs of the bias's.
  void (*weights)(const ConvShape& shape,
                  int64_t n,
                  const float* x,
                  const float* dy,
                  const ConvPart& part,
                  float* dw,
                  float* db);
};

/// What an update of AdamW makes of each number: with g = grad_scale * grad,
/// m = beta1 m + rest1 g, v = beta2 v + rest2 g^2, w = shrink w - size m / (root sqrt(v) + eps),
/// and the average moves ema_share of the way to w.
struct AdamwFactors {
  float beta1 = 0, rest1 = 0;
  float beta2 = 0, rest2 = 0;
  float eps = 0;
  float size = 0;
  float root = 0;
  float shrink = 0;
  float grad_scale = 0;
  float ema_share = 0;
};

struct CpuKernels {
  const char* name;  // of the instruction set
  NormKernels<float> norm;
  NormKernels<Bf16> norm_bf16;
  AttentionKernels<float> attention;
  AttentionKernels<Bf16> attention_bf16;
  ConvKernels conv;
  /// Sum of squares of n values.
  double (*sum_of_squares)(const float* x, int64_t n);
  /// half, where not null: the new weights rounded to nearest, ties to even; NaN stays NaN.
  void (*adamw)(const AdamwFactors& f,
                int64_t n,
                const float* grad,
                float* weight,
                float* exp_avg,
                float* exp_avg_sq,
                float* ema,
                Bf16* half);
  /// kept as in NormParameters: bit i of byte b is element i of block first_block + b of the
  /// stream, which is kept when its 16 bits are at least `threshold`.
  void (*dropout_bits)(const Stream& stream,
                       uint32_t first_block,
                       int64_t blocks,
                       uint32_t threshold,
                       uint8_t* kept);
};

/// The tables that this processor can run, the best first.
const std::vector<const CpuKernels*>& cpu_kernel_tables();

/// The best of them.
inline const CpuKernels& cpu_kernels() { return *cpu_kernel_tables().front(); }

}  // namespace diffuse::kernels
