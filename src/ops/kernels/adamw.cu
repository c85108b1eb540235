// SPDX-License-Identifier: MIT
#include "ops/kernels/adamw.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "ops/kernels/bf16.cuh"
#include "ops/kernels/launch.cuh"
#include "ops/kernels/reduce.cuh"
#include "ops/kernels/tally.h"

namespace diffuse::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostParts = 1024;

struct alignas(16) Four {
  float v[4];
};
struct alignas(8) FourHalves {
  __nv_bfloat16 v[4];
};

/// What the update makes of each number (AdamwFactors in cpu.h), worked out on the device.
struct Factors {
  float grad_scale, size, root, shrink, ema_share;
  float good;  // 1, or 0: nothing is to change
};

__global__ void __launch_bounds__(kThreads)
    squares_kernel(const float* __restrict__ grad, int64_t fours, double* __restrict__ parts) {
  const Four* const from = reinterpret_cast<const Four*>(grad);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  double sum[1] = {};
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < fours;
       i += stride) {
    const Four g = from[i];
    for (int j = 0; j < 4; ++j) sum[0] += static_cast<double>(g.v[j]) * static_cast<double>(g.v[j]);
  }
  sum_of_block<kThreads>(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum[0];
}

/// The sum over the block's threads, for each of them.
__device__ double total_of_block(double mine) {
  double sum[1] = {mine};
  sum_of_block<kThreads>(sum);
  const double total = *shared_memory<double>();
  __syncthreads();  // all have read it
  return total;
}

/// Where a value is a spike, and as what it enters the ring then at most.
struct Limits {
  double spike, entry;
};

/// Those of a ring, the same to each thread; none when all in it are equal.
__device__ Limits limits_of(const double* ring, double z) {
  constexpr double kNone = 1.7976931348623157e308;
  const bool mine = threadIdx.x < SpikeWindow::kLength;
  const double mean = total_of_block(mine ? ring[threadIdx.x] : 0) / SpikeWindow::kLength;
  const double off = mine ? ring[threadIdx.x] - mean : 0;
  const double variance = total_of_block(off * off) / SpikeWindow::kLength;
  if (variance <= 0) return {kNone, kNone};
  const double deviation = sqrt(variance);
  return {mean + z * deviation, mean + fmax(z, SpikeWindow::kFarthest) * deviation};
}

/// Moves the window on by a finite step; whether that is a spike.
__device__ bool is_spike(double* window, double loss, double norm, const Limits (&limits)[2]) {
  const bool full = window[SpikeWindow::seen] >= SpikeWindow::kLength;
  const int64_t place = static_cast<int64_t>(window[SpikeWindow::seen]) % SpikeWindow::kLength;
  window[SpikeWindow::losses + place] = full ? fmin(loss, limits[0].entry) : loss;
  window[SpikeWindow::norms + place] = full ? fmin(norm, limits[1].entry) : norm;
  const bool spike = full && (loss > limits[0].spike || norm > limits[1].spike);
  window[SpikeWindow::seen] += 1;
  if (spike) window[SpikeWindow::spikes] += 1;
  return spike;
}

/// One block: the norm, whether the step counts, and the numbers of the update.
__global__ void __launch_bounds__(kThreads)
    decide_kernel(AdamwUpdate u, const double* __restrict__ parts, int count, Factors* factors) {
  double sum[1] = {};
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) sum[0] += parts[i];
  sum_of_block<kThreads>(sum);
  Limits limits[2] = {};
  if (u.spike_z > 0) {
    limits[0] = limits_of(u.spikes + SpikeWindow::losses, u.spike_z);
    limits[1] = limits_of(u.spikes + SpikeWindow::norms, u.spike_z);
  }
  if (threadIdx.x != 0) return;
  // In float32 like the other bodies', so that a norm beyond its range counts as infinite.
  const float norm = static_cast<float>(sqrt(sum[0]));
  const float loss = *u.loss;
  const bool good =
      isfinite(norm) && isfinite(loss) &&
      !(u.spike_z > 0 &&
        is_spike(u.spikes, static_cast<double>(loss), static_cast<double>(norm), limits));
  const double lr = u.rates[0], decay = u.rates[1];
  double* const t = u.tally;
  t[Tally::steps] += 1;
  if (good) {
    *u.updates += 1;  // bias correction counts updates, not steps
    t[Tally::good] += 1;
    t[Tally::loss] += static_cast<double>(loss);
    t[Tally::loss_raw] += static_cast<double>(*u.loss_raw);
    t[Tally::grad_norm] += static_cast<double>(norm);
    t[Tally::skipped_in_row] = 0;
    t[Tally::ema_initial] *= decay;
  } else {
    t[Tally::skipped] += 1;
    t[Tally::skipped_in_row] += 1;
    t[Tally::longest_row] = fmax(t[Tally::longest_row], t[Tally::skipped_in_row]);
  }
  const double updates = static_cast<double>(*u.updates);
  // Pascanu et al. 2013, algorithm 1.
  const double longer = u.clip > 0 ? fmax(static_cast<double>(norm) / u.clip, 1.0) : 1.0;
  factors->grad_scale = static_cast<float>(1 / longer);
  factors->size = static_cast<float>(lr / (1 - pow(u.beta1, updates)));
  factors->root = static_cast<float>(1 / sqrt(1 - pow(u.beta2, updates)));
  factors->shrink = static_cast<float>(1 - lr * u.weight_decay);
  factors->ema_share = static_cast<float>(1 - decay);
  factors->good = good ? 1.0f : 0.0f;
}

