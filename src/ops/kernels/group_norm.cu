// SPDX-License-Identifier: MIT
#include "ops/kernels/group_norm.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "base/random.h"
#include "ops/kernels/bf16.cuh"
#include "ops/kernels/launch.cuh"
#include "ops/kernels/step_of.cuh"

// A block of threads owns some whole groups of channels of one picture. It reads them once, keeps
// them in shared memory if they fit, adds up, and writes. A thread has kVec neighbouring channels
// (16 bytes where their number allows) of every so-manieth pixel. Sums are taken of differences to
// the first pixel, in an order that depends on the shape alone.

namespace diffuse::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kMostShared = 200 << 10;  // of 227 KB on sm_90; what a GPU has is asked for

template <class T, int kVec>
struct alignas(sizeof(T) * kVec) Pack {
  T v[kVec];
};

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

/// keep_value or 0.
__device__ inline float kept_factor(const NormBatch& b, int64_t i, int64_t pixel, int64_t channel) {
  const uint8_t* const bits = b.kept + i * ((b.pixels * b.channels + 7) / 8);
  int byte;
  int bit;
  if (b.pixels % 8 == 0) {
    byte = bits[pixel / 8 * b.channels + channel];
    bit = static_cast<int>(pixel % 8);
  } else {
    const int64_t e = channel * b.pixels + pixel;
    byte = bits[e / 8];
    bit = static_cast<int>(e % 8);
  }
  return (byte >> bit) & 1 ? b.keep_value : 0.0f;
}

/// Where a thread of a block stands.
struct Place {
  int64_t picture;
  int channels;    // of the block
  int64_t first;   // of them
  int lanes;       // threads side by side at a pixel
  int lane, row;   // of this thread
  int rows;        // pixels at once
  int64_t offset;  // of the picture, in elements

  __device__ Place(const NormBatch& b, int chunk, int vec)
      : picture(blockIdx.x),
        channels(static_cast<int>(min(static_cast<int64_t>(chunk),
                                      b.channels - static_cast<int64_t>(blockIdx.y) * chunk))),
        first(static_cast<int64_t>(blockIdx.y) * chunk),
        lanes(channels / vec),
        lane(static_cast<int>(threadIdx.x) % lanes),
        row(static_cast<int>(threadIdx.x) / lanes),
        rows(kThreads / lanes),
        offset(picture * b.pixels * b.channels) {}
  __device__ bool works() const { return row < rows; }
  __device__ int64_t at(const NormBatch& b, int64_t pixel, int vec) const {
    return offset + pixel * b.channels + first + lane * vec;
  }
};

/// Adds `mine` [kSums][kVec] of all threads of a channel: result [kSums][channels] in `sums`.
/// `scratch`: [kThreads * kVec] floats. In a fixed order.
template <int kSums, int kVec>
__device__ void add_up(const Place& p,
                       const float (&mine)[kSums][kVec],
                       float* scratch,
                       float* sums) {
  const int tasks = kThreads / p.channels;  // threads that add up a channel; 0: one for several
  for (int s = 0; s < kSums; ++s) {
    __syncthreads();
    if (p.works())
      for (int v = 0; v < kVec; ++v) scratch[p.row * p.channels + p.lane * kVec + v] = mine[s][v];
    __syncthreads();
    if (tasks > 1) {
      const int c = static_cast<int>(threadIdx.x) % p.channels;
      const int k = static_cast<int>(threadIdx.x) / p.channels;
      if (k < tasks) {
        float part = 0;
        for (int r = k; r < p.rows; r += tasks) part += scratch[r * p.channels + c];
        scratch[k * p.channels + c] = part;  // which no other thread has to read
      }
      __syncthreads();
    }
    const int parts = tasks > 1 ? min(tasks, p.rows) : p.rows;
    for (int c = static_cast<int>(threadIdx.x); c < p.channels; c += kThreads) {
      float sum = 0;
      for (int k = 0; k < parts; ++k) sum += scratch[k * p.channels + c];
      sums[s * p.channels + c] = sum;
    }
  }
  __syncthreads();
}

/// Floats of shared memory beside what is staged: of add_up and of a number of rows of `chunk`.
__host__ __device__ constexpr int shared_floats(int vec, int rows, int chunk) {
  return kThreads * vec + rows * chunk;
}

