// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "ops/kernels/cpu.h"

// The bodies of cpu.h for one instruction set: compiled several times, each time with other flags
// and another DIFFUSE_LEVEL, which is the namespace. Vectors are the compiler's: its own
// vectorisation of loops leaves sums in memory. Nothing here may be inlined elsewhere: what is not
// in the anonymous namespace is the table.

namespace diffuse::kernels::DIFFUSE_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t Int __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Word __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Half __attribute__((vector_size(2 * kLanes)));

// Vectors that are kept in registers side by side, to hide the latency of an addition.
constexpr int64_t kSide = kLanes == 16 ? 4 : 2;
// Pixels whose sums are kept in float32 before they go on in float64.
constexpr int64_t kChunk = 64;

inline Vec splat(float x) { return x - Vec{}; }

/// Copies n of kLanes values of type T; all of them as one instruction.
template <class T>
inline void copy(void* to, const void* from, int64_t n) {
  if (n == kLanes)
    std::memcpy(to, from, sizeof(T) * kLanes);
  else
    std::memcpy(to, from, sizeof(T) * static_cast<size_t>(n));
}

/// `n` of kLanes values; the rest are 0.
inline Vec load(const float* from, int64_t n = kLanes) {
  Vec out{};
  copy<float>(&out, from, n);
  return out;
}

inline Vec load(const Bf16* from, int64_t n = kLanes) {
  Half half{};
  copy<Bf16>(&half, from, n);
  return reinterpret_cast<Vec>(__builtin_convertvector(half, Word) << 16);
}

inline void store(float* to, Vec x, int64_t n = kLanes) { copy<float>(to, &x, n); }

/// To the nearest, ties to even; NaN stays NaN.
inline void store(Bf16* to, Vec x, int64_t n = kLanes) {
  const Word bits = reinterpret_cast<Word>(x);
  const Word rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  const Word kept = (bits & 0x7FFFFFFFu) > 0x7F800000u ? Word{} + 0x7FC00000u : rounded;
  const Half half = __builtin_convertvector(kept >> 16, Half);
  copy<Bf16>(to, &half, n);
}

/// e^x to 2 units in the last place for |x| <= 87; beyond that as at 87. NaN stays NaN.
inline Vec exp_of(Vec x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  x = x > 87.0f ? splat(87.0f) : x;
  // x = k ln 2 + r, |r| <= ln 2 / 2; adding 1.5 2^23 rounds to an integer.
  const Vec shifted = x * 1.44269504f + 12582912.0f;
  const Vec k = shifted - 12582912.0f;
  // ln 2 in two parts: k times the first is exact (Cody & Waite 1980).
  const Vec r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  // Taylor's series to r^7 / 7!: its rest is below 2^-26 of the sum.
  Vec p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // The integer sits in the low bits of `shifted`.
  const Int exponent = reinterpret_cast<Int>(shifted) - 0x4B400000 + 127;
  return p * reinterpret_cast<Vec>(exponent << 23);
}

inline Vec square_root(Vec x) {
  for (int64_t i = 0; i < kLanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp_of(-x)); }

/// Calls body(channel, lanes, std::integral_constant<int, vectors>) over [first, last): blocks of
/// kSide whole vectors, then of two, then of one, then the rest of one.
template <class Body>
inline void for_channels(int64_t first, int64_t last, const Body& body) {
  int64_t c = first;
  for (; c + kSide * kLanes <= last; c += kSide * kLanes)
    body(c, kLanes, std::integral_constant<int64_t, kSide>());
  if constexpr (kSide > 2)
    for (; c + 2 * kLanes <= last; c += 2 * kLanes)
      body(c, kLanes, std::integral_constant<int64_t, 2>());
  for (; c + kLanes <= last; c += kLanes) body(c, kLanes, std::integral_constant<int64_t, 1>());
  // Another type, so that the code above knows that its vectors are whole.
  if (c < last) body(c, last - c, std::integral_constant<int, 1>());
}

/// K vectors of a parameter, `otherwise` where there is none.
template <int64_t K>
struct Side {
  Vec v[K];
  Side(const float* from, int64_t channel, int64_t lanes, float otherwise = 0) {
    for (int64_t k = 0; k < K; ++k)
      v[k] = from == nullptr ? splat(otherwise) : load(from + channel + k * kLanes, lanes);
  }
};

inline void add_to(double* sums, Vec x) {
  for (int64_t i = 0; i < kLanes; ++i) sums[i] += static_cast<double>(x[i]);
}