/// Loshchilov & Hutter 2019, algorithm 2; the average of Ho et al. 2020, appendix B.
__global__ void __launch_bounds__(kThreads)
    adamw_kernel(AdamwUpdate u, const Factors* __restrict__ factors) {
  const Factors f = *factors;
  if (f.good == 0.0f) return;
  const float beta1 = static_cast<float>(u.beta1), rest1 = static_cast<float>(1 - u.beta1);
  const float beta2 = static_cast<float>(u.beta2), rest2 = static_cast<float>(1 - u.beta2);
  const float eps = static_cast<float>(u.eps);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < u.n / 4;
       i += stride) {
    const Four grad = reinterpret_cast<const Four*>(u.grad)[i];
    Four weight = reinterpret_cast<const Four*>(u.weight)[i];
    Four exp_avg = reinterpret_cast<const Four*>(u.exp_avg)[i];
    Four exp_avg_sq = reinterpret_cast<const Four*>(u.exp_avg_sq)[i];
    Four ema = reinterpret_cast<const Four*>(u.ema)[i];
    FourHalves half;
    const float shrink = 4 * i < u.decay_end ? f.shrink : 1.0f;
    for (int j = 0; j < 4; ++j) {
      const float g = grad.v[j] * f.grad_scale;
      const float m = exp_avg.v[j] * beta1 + g * rest1;
      const float v = exp_avg_sq.v[j] * beta2 + g * g * rest2;
      const float w = weight.v[j] * shrink - m * f.size / (sqrtf(v) * f.root + eps);
      exp_avg.v[j] = m;
      exp_avg_sq.v[j] = v;
      weight.v[j] = w;
      ema.v[j] += (w - ema.v[j]) * f.ema_share;
      set(half.v[j], w);
    }
    reinterpret_cast<Four*>(u.weight)[i] = weight;
    reinterpret_cast<Four*>(u.exp_avg)[i] = exp_avg;
    reinterpret_cast<Four*>(u.exp_avg_sq)[i] = exp_avg_sq;
    reinterpret_cast<Four*>(u.ema)[i] = ema;
    if (u.half != nullptr) reinterpret_cast<FourHalves*>(u.half)[i] = half;
  }
}

/// Sums that the norm is made of.
int64_t parts_of(int64_t n) {
  return std::clamp<int64_t>(n / (int64_t{16} * kThreads), 1, kMostParts);
}

}  // namespace

int64_t update_scratch_bytes(int64_t n) {
  return parts_of(n) * static_cast<int64_t>(sizeof(double)) + static_cast<int64_t>(sizeof(Factors));
}

int update(const AdamwUpdate& u, void* scratch, void* stream) {
  const int64_t parts = parts_of(u.n);
  double* const sums = static_cast<double*>(scratch);
  Factors* const factors = reinterpret_cast<Factors*>(sums + parts);
  constexpr size_t kShared = kSumBytes<kThreads, 1>;
  int error = launch(squares_kernel,
                     dim3(static_cast<unsigned>(parts)),
                     kThreads,
                     kShared,
                     stream,
                     u.grad,
                     u.n / 4,
                     sums);
  if (error == 0)
    error = launch(decide_kernel,
                   dim3(1),
                   kThreads,
                   kShared,
                   stream,
                   u,
                   sums,
                   static_cast<int>(parts),
                   factors);
  const int64_t blocks = std::clamp<int64_t>((u.n / 4 + kThreads - 1) / kThreads, 1, 1 << 16);
  if (error == 0)
    error =
        launch(adamw_kernel, dim3(static_cast<unsigned>(blocks)), kThreads, 0, stream, u, factors);
  return error;
}

}  // namespace diffuse::kernels
