// SPDX-License-Identifier: MIT
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

#include <memory>
#include <string>

#include <exception>
#include <map>

#include "ops/cuda.h"

// libdiffuse_cuda: the launch side of the kernels. It brings libtorch_cuda into the process.

namespace diffuse {
namespace {

c10::DeviceIndex index_of(int device) { return static_cast<c10::DeviceIndex>(device); }

std::string device_name(int device) {
  cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties.name;
}

int capability(int device) {
  cudaDeviceProp properties;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return 10 * properties.major + properties.minor;
}

int64_t memory_peak(int device) {
  using c10::CachingDeviceAllocator::StatType;
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index_of(device));
  return stats.allocated_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak;
}

/// Makes `device` the current one and checks what `launch`, given its current stream, returns.
template <class Launch>
void on_stream(at::Device device, const Launch& launch) {
  const c10::cuda::CUDAGuard guard(device);
  C10_CUDA_CHECK(
      static_cast<cudaError_t>(launch(c10::cuda::getCurrentCUDAStream(device.index()).stream())));
}

void fill_normal(
    const at::Tensor& out, uint64_t seed, Purpose purpose, uint64_t step, int64_t first_sample) {
  on_stream(out.device(), [&](void* stream) {
    return kernels::fill_normal(out.mutable_data_ptr<float>(),
                                out.size(0),
                                out.numel() / out.size(0),
                                seed,
                                static_cast<uint32_t>(purpose),
                                step,
                                first_sample,
                                stream);
  });
}

void dropout_mask(const at::Tensor& out,
                  uint32_t threshold,
                  float keep_value,
                  uint64_t seed,
                  kernels::StepNumber step,
                  int64_t first_sample,
                  int64_t first_block) {
  on_stream(out.device(), [&](void* stream) {
    return kernels::dropout_mask(out.mutable_data_ptr<float>(),
                                 out.size(0),
                                 out.numel() / out.size(0),
                                 threshold,
                                 keep_value,
                                 seed,
                                 step,
                                 first_sample,
                                 first_block,
                                 stream);
  });
}

void dropout_bits(at::Device device,
                  const kernels::NormBatch& b,
                  uint8_t* kept,
                  uint32_t threshold,
                  uint64_t seed,
                  kernels::StepNumber step,
                  int64_t first_sample,
                  int64_t first_block) {
  on_stream(device, [&](void* stream) {
    return kernels::dropout_bits(
        kept, b.n, b.pixels, b.channels, threshold, seed, step, first_sample, first_block, stream);
  });
}

void norm_forward(
    at::Device device, const kernels::NormBatch& batch, void* y, float* mean, float* rstd) {
  on_stream(device,
            [&](void* stream) { return kernels::norm_forward(batch, y, mean, rstd, stream); });
}

void norm_backward(at::Device device,
                   const kernels::NormBatch& batch,
                   const void* dy,
                   const void* more,
                   const float* mean,
                   const float* rstd,
                   void* dx,
                   float* with_norm,
                   float* of_scaled,
                   float* d_added) {
  on_stream(device, [&](void* stream) {
    return kernels::norm_backward(
        batch, dy, more, mean, rstd, dx, with_norm, of_scaled, d_added, stream);
  });
}

void noisy_batch(at::Device device, const kernels::NoisyBatch& batch) {
  on_stream(device, [&](void* stream) { return kernels::noisy_batch(batch, stream); });
}

void error_loss(at::Device device, const kernels::ErrorBatch& batch, float* raw, float* weighted) {
  on_stream(device,
            [&](void* stream) { return kernels::error_loss(batch, raw, weighted, stream); });
}

void error_loss_backward(at::Device device,
                         const kernels::ErrorBatch& batch,
                         const float* d_weighted,
                         void* df) {
  on_stream(device, [&](void* stream) {
    return kernels::error_loss_backward(batch, d_weighted, df, stream);
  });
}

void update(at::Device device, const kernels::AdamwUpdate& wanted, void* scratch) {
  on_stream(device, [&](void* stream) { return kernels::update(wanted, scratch, stream); });
}

void on_own_stream(at::Device device, const std::function<void()>& work) {
  const c10::cuda::CUDAGuard guard(device);
  if (c10::cuda::getCurrentCUDAStream() != c10::cuda::getDefaultCUDAStream()) return work();
  // One for all calls: LibTorch keeps memory for each stream that was ever used.
  static std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  const c10::cuda::CUDAStream stream =
      streams.try_emplace(device.index(), c10::cuda::getStreamFromPool(false, device.index()))
          .first->second;
  c10::cuda::device_synchronize();
  try {
    const c10::cuda::CUDAStreamGuard as_current(stream);
    work();
  } catch (...) {
    // Whoever saves what there is works on another stream. An error of this is the same one.
    cudaDeviceSynchronize();
    throw;
  }
  c10::cuda::device_synchronize();
}

std::function<void()> mark(at::Device device) {
  // A blocking event: a host that waits by spinning takes a core from the data's threads.
  const auto event =
      std::make_shared<at::cuda::CUDAEvent>(cudaEventDisableTiming | cudaEventBlockingSync);
  event->record(c10::cuda::getCurrentCUDAStream(device.index()));
  return [event] { event->synchronize(); };
}

class Graph : public CapturedWork {
 public:
  Graph(at::Device device, const std::function<void()>& work) {
    // What was cached by steps that were not captured is of no use to one that is.
    c10::cuda::CUDACachingAllocator::emptyCache();
    const at::cuda::MempoolId_t pool = at::cuda::graph_pool_handle();
    // Other threads (the loader's, autograd's own) may do as they please.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
      graph_.capture_end();
    } catch (...) {
      give_up(device, pool);
      throw;
    }
  }
  void replay() override { graph_.replay(); }