/// Transposes 8 x 8 bits: bit i of byte j becomes bit j of byte i (Warren 2012, "Hacker's Delight",
/// sec. 7-3).
inline uint64_t transposed(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

/// Which of the channels [channel, channel + n) of each of the pixels [first, first + count) are
/// kept: bit i of out[pixel - first] is channel + i. n <= 64, count <= kChunk.
inline void kept_channels(const NormShape& s,
                          const uint8_t* kept,
                          int64_t channel,
                          int64_t n,
                          int64_t first,
                          int64_t count,
                          uint64_t* out) {
  std::fill_n(out, count, 0);
  if (s.pixels % 8 == 0) {  // then `first` and `count` are multiples of 8 as well
    for (int64_t p = 0; p < count; p += 8) {
      for (int64_t group = 0; group < n; group += 8) {
        uint64_t bytes = 0;
        for (int64_t i = 0; i < 8 && group + i < n; ++i)
          bytes |= static_cast<uint64_t>(kept[((channel + group + i) * s.pixels + first + p) / 8])
                   << (8 * i);
        bytes = transposed(bytes);
        for (int j = 0; j < 8; ++j) out[p + j] |= ((bytes >> (8 * j)) & 0xFF) << group;
      }
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t p = 0; p < count; ++p) {
      const int64_t e = (channel + i) * s.pixels + first + p;
      out[p] |= static_cast<uint64_t>((kept[e / 8] >> (e % 8)) & 1) << i;
    }
  }
}

/// keep_value in the lanes whose bit of `bits` is set, else 0.
inline Vec kept_lanes(uint64_t bits, int64_t vector, float keep_value) {
  Word index;
  for (int64_t i = 0; i < kLanes; ++i) index[i] = static_cast<uint32_t>(i);
  const Word word = Word{} + static_cast<uint32_t>(bits >> (vector * kLanes));
  return ((word >> index) & 1u) != 0u ? splat(keep_value) : Vec{};
}

/// Mean and sum of squares around it of each channel of x, in float64: sums of the differences to
/// the first pixel, in which little cancels.
template <class T>
void channel_moments(const NormShape& s, const T* x, double* mean, double* squares) {
  const auto pixels = static_cast<double>(s.pixels);
  for_channels(s.first, s.last, [&](int64_t c, int64_t lanes, auto vectors) {
    constexpr int64_t K = vectors.value;
    double sum[K * kLanes] = {};
    double square[K * kLanes] = {};
    Vec pivot[K];
    for (int64_t k = 0; k < K; ++k) pivot[k] = load(x + c + k * kLanes, lanes);
    for (int64_t begin = 0; begin < s.pixels; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, s.pixels);
      Vec a[K] = {}, b[K] = {};
      for (int64_t p = begin; p < end; ++p) {
        const T* const row = x + p * s.channels + c;
        for (int64_t k = 0; k < K; ++k) {
          const Vec d = load(row + k * kLanes, lanes) - pivot[k];
          a[k] += d;
          b[k] += d * d;
        }
      }
      for (int64_t k = 0; k < K; ++k) {
        add_to(sum + k * kLanes, a[k]);
        add_to(square + k * kLanes, b[k]);
      }
    }
    for (int64_t i = 0; i < std::min(K * kLanes, s.last - c); ++i) {
      const double shift = sum[i] / pixels;
      mean[c - s.first + i] = static_cast<double>(pivot[i / kLanes][i % kLanes]) + shift;
      squares[c - s.first + i] = std::max(square[i] - sum[i] * shift, 0.0);
    }
  });
}

/// What the layer does to a channel: act(scale (x - center) + offset).
struct Channel {
  float* center;
  float* scale;
  float* offset;
};

void channel_maps(const NormShape& s,
                  const NormParameters& p,
                  const float* mean,
                  const float* rstd,
                  Channel out) {
  for (int64_t c = s.first; c < s.last; ++c) {
    const int64_t i = c - s.first;
    const int64_t group = c / s.group_channels;
    const float factor = p.scale == nullptr ? 1.0f : 1.0f + p.scale[c];
    const float shift = p.shift == nullptr ? 0.0f : p.shift[c];
    out.center[i] = mean[group] - (p.added == nullptr ? 0.0f : p.added[c]);
    out.scale[i] = rstd[group] * p.weight[c] * factor;
    out.offset[i] = p.bias[c] * factor + shift;
  }
}

/// Room for `rows` rows of a number for each channel.
template <class T>
class Rows {
 public:
  Rows(const NormShape& s, int64_t rows)
      : width_(s.last - s.first), values_(static_cast<size_t>(rows * width_)) {}
  T* operator[](int64_t row) { return values_.data() + row * width_; }

 private:
  int64_t width_;
  std::vector<T> values_;
};

template <class T, bool kSilu, bool kDrop>
void apply(const NormShape& s, const NormParameters& p, const Channel& map, const T* x, T* y) {
  for_channels(s.first, s.last, [&](int64_t c, int64_t lanes, auto vectors) {
    constexpr int64_t K = vectors.value;
    const int64_t i = c - s.first;
    const Side<K> center(map.center, i, lanes), scale(map.scale, i, lanes),
        offset(map.offset, i, lanes);
    uint64_t kept[kChunk];
    for (int64_t begin = 0; begin < s.pixels; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, s.pixels);
      if constexpr (kDrop)
        kept_channels(s, p.kept, c, K == 1 ? lanes : K * kLanes, begin, end - begin, kept);
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const int64_t at = pixel * s.channels + c;
        for (int64_t k = 0; k < K; ++k) {
          Vec u = (load(x + at + k * kLanes, lanes) - center.v[k]) * scale.v[k] + offset.v[k];
          if constexpr (kSilu) u *= sigmoid(u);
          if constexpr (kDrop) u *= kept_lanes(kept[pixel - begin], k, p.keep_value);
          store(y + at + k * kLanes, u, lanes);
        }
      }
    }
  });
}