/// u = scale (x - center) + offset for the channels of a block: three rows of shared memory.
__device__ void channel_maps(const NormBatch& b,
                             const Place& p,
                             const float* mean,
                             const float* rstd,
                             float* center,
                             float* scale,
                             float* offset) {
  for (int i = static_cast<int>(threadIdx.x); i < p.channels; i += kThreads) {
    const int64_t c = p.first + i;
    const int64_t group = c / b.group_channels, row = p.picture * b.channels + c;
    const float factor = b.scale == nullptr ? 1.0f : 1.0f + b.scale[row];
    center[i] = mean[group] - (b.added == nullptr ? 0.0f : b.added[row]);
    scale[i] = rstd[group] * b.weight[c] * factor;
    offset[i] = b.bias[c] * factor + (b.shift == nullptr ? 0.0f : b.shift[row]);
  }
  __syncthreads();
}

template <class T, int kVec, bool kStaged>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(NormBatch b, int chunk, T* __restrict__ y, float* mean, float* rstd) {
  float* const shared = shared_memory<float>();
  const Place p(b, chunk, kVec);
  using Pixel = Pack<T, kVec>;
  float* const scratch = shared;
  float* const sums = scratch + kThreads * kVec;  // [2][chunk]
  float *const center = sums + 2 * chunk, *const scale = center + chunk,
               *const offset = scale + chunk;
  Pixel* const staged = reinterpret_cast<Pixel*>(shared + shared_floats(kVec, 5, chunk));
  const T* const x = static_cast<const T*>(b.x);

  float mine[2][kVec] = {};
  float pivot[kVec];
  if (p.works()) {
    const Pixel zero = *reinterpret_cast<const Pixel*>(x + p.at(b, 0, kVec));
    for (int v = 0; v < kVec; ++v) pivot[v] = value_of(zero.v[v]);
#pragma unroll 4
    for (int64_t pixel = p.row; pixel < b.pixels; pixel += p.rows) {
      const Pixel in = *reinterpret_cast<const Pixel*>(x + p.at(b, pixel, kVec));
      if (kStaged) staged[pixel * p.lanes + p.lane] = in;
      for (int v = 0; v < kVec; ++v) {
        const float d = value_of(in.v[v]) - pivot[v];
        mine[0][v] += d;
        mine[1][v] += d * d;
      }
    }
  }
  add_up<2, kVec>(p, mine, scratch, sums);
  // Mean and variance of each group, in float64 as in the CPU's body.
  const int groups = p.channels / static_cast<int>(b.group_channels);
  const double pixels = static_cast<double>(b.pixels);
  float* const of_mean = mean + p.picture * (b.channels / b.group_channels);
  float* const of_rstd = rstd + p.picture * (b.channels / b.group_channels);
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += kThreads) {
    const int begin = g * static_cast<int>(b.group_channels);
    const int end = begin + static_cast<int>(b.group_channels);
    const auto mean_of = [&](int i) {
      const int64_t c = p.first + i;
      const double first = value_of(x[p.offset + c]);
      const double added =
          b.added == nullptr ? 0.0 : static_cast<double>(b.added[p.picture * b.channels + c]);
      return first + sums[i] / pixels + added;
    };
    double middle = 0, squares = 0;
    for (int i = begin; i < end; ++i) middle += mean_of(i);
    middle /= static_cast<double>(b.group_channels);
    for (int i = begin; i < end; ++i) {
      const double sum = sums[i], d = mean_of(i) - middle;
      squares += fmax(sums[p.channels + i] - sum * sum / pixels, 0.0) + pixels * d * d;
    }
    const double variance = squares / (pixels * static_cast<double>(b.group_channels));
    of_mean[(p.first + begin) / b.group_channels] = static_cast<float>(middle);
    of_rstd[(p.first + begin) / b.group_channels] =
        static_cast<float>(1.0 / sqrt(variance + b.eps));
  }
  __syncthreads();
  channel_maps(b, p, of_mean, of_rstd, center, scale, offset);
  if (!p.works()) return;
  float m[kVec], a[kVec], o[kVec];
  for (int v = 0; v < kVec; ++v) {
    m[v] = center[p.lane * kVec + v];
    a[v] = scale[p.lane * kVec + v];
    o[v] = offset[p.lane * kVec + v];
  }
#pragma unroll 4
  for (int64_t pixel = p.row; pixel < b.pixels; pixel += p.rows) {
    const int64_t at = p.at(b, pixel, kVec);
    const Pixel in =
        kStaged ? staged[pixel * p.lanes + p.lane] : *reinterpret_cast<const Pixel*>(x + at);
    Pixel out;
    for (int v = 0; v < kVec; ++v) {
      float u = (value_of(in.v[v]) - m[v]) * a[v] + o[v];
      if (b.silu) u *= sigmoid(u);
      if (b.kept != nullptr) u *= kept_factor(b, p.picture, pixel, p.first + p.lane * kVec + v);
      set(out.v[v], u);
    }
    *reinterpret_cast<Pixel*>(y + at) = out;
  }
}