 private:
  /// After an error. LibTorch 2.11 ends a capture that CUDA has made invalid without telling its
  /// allocators, which would then serve every later allocation from the capture's pool.
  void give_up(at::Device device, at::cuda::MempoolId_t pool) {
    const auto attempt = [](const auto& action) {
      try {
        action();
        return true;
      } catch (
          const std::exception&) {  // it was done already, or the first error is the one to tell
        return false;
      }
    };
    if (attempt([&] { graph_.capture_end(); })) return;
    if (attempt([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(device.index(), pool); }))
      attempt([&] { c10::cuda::CUDACachingAllocator::releasePool(device.index(), pool); });
    at::HostAllocator* const host = at::getHostAllocator(at::kCUDA);
    if (attempt([&] { host->end_allocate_to_pool(pool); }))
      attempt([&] { host->release_pool(pool); });
  }

  at::cuda::CUDAGraph graph_;
};

std::unique_ptr<CapturedWork> capture(at::Device device, const std::function<void()>& work) {
  const c10::cuda::CUDAGuard guard(device);
  return std::make_unique<Graph>(device, work);
}

/// LibTorch can warn of each wait; the warnings are counted instead of printed.
class CountedWarnings : public SyncCount, private c10::WarningHandler {
 public:
  CountedWarnings() : before_(c10::cuda::warning_state().get_sync_debug_mode()), guard_(this) {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN);
  }
  ~CountedWarnings() override { c10::cuda::warning_state().set_sync_debug_mode(before_); }
  int64_t count() const override { return count_; }

 private:
  void process(const c10::Warning& warning) override {
    if (warning.msg().find("synchronizing CUDA operation") != std::string::npos)
      ++count_;
    else
      c10::WarningHandler::process(warning);
  }

  c10::cuda::SyncDebugMode before_;
  int64_t count_ = 0;
  c10::WarningUtils::WarningHandlerGuard guard_;
};

std::unique_ptr<SyncCount> count_syncs() { return std::make_unique<CountedWarnings>(); }

int64_t memory_free(int device) {
  const c10::cuda::CUDAGuard guard(index_of(device));
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

}  // namespace
}  // namespace diffuse

extern "C" const diffuse::CudaOps* diffuse_cuda_ops() {
  using namespace diffuse;
  static const CudaOps ops{
      sizeof(CudaOps),
      [] { return static_cast<int>(c10::cuda::device_count()); },
      device_name,
      capability,
      memory_peak,
      memory_free,
      count_syncs,
      diffuse::fill_normal,
      diffuse::dropout_mask,
      kernels::norm_fits,
      diffuse::dropout_bits,
      diffuse::norm_forward,
      diffuse::norm_backward,
      diffuse::noisy_batch,
      diffuse::error_loss,
      diffuse::error_loss_backward,
      kernels::update_scratch_bytes,
      diffuse::update,
      diffuse::on_own_stream,
      diffuse::mark,
      diffuse::capture,
  };
  return &ops;
}