template <class T>
void norm_forward(const NormShape& s,
                  const NormParameters& p,
                  double eps,
                  const T* x,
                  T* y,
                  float* mean,
                  float* rstd) {
  Rows<double> moments(s, 2);
  channel_moments(s, x, moments[0], moments[1]);
  const auto pixels = static_cast<double>(s.pixels);
  for (int64_t c = s.first; c < s.last; c += s.group_channels) {
    double sum = 0, squares = 0;
    for (int64_t i = c; i < c + s.group_channels; ++i) {
      double& m = moments[0][i - s.first];
      if (p.added != nullptr) m += static_cast<double>(p.added[i]);
      sum += m;
    }
    const double center = sum / static_cast<double>(s.group_channels);
    for (int64_t i = c; i < c + s.group_channels; ++i) {
      const double d = moments[0][i - s.first] - center;
      squares += moments[1][i - s.first] + pixels * d * d;
    }
    const double variance = squares / (pixels * static_cast<double>(s.group_channels));
    mean[c / s.group_channels] = static_cast<float>(center);
    rstd[c / s.group_channels] = static_cast<float>(1 / std::sqrt(variance + eps));
  }
  Rows<float> maps(s, 3);
  const Channel map{maps[0], maps[1], maps[2]};
  channel_maps(s, p, mean, rstd, map);
  const auto body = p.silu ? (p.kept ? apply<T, true, true> : apply<T, true, false>)
                           : (p.kept ? apply<T, false, true> : apply<T, false, false>);
  body(s, p, map, x, y);
}

/// Writes du, the gradient before the activation, into [pixels, last - first] and adds up, for each
/// channel, du, du (x - center), and x - center.
template <class T, bool kSilu, bool kDrop>
void backward_sums(const NormShape& s,
                   const NormParameters& p,
                   const Channel& map,
                   const T* x,
                   const T* dy,
                   float* du,
                   double* sum_du,
                   double* sum_du_x,
                   double* sum_x) {
  const int64_t width = s.last - s.first;
  for_channels(s.first, s.last, [&](int64_t c, int64_t lanes, auto vectors) {
    constexpr int64_t K = vectors.value;
    const int64_t i = c - s.first;
    const Side<K> center(map.center, i, lanes), scale(map.scale, i, lanes),
        offset(map.offset, i, lanes);
    double sums[3][K * kLanes] = {};
    uint64_t kept[kChunk];
    for (int64_t begin = 0; begin < s.pixels; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, s.pixels);
      if constexpr (kDrop)
        kept_channels(s, p.kept, c, K == 1 ? lanes : K * kLanes, begin, end - begin, kept);
      Vec total[3][K] = {};
      for (int64_t pixel = begin; pixel < end; ++pixel) {
        const int64_t at = pixel * s.channels + c;
        for (int64_t k = 0; k < K; ++k) {
          const Vec centered = load(x + at + k * kLanes, lanes) - center.v[k];
          Vec d = load(dy + at + k * kLanes, lanes);
          if constexpr (kDrop) d *= kept_lanes(kept[pixel - begin], k, p.keep_value);
          if constexpr (kSilu) {
            // (u sigma(u))' = sigma(u) (1 + u (1 - sigma(u)))
            const Vec u = centered * scale.v[k] + offset.v[k];
            const Vec sigma = sigmoid(u);
            d *= sigma * (1.0f + u * (1.0f - sigma));
          }
          store(du + pixel * width + i + k * kLanes, d, lanes);
          total[0][k] += d;
          total[1][k] += d * centered;
          total[2][k] += centered;
        }
      }
      for (int j = 0; j < 3; ++j)
        for (int64_t k = 0; k < K; ++k) add_to(sums[j] + k * kLanes, total[j][k]);
    }
    const int64_t n = std::min(K * kLanes, s.last - c);
    std::copy_n(sums[0], n, sum_du + i);
    std::copy_n(sums[1], n, sum_du_x + i);
    std::copy_n(sums[2], n, sum_x + i);
  });
}

/// dx = a du + b (x - center) + d + more
template <class T>
void combine(const NormShape& s,
             const float* center,
             const float* a,
             const float* b,
             const float* d,
             const T* x,
             const float* du,
             const T* more,
             T* dx) {
  const int64_t width = s.last - s.first;
  for_channels(s.first, s.last, [&](int64_t c, int64_t lanes, auto vectors) {
    constexpr int64_t K = vectors.value;
    const int64_t i = c - s.first;
    const Side<K> m(center, i, lanes), va(a, i, lanes), vb(b, i, lanes), vd(d, i, lanes);
    for (int64_t pixel = 0; pixel < s.pixels; ++pixel) {
      const int64_t at = pixel * s.channels + c;
      for (int64_t k = 0; k < K; ++k) {
        const Vec centered = load(x + at + k * kLanes, lanes) - m.v[k];
        Vec out = load(du + pixel * width + i + k * kLanes, lanes) * va.v[k] +
                  (centered * vb.v[k] + vd.v[k]);
        if (more != nullptr) out += load(more + at + k * kLanes, lanes);
        store(dx + at + k * kLanes, out, lanes);
      }
    }
  });
}

