// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

// Counter-based random numbers: every draw is a pure function of (seed, purpose, step, sample,
// index). There is no state, so nothing has to be saved, and the number of threads, workers or
// micro-batches cannot change a draw. Philox4x32-10 of Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3".

#ifdef __CUDACC__
#define DIFFUSE_HOST_DEVICE __host__ __device__
#else
#define DIFFUSE_HOST_DEVICE
#endif

namespace diffuse {

/// What a stream of numbers is for. The values are part of the reproducibility promise: never
/// renumber.
enum class Purpose : uint32_t {
  init = 1,          // sample = parameter number, index = element
  order = 2,         // step = epoch
  flip = 3,          // step = epoch, sample = position in the epoch
  crop = 4,          // likewise
  timestep = 5,      // step = optimizer step, sample = position in the global batch
  noise = 6,         // likewise, index = element of the image
  dropout = 7,       // likewise, index = (layer, element)
  sample_start = 8,  // x_T of image `sample`
  sample_step = 9,   // the noise of chain position `step` of image `sample`
  point = 10,        // point `sample` of a distribution in the plane (data/points.h)
  probe = 11,        // step = probe number, sample = evaluated image, index = 64 elements
  bootstrap = 12,    // step = resample, sample = data set, index = position in the resample
  dequantise = 13,   // step = draw, sample = evaluated image, index = element
  bound = 14,        // step = chain index t, sample = evaluated image, index = element
  bound_step = 15,   // step = stratum of t, sample = evaluated image
  validate = 16,     // step = level number, sample = evaluated image, index = element
  rollback = 17,     // step = number of the rollback
};

/// Names one stream; `block` below counts 128-bit blocks in it.
struct Stream {
  uint64_t seed = 0;
  Purpose purpose{};
  uint64_t step = 0;    // < 2^48
  uint64_t sample = 0;  // < 2^40
};

struct Philox4 {
  uint32_t v[4];
};

/// Philox4x32 with 10 rounds, on raw counter and key words.
DIFFUSE_HOST_DEVICE inline Philox4 philox4x32(Philox4 c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c.v[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c.v[2];
    c = Philox4{{static_cast<uint32_t>(p1 >> 32) ^ c.v[1] ^ k0,
                 static_cast<uint32_t>(p1),
                 static_cast<uint32_t>(p0 >> 32) ^ c.v[3] ^ k1,
                 static_cast<uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

/// Block number `block` (< 2^32) of a stream: four independent uniform 32-bit words.
DIFFUSE_HOST_DEVICE inline Philox4 random_block(const Stream& s, uint32_t block) {
  // The purpose goes into the key (odd multiplier, so distinct purposes give distinct keys); step
  // and sample have 48 + 40 bits of the counter, the block 32.
  const uint64_t key = s.seed ^ (static_cast<uint64_t>(s.purpose) * 0x9E3779B97F4A7C15ull);
  const Philox4 counter{{block,
                         static_cast<uint32_t>(s.sample),
                         static_cast<uint32_t>(s.step),
                         (static_cast<uint32_t>(s.step >> 32) & 0xFFFFu) |
                             (static_cast<uint32_t>(s.sample >> 32) << 16)}};
  return philox4x32(counter, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32));
}

/// 64 random bits, number `index` of the stream.
inline uint64_t random_bits(const Stream& s, uint32_t index = 0) {
  const Philox4 b = random_block(s, index / 2);
  const int i = static_cast<int>(index % 2) * 2;
  return (uint64_t{b.v[i + 1]} << 32) | b.v[i];
}

/// Uniform on [0, 1) with 53 bits, number `index` of the stream.
inline double random_uniform(const Stream& s, uint32_t index = 0) {
  return static_cast<double>(random_bits(s, index) >> 11) * 0x1p-53;
}

/// Uniform integer in [0, n), n in [1, 2^63]; bias below n / 2^64.
inline uint64_t random_below(const Stream& s, uint64_t n, uint32_t index = 0) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random_bits(s, index)) * n) >> 64);
}

/// Four standard normals of block `block` (Box and Muller 1958). |value| <= 6.77.
DIFFUSE_HOST_DEVICE inline std::array<float, 4> random_normal4(const Stream& s, uint32_t block) {
  const Philox4 b = random_block(s, block);
  float out[4];
  for (int i = 0; i < 4; i += 2) {
    // (bits + 1/2) 2^-32 lies in (0, 1): the logarithm is finite.
    const double r = std::sqrt(-2.0 * std::log((b.v[i] + 0.5) * 0x1p-32));
    const double angle = 2.0 * std::numbers::pi * (b.v[i + 1] + 0.5) * 0x1p-32;
    out[i] = static_cast<float>(r * std::cos(angle));
    out[i + 1] = static_cast<float>(r * std::sin(angle));
  }
  return {out[0], out[1], out[2], out[3]};
}

/// Position -> element of a pseudo-random permutation of [0, n) in O(1): the order of an epoch
/// without an array. A balanced Feistel network over the smallest 4^k >= n (k >= 1), cycle-walking
/// back into range (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
class Permutation {
 public:
  Permutation(uint64_t n, const Stream& key);    // n in [1, 2^40]
  uint64_t operator()(uint64_t position) const;  // position and result in [0, n)

 private:
  uint64_t n_;
  int half_bits_;
  std::array<uint64_t, 10> round_keys_;  // fewer leave small n uneven
};

}  // namespace diffuse