template <class T, int kVec, bool kStaged>
__global__ void __launch_bounds__(kThreads) backward_kernel(NormBatch b,
                                                            int chunk,
                                                            const T* __restrict__ dy,
                                                            const T* __restrict__ more,
                                                            const float* __restrict__ mean,
                                                            const float* __restrict__ rstd,
                                                            T* __restrict__ dx,
                                                            float* with_norm,
                                                            float* of_scaled,
                                                            float* d_added) {
  float* const shared = shared_memory<float>();
  const Place p(b, chunk, kVec);
  using Pixel = Pack<T, kVec>;
  float* const scratch = shared;
  float* const sums = scratch + kThreads * kVec;  // [3][chunk]: du, du (x - center), x - center
  float *const center = sums + 3 * chunk, *const scale = center + chunk,
               *const offset = scale + chunk, *const slope = offset + chunk,
               *const constant = slope + chunk;
  Pixel* const staged_x = reinterpret_cast<Pixel*>(shared + shared_floats(kVec, 8, chunk));
  Pixel* const staged_dy = staged_x + b.pixels * p.lanes;
  const T* const x = static_cast<const T*>(b.x);
  const int64_t groups_of_all = b.channels / b.group_channels;
  const float* const of_mean = mean + p.picture * groups_of_all;
  const float* const of_rstd = rstd + p.picture * groups_of_all;
  channel_maps(b, p, of_mean, of_rstd, center, scale, offset);

  float m[kVec], a[kVec], o[kVec];
  for (int v = 0; v < kVec; ++v) {
    m[v] = center[p.lane * kVec + v];
    a[v] = scale[p.lane * kVec + v];
    o[v] = offset[p.lane * kVec + v];
  }
  // The gradient before the activation, from that behind the mask.
  const auto before = [&](float d, float centered, int v, int64_t pixel) {
    if (b.kept != nullptr) d *= kept_factor(b, p.picture, pixel, p.first + p.lane * kVec + v);
    if (b.silu) {
      const float u = centered * a[v] + o[v];
      const float s = sigmoid(u);
      d *= s * (1.0f + u * (1.0f - s));
    }
    return d;
  };
  float mine[3][kVec] = {};
  if (p.works()) {
#pragma unroll 2
    for (int64_t pixel = p.row; pixel < b.pixels; pixel += p.rows) {
      const int64_t at = p.at(b, pixel, kVec);
      const Pixel in = *reinterpret_cast<const Pixel*>(x + at);
      const Pixel gradient = *reinterpret_cast<const Pixel*>(dy + at);
      if (kStaged) {
        staged_x[pixel * p.lanes + p.lane] = in;
        staged_dy[pixel * p.lanes + p.lane] = gradient;
      }
      for (int v = 0; v < kVec; ++v) {
        const float centered = value_of(in.v[v]) - m[v];
        const float d = before(value_of(gradient.v[v]), centered, v, pixel);
        mine[0][v] += d;
        mine[1][v] += d * centered;
        mine[2][v] += centered;
      }
    }
  }
  add_up<3, kVec>(p, mine, scratch, sums);
  // dx = scale du + slope (x - center) + constant: see norm_backward in cpu_body.cpp.
  const int groups = p.channels / static_cast<int>(b.group_channels);
  const double count = static_cast<double>(b.pixels) * static_cast<double>(b.group_channels);
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += kThreads) {
    const int begin = g * static_cast<int>(b.group_channels);
    const int end = begin + static_cast<int>(b.group_channels);
    const double r = of_rstd[(p.first + begin) / b.group_channels];
    double mean_g = 0, mean_gx = 0;
    for (int i = begin; i < end; ++i) {
      mean_g += static_cast<double>(scale[i]) / r * sums[i] / count;
      mean_gx += static_cast<double>(scale[i]) * sums[p.channels + i] / count;
    }
    for (int i = begin; i < end; ++i) {
      slope[i] = static_cast<float>(-r * r * mean_gx);
      constant[i] = static_cast<float>(-r * mean_g);
      const int64_t row = p.picture * b.channels + p.first + i;
      with_norm[row] = static_cast<float>(r * sums[p.channels + i]);
      of_scaled[row] = sums[i];
      if (d_added != nullptr)
        d_added[row] = static_cast<float>(static_cast<double>(scale[i]) * sums[i] -
                                          r * r * mean_gx * sums[2 * p.channels + i] -
                                          r * mean_g * static_cast<double>(b.pixels));
    }
  }
  __syncthreads();
  if (!p.works()) return;
  float s[kVec], k[kVec];
  for (int v = 0; v < kVec; ++v) {
    s[v] = slope[p.lane * kVec + v];
    k[v] = constant[p.lane * kVec + v];
  }