template <class T>
void norm_backward(const NormShape& s,
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
                   float* d_added) {
  Rows<float> maps(s, 5);
  const Channel map{maps[0], maps[1], maps[2]};
  channel_maps(s, p, mean, rstd, map);
  Rows<double> sums(s, 3);
  const auto body = p.silu
                        ? (p.kept ? backward_sums<T, true, true> : backward_sums<T, true, false>)
                        : (p.kept ? backward_sums<T, false, true> : backward_sums<T, false, false>);
  body(s, p, map, x, dy, scratch, sums[0], sums[1], sums[2]);

  const double share = 1 / static_cast<double>(s.pixels * s.group_channels);
  for (int64_t first = s.first; first < s.last; first += s.group_channels) {
    const double r = static_cast<double>(rstd[first / s.group_channels]);
    // With g = scale du / rstd the gradient of the normalised x: dx = rstd (g - mean(g) - x^ mean(g
    // x^)).
    double rstd_mean_g = 0, mean_gx = 0;
    for (int64_t c = first; c < first + s.group_channels; ++c) {
      const int64_t i = c - s.first;
      rstd_mean_g += static_cast<double>(map.scale[i]) * sums[0][i] * share;
      mean_gx += static_cast<double>(map.scale[i]) * sums[1][i] * share;
    }
    const double slope = -r * r * mean_gx;
    for (int64_t c = first; c < first + s.group_channels; ++c) {
      const int64_t i = c - s.first;
      maps[3][i] = static_cast<float>(slope);
      maps[4][i] = static_cast<float>(-rstd_mean_g);
      with_norm[c] = static_cast<float>(r * sums[1][i]);
      of_scaled[c] = static_cast<float>(sums[0][i]);
      if (d_added != nullptr)
        d_added[c] =
            static_cast<float>(static_cast<double>(map.scale[i]) * sums[0][i] + slope * sums[2][i] -
                               rstd_mean_g * static_cast<double>(s.pixels));
    }
  }
  combine(s, map.center, map.scale, maps[3], maps[4], x, scratch, more, dx);
}

// Attention. One side's tokens (queries or keys) lie in the lanes, so that nothing is added up
// across lanes; the other side's go by one after the other, each value of them in all lanes.

static_assert(kMostLanes % kLanes == 0);  // attention_scratch() counts with it

/// Sizes of the padded copies that the kernels read.
struct Padded {
  int64_t tokens;  // a multiple of kLanes
  int64_t head;    // of kDims

  explicit Padded(const AttentionShape& s)
      : tokens((s.tokens + kLanes - 1) / kLanes * kLanes),
        head((s.head + kDims - 1) / kDims * kDims) {}
};

