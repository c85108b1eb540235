// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/random.h"
#include "ops/kernels/adamw.h"
#include "ops/kernels/batch.h"
#include "ops/kernels/group_norm.h"
#include "ops/kernels/loss.h"

namespace diffuse {

/// Work on a GPU that was captured as one CUDA graph. It reads and writes the memory that it was
/// captured with.
class CapturedWork {
 public:
  CapturedWork() = default;
  CapturedWork(const CapturedWork&) = delete;
  CapturedWork& operator=(const CapturedWork&) = delete;
  virtual ~CapturedWork() = default;
  /// Queues it on the current stream.
  virtual void replay() = 0;
};

/// How often LibTorch has made this thread wait for a GPU since this was made. One at a time; on
/// the thread that made it.
class SyncCount {
 public:
  SyncCount() = default;
  SyncCount(const SyncCount&) = delete;
  SyncCount& operator=(const SyncCount&) = delete;
  virtual ~SyncCount() = default;
  virtual int64_t count() const = 0;
};

/// What the plug-in libdiffuse_cuda offers, as one table. It is opened when a GPU is asked for, so
/// that one build runs on machines with and without CUDA libraries.
struct CudaOps {
  size_t table_size;  // sizeof(CudaOps) of the plug-in's build: another one is refused
  int (*device_count)();
  std::string (*device_name)(int device);
  int (*capability)(int device);       // compute capability, 90 for 9.0
  int64_t (*memory_peak)(int device);  // bytes in live tensors, highest so far
  int64_t (*memory_free)(int device);  // bytes that nobody uses
  std::unique_ptr<SyncCount> (*count_syncs)();
  /// The CUDA bodies of ops/noise.h.
  void (*fill_normal)(
      const at::Tensor& out, uint64_t seed, Purpose purpose, uint64_t step, int64_t first_sample);
  void (*dropout_mask)(const at::Tensor& out,  // float32
                       uint32_t threshold,
                       float keep_value,
                       uint64_t seed,
                       kernels::StepNumber step,
                       int64_t first_sample,
                       int64_t first_block);
  /// The kernels of ops/kernels/group_norm.h, on the current stream of `device`.
  bool (*norm_fits)(const kernels::NormBatch& batch);
  void (*dropout_bits)(at::Device device,
                       const kernels::NormBatch& batch,
                       uint8_t* kept,
                       uint32_t threshold,
                       uint64_t seed,
                       kernels::StepNumber step,
                       int64_t first_sample,
                       int64_t first_block);
  void (*norm_forward)(
      at::Device device, const kernels::NormBatch& batch, void* y, float* mean, float* rstd);
  void (*norm_backward)(at::Device device,
                        const kernels::NormBatch& batch,
                        const void* dy,
                        const void* more,
                        const float* mean,
                        const float* rstd,
                        void* dx,
                        float* with_norm,
                        float* of_scaled,
                        float* d_added);
  /// Those of ops/kernels/batch.h, loss.h and adamw.h, likewise.
  void (*noisy_batch)(at::Device device, const kernels::NoisyBatch& batch);
  void (*error_loss)(at::Device device,
                     const kernels::ErrorBatch& batch,
                     float* raw,
                     float* weighted);
  void (*error_loss_backward)(at::Device device,
                              const kernels::ErrorBatch& batch,
                              const float* d_weighted,
                              void* df);
  int64_t (*update_scratch_bytes)(int64_t n);
  void (*update)(at::Device device, const kernels::AdamwUpdate& update, void* scratch);
  /// Runs `work` on another stream than the default one, where nothing can be captured: after all
  /// that was queued before and before all that comes after; or on the current stream where that
  /// is another one already. Of one thread.
  void (*on_own_stream)(at::Device device, const std::function<void()>& work);
  /// Returns what waits until everything that is queued on the current stream by now has run.
  std::function<void()> (*mark)(at::Device device);
  /// Captures what `work` queues on the current stream; nothing runs yet. Rethrows what it throws.
  std::unique_ptr<CapturedWork> (*capture)(at::Device device, const std::function<void()>& work);
};

/// The kernels for `tensor`, which only a process with the plug-in can have made.
const CudaOps& cuda_ops(const at::Tensor& tensor);

/// The plug-in's table, opened on the first call; null when it cannot be used, with the reason in
/// `why` when that is given. Must come before anything asks LibTorch about CUDA: it looks for its
/// CUDA part once.
const CudaOps* open_cuda(std::string* why = nullptr);

/// The device for `auto`, `cpu`, `cuda` or `cuda:N`. `auto` takes the first GPU that works, else
/// the CPU, and does not load any CUDA library on a machine without an NVIDIA driver. Throws
/// Error{device} with the remedy when a GPU was asked for and cannot be had. `name` is a device
/// (base/device.h).
at::Device pick_device(const std::string& name);

}  // namespace diffuse