#pragma unroll 2
  for (int64_t pixel = p.row; pixel < b.pixels; pixel += p.rows) {
    const int64_t at = p.at(b, pixel, kVec);
    const Pixel in =
        kStaged ? staged_x[pixel * p.lanes + p.lane] : *reinterpret_cast<const Pixel*>(x + at);
    const Pixel gradient =
        kStaged ? staged_dy[pixel * p.lanes + p.lane] : *reinterpret_cast<const Pixel*>(dy + at);
    Pixel other, out;
    if (more != nullptr) other = *reinterpret_cast<const Pixel*>(more + at);
    for (int v = 0; v < kVec; ++v) {
      const float centered = value_of(in.v[v]) - m[v];
      float d =
          before(value_of(gradient.v[v]), centered, v, pixel) * a[v] + (centered * s[v] + k[v]);
      if (more != nullptr) d += value_of(other.v[v]);
      set(out.v[v], d);
    }
    *reinterpret_cast<Pixel*>(dx + at) = out;
  }
}

__global__ void bits_kernel(uint8_t* __restrict__ kept,
                            int64_t n,
                            int64_t pixels,
                            int64_t channels,
                            uint32_t threshold,
                            uint64_t seed,
                            StepNumber step,
                            int64_t first_sample,
                            int64_t first_block) {
  const int64_t bytes = (pixels * channels + 7) / 8;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; t < n * bytes;
       t += stride) {
    const int64_t i = t / bytes, block = t % bytes;
    const Stream stream{
        seed, Purpose::dropout, step_of(step), static_cast<uint64_t>(first_sample + i)};
    const Philox4 word = random_block(stream, static_cast<uint32_t>(first_block + block));
    unsigned bits = 0;
    for (int j = 0; j < 4; ++j) {
      bits |= static_cast<unsigned>((word.v[j] & 0xFFFFu) >= threshold) << (2 * j);
      bits |= static_cast<unsigned>((word.v[j] >> 16) >= threshold) << (2 * j + 1);
    }
    // Transposed where eight pixels of a channel share a byte, so that channels are neighbours.
    const int64_t of_channel = pixels / 8;
    const int64_t to = pixels % 8 == 0 ? block % of_channel * channels + block / of_channel : block;
    kept[i * bytes + to] = static_cast<uint8_t>(bits);
  }
}

int64_t gcd(int64_t a, int64_t b) { return b == 0 ? a : gcd(b, a % b); }

/// How a launch is cut: channels of a block, and whether they stay in shared memory.
struct Cut {
  int chunk;
  bool staged;
  int bytes;  // of shared memory
};

/// `rows` of floats for each channel, `maps` feature maps read twice. The chunk is a multiple of
/// the group and of the pack: some 32 to 64 channels, fewer where that lets the maps stay in shared
/// memory, at most as many as threads.
Cut cut_of(const NormBatch& b, int vec, int rows, int maps, int most_shared) {
  const int64_t unit = b.group_channels / gcd(b.group_channels, vec) * vec;
  const int64_t element = b.bf16 ? 2 : 4;
  const auto bytes_of = [&](int64_t chunk, bool staged) {
    return 4 * shared_floats(vec, rows, static_cast<int>(chunk)) +
           (staged ? maps * b.pixels * chunk * element : 0);
  };
  const int64_t widest = std::min(b.channels, std::max<int64_t>(unit, 64));
  int64_t best = 0;
  for (int64_t chunk = unit; chunk <= widest; chunk += unit)
    if (b.channels % chunk == 0 && bytes_of(chunk, true) <= most_shared) best = chunk;
  if (best > 0) return {static_cast<int>(best), true, static_cast<int>(bytes_of(best, true))};
  for (int64_t chunk = unit; chunk <= widest; chunk += unit)
    if (b.channels % chunk == 0) best = chunk;
  return {static_cast<int>(best), false, static_cast<int>(bytes_of(best, false))};
}