inline float single(float x) { return x; }
inline float single(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

/// Copies a head: by rows, [tokens, head] padded with zeros, and by columns, [head, tokens].
template <class T>
void gather(const AttentionShape& s, const T* from, int64_t stride, float* rows, float* columns) {
  const Padded p(s);
  if (rows != nullptr) std::fill_n(rows, p.tokens * p.head, 0.0f);
  std::fill_n(columns, p.tokens * p.head, 0.0f);
  for (int64_t i = 0; i < s.tokens; ++i)
    for (int64_t d = 0; d < s.head; ++d) {
      const float value = single(from[i * stride + d]);
      if (rows != nullptr) rows[i * p.head + d] = value;
      columns[d * p.tokens + i] = value;
    }
}

/// out[j] = factor (tokens first ... of `columns`) . (row j of `rows`): [tokens, kLanes].
void products(const AttentionShape& s,
              const float* columns,
              int64_t first,
              const float* rows,
              float factor,
              float* out) {
  const Padded p(s);
  for (int64_t d = 0; d < p.head; d += kDims) {
    Vec lane[kDims];
    for (int64_t k = 0; k < kDims; ++k)
      lane[k] = load(columns + (d + k) * p.tokens + first) * factor;
    for (int64_t j = 0; j < s.tokens; ++j) {
      const float* const row = rows + j * p.head + d;
      Vec a = d == 0 ? Vec{} : load(out + j * kLanes), b{};
      for (int64_t k = 0; k < kDims; k += 2) {
        a += lane[k] * row[k];
        b += lane[k + 1] * row[k + 1];
      }
      store(out + j * kLanes, a + b);
    }
  }
}

/// to[token, d] = scale sum over j of weights[j] rows[j, d], for the tokens first ... in the lanes.
template <class T>
void weighted_sums(const AttentionShape& s,
                   const float* weights,
                   const float* rows,
                   Vec scale,
                   int64_t first,
                   T* to,
                   int64_t stride) {
  const Padded p(s);
  const int64_t tokens = std::min(kLanes, s.tokens - first);
  for (int64_t d = 0; d < p.head; d += kDims) {
    Vec sum[kDims] = {};
    for (int64_t j = 0; j < s.tokens; ++j) {
      const Vec w = load(weights + j * kLanes);
      const float* const row = rows + j * p.head + d;
      for (int64_t k = 0; k < kDims; ++k) sum[k] += w * row[k];
    }
    for (int64_t k = 0; k < std::min(kDims, s.head - d); ++k) {
      T values[kLanes];
      store(values, sum[k] * scale);
      for (int64_t i = 0; i < tokens; ++i) to[(first + i) * stride + d + k] = values[i];
    }
  }
}

template <class T>
void attention_forward(const AttentionShape& s,
                       const T* q,
                       const T* k,
                       const T* v,
                       T* out,
                       float* lse,
                       float* scratch) {
  const Padded p(s);
  const int64_t size = p.tokens * p.head;
  float *const q_columns = scratch, *const k_rows = scratch + size, *const v_rows = k_rows + size,
               *const unused = v_rows + size, *const weights = unused + size;
  gather(s, q, s.stride, nullptr, q_columns);
  gather(s, k, s.stride, k_rows, unused);
  gather(s, v, s.stride, v_rows, unused);
  const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(s.head)));
  for (int64_t first = 0; first < s.tokens; first += kLanes) {
    products(s, q_columns, first, k_rows, factor, weights);
    Vec top = load(weights);
    for (int64_t j = 1; j < s.tokens; ++j) {
      const Vec x = load(weights + j * kLanes);
      top = x > top ? x : top;
    }
    Vec sum{};
    for (int64_t j = 0; j < s.tokens; ++j) {
      const Vec e = exp_of(load(weights + j * kLanes) - top);
      store(weights + j * kLanes, e);
      sum += e;
    }
    weighted_sums(s, weights, v_rows, 1.0f / sum, first, out, s.out_stride);
    for (int64_t i = 0; i < std::min(kLanes, s.tokens - first); ++i)
      lse[first + i] = top[i] + std::log(sum[i]);
  }
}

template <class T>
void attention_backward(const AttentionShape& s,
                        const T* q,
                        const T* k,
                        const T* v,
                        const T* out,
                        const T* d_out,
                        const float* lse,
                        T* dq,
                        T* dk,
                        T* dv,
                        float* scratch) {
  const Padded p(s);
  const int64_t size = p.tokens * p.head;
  float *const q_rows = scratch, *const q_columns = q_rows + size, *const k_rows = q_columns + size,
               *const k_columns = k_rows + size, *const v_rows = k_columns + size,
               *const v_columns = v_rows + size, *const d_rows = v_columns + size,
               *const d_columns = d_rows + size, *const o_columns = d_columns + size,
               *const weights = o_columns + size, *const slopes = weights + p.tokens * kLanes,
               *const level = slopes + p.tokens * kLanes, *const mean = level + p.tokens;
  gather(s, q, s.stride, q_rows, q_columns);
  gather(s, k, s.stride, k_rows, k_columns);
  gather(s, v, s.stride, v_rows, v_columns);
  gather(s, d_out, s.out_stride, d_rows, d_columns);
  gather(s, out, s.out_stride, nullptr, o_columns);
  std::fill_n(level, p.tokens, 0.0f);
  std::copy_n(lse, s.tokens, level);
  const auto factor = static_cast<float>(1 / std::sqrt(static_cast<double>(s.head)));
  // Queries in the lanes: with P the softmax and dP = d_out v^T,
  // dq = factor (P (dP - sum over keys of P dP)) k, and that sum is d_out . out.
  for (int64_t first = 0; first < s.tokens; first += kLanes) {
    products(s, q_columns, first, k_rows, factor, weights);
    products(s, d_columns, first, v_rows, 1, slopes);
    Vec average{};
    for (int64_t d = 0; d < p.head; ++d)
      average += load(d_columns + d * p.tokens + first) * load(o_columns + d * p.tokens + first);
    store(mean + first, average);
    const Vec top = load(level + first);
    for (int64_t j = 0; j < s.tokens; ++j) {
      const Vec e = exp_of(load(weights + j * kLanes) - top);
      store(slopes + j * kLanes, e * (load(slopes + j * kLanes) - average));
    }
    weighted_sums(s, slopes, k_rows, splat(factor), first, dq, s.stride);
  }
  // Keys in the lanes: dv = P^T d_out, dk = factor (...)^T q.
  for (int64_t first = 0; first < s.tokens; first += kLanes) {
    products(s, k_columns, first, q_rows, factor, weights);
    products(s, v_columns, first, d_rows, 1, slopes);
    for (int64_t i = 0; i < s.tokens; ++i) {
      const Vec e = exp_of(load(weights + i * kLanes) - level[i]);
      store(weights + i * kLanes, e);
      store(slopes + i * kLanes, e * (load(slopes + i * kLanes) - mean[i]));
    }
    weighted_sums(s, weights, d_rows, splat(1), first, dv, s.stride);
    weighted_sums(s, slopes, q_rows, splat(factor), first, dk, s.stride);
  }
}

// Convolutions with stride 1 and 1 x 1 or 3 x 3 weights. Sums of eight pixels by kSums vectors of
// channels stay in registers; of the map's zero border nothing is read or multiplied.

constexpr int64_t kSums = kLanes == 16 ? 2 : 1;
constexpr int64_t kConvBlock = kSums * kLanes;  // channels of the result at once

/// out[block][tap][k][lane] is the weight from channel k to channel block * kConvBlock + lane.
void conv_pack(const ConvShape& s, const float* weight, bool backward, int64_t part, float* out) {
  const int64_t taps = s.kernel * s.kernel, first = part / taps * kConvBlock, tap = part % taps;
  const int64_t lanes = std::min(kConvBlock, s.out - first);
  float* to = out + part * s.in * kConvBlock;
  for (int64_t k = 0; k < s.in; ++k, to += kConvBlock) {
    // weight is [out, taps, in]; backward [in, taps, out], and the taps in the opposite order
    const float* const from = backward ? weight + (k * taps + taps - 1 - tap) * s.out + first
                                       : weight + (first * taps + tap) * s.in + k;
    const int64_t step = backward ? 1 : taps * s.in;
    for (int64_t i = 0; i < lanes; ++i) to[i] = from[i * step];
    std::fill(to + lanes, to + kConvBlock, 0.0f);
  }
}

/// Sums of eight pixels, as two times four neighbours.
using ConvSums = Vec[8][kSums];

/// Adds one tap of the pixels whose bits are set in kPixels; a and b are its inputs for the first
/// of each four.
template <unsigned kPixels, int p>
inline __attribute__((always_inline)) void add_pixel(
    ConvSums& sums, const float* a, const float* b, int64_t channels, int64_t k, const Vec* w) {
  if constexpr ((kPixels >> p & 1) != 0) {
    const float x = (p < 4 ? a : b)[(p % 4) * channels + k];
    for (int64_t j = 0; j < kSums; ++j) sums[p][j] += w[j] * x;
  }
}

template <unsigned kPixels>
inline __attribute__((always_inline)) void add_tap(
    ConvSums& sums, const float* a, const float* b, int64_t channels, const float* weight) {
  for (int64_t k = 0; k < channels; ++k) {
    Vec w[kSums];
    for (int64_t j = 0; j < kSums; ++j) w[j] = load(weight + k * kConvBlock + j * kLanes);
    // Not a loop: with sanitizers GCC 12 adds the pixels that a branch in one leaves out.
    [&]<int... p>(std::integer_sequence<int, p...>) __attribute__((always_inline)) {
      (add_pixel<kPixels, p>(sums, a, b, channels, k, w), ...);
    }
    (std::make_integer_sequence<int, 8>());
  }
}

/// Rows of eight pixels, or of four in two pictures.
void conv_forward(const ConvShape& s,
                  int64_t n,
                  int64_t first_row,
                  int64_t last_row,
                  int64_t first_block,
                  int64_t last_block,
                  const float* packed,
                  const float* bias,
                  const float* added,
                  const float* x,
                  float* y) {
  const int64_t taps = s.kernel * s.kernel, border = s.kernel / 2;
  const bool narrow = s.width == 4;
  const int64_t pictures = narrow ? 2 : 1;
  const int64_t row = s.width * s.in, picture = s.height * row;
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t c = block * kConvBlock;
    const float* const weight = packed + c * taps * s.in;
    const int64_t channels = std::min(kConvBlock, s.out - c);
    for (int64_t i = 0; i < n; i += pictures)
      for (int64_t v = first_row; v < last_row; ++v)
        for (int64_t u = 0; u < s.width; u += 8) {
          // A last picture without another one is computed twice.
          const int64_t other = narrow ? (i + 1 < n ? picture : 0) : 4 * s.in;
          ConvSums sums;
          for (int64_t j = 0; j < kSums; ++j) {
            const Vec start = bias == nullptr
                                  ? Vec{}
                                  : load(bias + c + j * kLanes,
                                         std::clamp<int64_t>(channels - j * kLanes, 0, kLanes));
            for (int64_t p = 0; p < 8; ++p) sums[p][j] = start;
          }
          const bool left = u == 0, right = u + 8 >= s.width;
          for (int64_t dv = -border; dv <= border; ++dv) {
            if (v + dv < 0 || v + dv >= s.height) continue;
            const float* const from = x + i * picture + (v + dv) * row + u * s.in;
            const float* w = weight + (dv + border) * s.kernel * s.in * kConvBlock;
            for (int64_t du = -border; du <= border; ++du, w += s.in * kConvBlock) {
              const float *const a = from + du * s.in, *const b = a + other;
              if (du < 0 && narrow)
                add_tap<0xEE>(sums, a, b, s.in, w);
              else if (du > 0 && narrow)
                add_tap<0x77>(sums, a, b, s.in, w);
              else if (du < 0 && left)
                add_tap<0xFE>(sums, a, b, s.in, w);
              else if (du > 0 && right)
                add_tap<0x7F>(sums, a, b, s.in, w);
              else
                add_tap<0xFF>(sums, a, b, s.in, w);
            }
          }
          const int64_t first = ((i * s.height + v) * s.width + u) * s.out + c;
          const int64_t second = narrow ? s.height * s.width * s.out : 4 * s.out;
#pragma GCC unroll 8
          for (int p = 0; p < 8; ++p) {
            if (p >= 4 && other == 0) break;
            const int64_t at = first + (p < 4 ? 0 : second) + p % 4 * s.out;
            for (int64_t j = 0; j * kLanes < channels; ++j) {
              const int64_t lanes = std::min(kLanes, channels - j * kLanes);
              Vec sum = sums[p][j];
              if (added != nullptr) sum += load(added + at + j * kLanes, lanes);
              store(y + at + j * kLanes, sum, lanes);
            }
          }
        }
  }
}