/// Shared memory that a block may ask for on the current device.
int most_shared_memory() {
  int device = 0, bytes = 48 << 10;
  if (cudaGetDevice(&device) == cudaSuccess)
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return std::min(bytes, kMostShared);
}

template <class Kernel, class... Args>
int launch_cut(Kernel kernel, const NormBatch& b, const Cut& cut, void* stream, Args... args) {
  const dim3 grid(static_cast<unsigned>(b.n),
                  static_cast<unsigned>((b.channels + cut.chunk - 1) / cut.chunk));
  return launch(
      kernel, grid, kThreads, static_cast<size_t>(cut.bytes), stream, b, cut.chunk, args...);
}

/// Channels that a thread reads at once: 16 bytes, or as many as divide the channels.
int pack_of(const NormBatch& b) {
  int vec = b.bf16 ? 8 : 4;
  while (b.channels % vec != 0) vec /= 2;
  return vec;
}

/// run(T(), the pack's width as an integral_constant) for the batch's type.
template <class Run>
int with_packs(const NormBatch& b, const Run& run) {
  const int vec = pack_of(b);
  const auto at_most_4 = [&](auto value) {
    return vec == 4   ? run(value, std::integral_constant<int, 4>())
           : vec == 2 ? run(value, std::integral_constant<int, 2>())
                      : run(value, std::integral_constant<int, 1>());
  };
  if (!b.bf16) return at_most_4(float());
  return vec == 8 ? run(__nv_bfloat16(), std::integral_constant<int, 8>())
                  : at_most_4(__nv_bfloat16());
}

template <class T, int kVec>
int forward_of(const NormBatch& b, void* y, float* mean, float* rstd, void* stream) {
  const Cut cut = cut_of(b, kVec, 5, 1, most_shared_memory());
  T* const to = static_cast<T*>(y);
  return cut.staged ? launch_cut(forward_kernel<T, kVec, true>, b, cut, stream, to, mean, rstd)
                    : launch_cut(forward_kernel<T, kVec, false>, b, cut, stream, to, mean, rstd);
}

template <class T, int kVec>
int backward_of(const NormBatch& b,
                const void* dy,
                const void* more,
                const float* mean,
                const float* rstd,
                void* dx,
                float* with_norm,
                float* of_scaled,
                float* d_added,
                void* stream) {
  const Cut cut = cut_of(b, kVec, 8, 2, most_shared_memory());
  const T *const gradient = static_cast<const T*>(dy), *const other = static_cast<const T*>(more);
  T* const to = static_cast<T*>(dx);
  const auto run = [&](auto kernel) {
    return launch_cut(
        kernel, b, cut, stream, gradient, other, mean, rstd, to, with_norm, of_scaled, d_added);
  };
  return cut.staged ? run(backward_kernel<T, kVec, true>) : run(backward_kernel<T, kVec, false>);
}

}  // namespace

bool norm_fits(const NormBatch& b) {
  const int vec = pack_of(b);
  // One group may be as wide as a block of threads reads at once.
  return b.group_channels / gcd(b.group_channels, vec) <= kThreads;
}

int dropout_bits(uint8_t* kept,
                 int64_t n,
                 int64_t pixels,
                 int64_t channels,
                 uint32_t threshold,
                 uint64_t seed,
                 StepNumber step,
                 int64_t first_sample,
                 int64_t first_block,
                 void* stream) {
  const int64_t work = n * kept_bytes(pixels, channels);
  const auto grid = static_cast<unsigned>(std::min<int64_t>((work + 255) / 256, 65536));
  return launch(bits_kernel,
                grid,
                256,
                0,
                stream,
                kept,
                n,
                pixels,
                channels,
                threshold,
                seed,
                step,
                first_sample,
                first_block);
}

int norm_forward(const NormBatch& b, void* y, float* mean, float* rstd, void* stream) {
  return with_packs(b, [&](auto value, auto pack) {
    return forward_of<decltype(value), decltype(pack)::value>(b, y, mean, rstd, stream);
  });
}

int norm_backward(const NormBatch& b,
                  const void* dy,
                  const void* more,
                  const float* mean,
                  const float* rstd,
                  void* dx,
                  float* with_norm,
                  float* of_scaled,
                  float* d_added,
                  void* stream) {
  return with_packs(b, [&](auto value, auto pack) {
    return backward_of<decltype(value), decltype(pack)::value>(
        b, dy, more, mean, rstd, dx, with_norm, of_scaled, d_added, stream);
  });
}

}  // namespace diffuse::kernels