// Floats of a cache line: an unaligned vector of them takes two loads.
constexpr int64_t kLine = 16;
struct alignas(sizeof(float) * kLine) Line {
  float values[kLine];
};

/// Copies the first `some` of the channels of each pixel.
void slice(const float* from, int64_t pixels, int64_t channels, int64_t some, float* to) {
  for_channels(0, some, [&](int64_t c, int64_t lanes, auto vectors) {
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t k = 0; k < vectors.value; ++k)
        store(to + p * some + c + k * kLanes,
              load(from + p * channels + c + k * kLanes, lanes),
              lanes);
  });
}

/// The same rows, of pictures one after the other, of x and of the gradient of the result. x may be
/// read a row before and after.
struct ConvRows {
  const float *x, *dy;
  int64_t x_step, dy_step;  // from a pixel to the next
  int64_t first, count;     // the first row's number in its picture; rows
};

/// The gradient of the weights from kLanes * K channels of x, beginning at `in`, to eight of the
/// result, beginning at `out`, at one tap.
template <int64_t K>
void add_weights(const ConvShape& s,
                 const ConvRows& rows,
                 int64_t in,
                 int64_t out,
                 int64_t dv,
                 int64_t du,
                 float* dw) {
  const int64_t begin = std::max<int64_t>(0, -du), end = std::min(s.width, s.width - du);
  const float* x_row = rows.x + (dv * s.width + begin + du) * rows.x_step + in;
  const float* dy_row = rows.dy + begin * rows.dy_step + out;
  Vec sums[8][K] = {};
  int64_t v = rows.first;
  for (int64_t i = 0; i < rows.count; ++i) {
    const float *x = x_row, *dy = dy_row;
    const bool inside = v + dv >= 0 && v + dv < s.height;
    v = v + 1 < s.height ? v + 1 : 0;
    x_row += s.width * rows.x_step;
    dy_row += s.width * rows.dy_step;
    if (!inside) continue;
    for (int64_t u = begin; u < end; ++u, x += rows.x_step, dy += rows.dy_step) {
      Vec values[K];
      for (int64_t j = 0; j < K; ++j) values[j] = load(x + j * kLanes);
#pragma GCC unroll 8
      for (int o = 0; o < 8; ++o)
        for (int64_t j = 0; j < K; ++j) sums[o][j] += values[j] * dy[o];
    }
  }
  const int64_t step = s.kernel * s.kernel * s.in;
#pragma GCC unroll 8
  for (int o = 0; o < 8; ++o)
    for (int64_t j = 0; j < K; ++j) {
      float* const to = dw + o * step + j * kLanes;
      store(to, load(to) + sums[o][j]);
    }
}

void conv_weights(const ConvShape& s,
                  int64_t n,
                  const float* x,
                  const float* dy,
                  const ConvPart& part,
                  float* dw,
                  float* db) {
  const int64_t taps = s.kernel * s.kernel, border = s.kernel / 2;
  const int64_t in = part.in_end - part.in, out = part.out_end - part.out;
  const auto weight = [&](int64_t o, int64_t tap, int64_t i) {
    return dw + ((part.out + o) * taps + tap) * s.in + part.in + i;
  };
  for (int64_t o = 0; o < out; ++o)
    for (int64_t tap = 0; tap < taps; ++tap) std::fill_n(weight(o, tap, 0), in, 0.0f);
  if (db != nullptr) std::fill_n(db + part.out, out, 0.0f);
  // So many rows at a time that their slices stay in the first cache while all taps go over them;
  // what they add up to goes on in another sum.
  const int64_t all = n * s.height, step = std::max<int64_t>(1, 64 / s.width);
  const int64_t most = (step + 2 * border) * s.width * in;  // values of x in a slice
  const std::unique_ptr<Line[]> scratch(
      new Line[static_cast<size_t>((most + step * s.width * out) / kLine)]);
  float *const x_slice = scratch[0].values, *const dy_slice = x_slice + most;
  for (int64_t row = 0; row < all; row += step) {
    ConvRows rows{.x = x + row * s.width * s.in + part.in,
                  .dy = dy + row * s.width * s.out + part.out,
                  .x_step = s.in,
                  .dy_step = s.out,
                  .first = row % s.height,
                  .count = std::min(step, all - row)};
    if (taps > 1) {
      const int64_t before = std::min(row, border),
                    after = std::min(all - row - rows.count, border);
      slice(rows.x - before * s.width * s.in,
            (before + rows.count + after) * s.width,
            s.in,
            in,
            x_slice);
      slice(rows.dy, rows.count * s.width, s.out, out, dy_slice);
      rows.x = x_slice + before * s.width * in;
      rows.dy = dy_slice;
      rows.x_step = in;
      rows.dy_step = out;
    }
    for (int64_t o = 0; o < out; o += 8)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t dv = tap / s.kernel - border, du = tap % s.kernel - border;
        int64_t i = 0;
        for (; i + kConvBlock <= in; i += kConvBlock)
          add_weights<kSums>(s, rows, i, o, dv, du, weight(o, tap, i));
        for (; i < in; i += kLanes) add_weights<1>(s, rows, i, o, dv, du, weight(o, tap, i));
      }
    if (db == nullptr) continue;
    for (int64_t o = 0; o < out; o += kLanes) {
      Vec sum{};
      for (int64_t p = 0; p < rows.count * s.width; ++p)
        sum += load(rows.dy + p * rows.dy_step + o);
      store(db + part.out + o, load(db + part.out + o) + sum);
    }
  }
}

double sum_of_squares(const float* x, int64_t n) {
  constexpr int64_t kBlock = 4096;  // values that are added up in float32
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, n);
    Vec total[4] = {};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes)
      for (int64_t k = 0; k < 4; ++k) {
        const Vec v = load(x + i + k * kLanes);
        total[k] += v * v;
      }
    const Vec all = (total[0] + total[1]) + (total[2] + total[3]);
    for (int64_t k = 0; k < kLanes; ++k) sum += static_cast<double>(all[k]);
    for (; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
  return sum;
}

void adamw(const AdamwFactors& f,
           int64_t n,
           const float* grad,
           float* weight,
           float* exp_avg,
           float* exp_avg_sq,
           float* ema,
           Bf16* half) {
  const auto update = [&](int64_t i, int64_t lanes) {
    const Vec g = load(grad + i, lanes) * f.grad_scale;
    const Vec m = load(exp_avg + i, lanes) * f.beta1 + g * f.rest1;
    const Vec v = load(exp_avg_sq + i, lanes) * f.beta2 + g * g * f.rest2;
    const Vec w =
        load(weight + i, lanes) * f.shrink - m * f.size / (square_root(v) * f.root + f.eps);
    const Vec average = load(ema + i, lanes);
    store(exp_avg + i, m, lanes);
    store(exp_avg_sq + i, v, lanes);
    store(weight + i, w, lanes);
    store(ema + i, average + (w - average) * f.ema_share, lanes);
    if (half != nullptr) store(half + i, w, lanes);
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) update(i, kLanes);
  if (i < n) update(i, n - i);
}

void dropout_bits(
    const Stream& stream, uint32_t first_block, int64_t blocks, uint32_t threshold, uint8_t* kept) {
  for (int64_t begin = 0; begin < blocks; begin += kLanes) {
    const int64_t lanes = std::min(kLanes, blocks - begin);
    Philox4 word[kLanes];
    for (int64_t i = 0; i < kLanes; ++i)
      word[i] = random_block(stream, first_block + static_cast<uint32_t>(begin + i));
    for (int64_t i = 0; i < lanes; ++i) {
      unsigned bits = 0;
      for (int j = 0; j < 4; ++j) {
        bits |= static_cast<unsigned>((word[i].v[j] & 0xFFFFu) >= threshold) << (2 * j);
        bits |= static_cast<unsigned>((word[i].v[j] >> 16) >= threshold) << (2 * j + 1);
      }
      kept[begin + i] = static_cast<uint8_t>(bits);
    }
  }
}

}  // namespace

#define DIFFUSE_TEXT_OF(x) #x
#define DIFFUSE_TEXT(x) DIFFUSE_TEXT_OF(x)

extern const CpuKernels table;
const CpuKernels table{
    .name = DIFFUSE_TEXT(DIFFUSE_LEVEL),
    .norm = {norm_forward<float>, norm_backward<float>},
    .norm_bf16 = {norm_forward<Bf16>, norm_backward<Bf16>},
    .attention = {attention_forward<float>, attention_backward<float>},
    .attention_bf16 = {attention_forward<Bf16>, attention_backward<Bf16>},
    .conv = {kConvBlock, conv_pack, conv_forward, conv_weights},
    .sum_of_squares = sum_of_squares,
    .adamw = adamw,
    .dropout_bits = dropout_bits,
};

}  // namespace diffuse::kernels::DIFFUSE_LEVEL
