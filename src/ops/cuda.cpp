// SPDX-License-Identifier: MIT
#include "ops/cuda.h"

#include <dlfcn.h>

#include <exception>
#include <filesystem>
#include <optional>

#include "base/device.h"
#include "base/error.h"
#include "base/log.h"

namespace diffuse {
namespace {

struct Opened {
  const CudaOps* ops = nullptr;
  std::string why;  // when ops is null
};

// The driver's control node, or its user library where the node is elsewhere (WSL): both are cheap
// to ask for, while the CUDA libraries take a second and hundreds of megabytes to load.
bool has_driver() {
  std::error_code ignored;
  if (std::filesystem::exists("/dev/nvidiactl", ignored)) return true;
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (driver != nullptr) dlclose(driver);
  return driver != nullptr;
}

Opened open() {
  Opened out;
  if (!has_driver()) {
    out.why = "this machine has no NVIDIA driver (no /dev/nvidiactl, no libcuda.so.1)";
    return out;
  }
  // By bare name: found beside the calling library through its RUNPATH. Never closed.
  void* const library = dlopen("libdiffuse_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const std::string reason = dlerror();
    out.why = reason.find("libdiffuse_cuda.so:") == 0
                  ? "this build has no CUDA part (" + reason +
                        "); build with nvcc installed and -DDIFFUSE_CUDA=ON"
                  : "the CUDA libraries cannot be loaded (" + reason +
                        "); install them with scripts/setup --cuda";
    return out;
  }
  using Table = const CudaOps* (*)();
  const auto table = reinterpret_cast<Table>(dlsym(library, "diffuse_cuda_ops"));
  DIFFUSE_CHECK(table != nullptr);
  const CudaOps* const ops = table();
  if (ops->table_size != sizeof(CudaOps)) {
    out.why = "libdiffuse_cuda.so is of another build; build or install diffuse again";
    return out;
  }
  try {
    if (ops->device_count() > 0)
      out.ops = ops;
    else
      out.why = "the NVIDIA driver shows no GPU (see nvidia-smi and CUDA_VISIBLE_DEVICES)";
  } catch (const std::exception& e) {
    out.why = std::string("CUDA does not start: ") + e.what();
  }
  return out;
}

/// Why GPU `index` cannot be used, or nothing.
std::string unusable(const CudaOps& cuda, int index) {
  constexpr int kOldest = 80;  // scripts/cmake/DiffuseCuda.cmake builds for this and later
  const int capability = cuda.capability(index);
  if (capability >= kOldest) return "";
  return cuda.device_name(index) + " has compute capability " + std::to_string(capability / 10) +
         "." + std::to_string(capability % 10) + ", and diffuse is built for 8.0 and later";
}

}  // namespace

const CudaOps* open_cuda(std::string* why) {
  static const Opened opened = open();
  if (why != nullptr) *why = opened.why;
  return opened.ops;
}

const CudaOps& cuda_ops(const at::Tensor& tensor) {
  DIFFUSE_CHECK(tensor.is_cuda());
  const CudaOps* const ops = open_cuda();
  DIFFUSE_CHECK(ops != nullptr);
  return *ops;
}

at::Device pick_device(const std::string& name) {
  const std::optional<DeviceName> wanted = parse_device(name);
  DIFFUSE_CHECK(wanted.has_value());  // the config and the command line refuse others
  if (wanted->kind == DeviceName::Kind::cpu) return at::Device(at::kCPU);

  std::string why;
  if (wanted->kind == DeviceName::Kind::automatic) {
    if (const CudaOps* const cuda = open_cuda(&why)) {
      why = unusable(*cuda, 0);
      if (why.empty()) return at::Device(at::kCUDA, 0);
    }
    // Worth a person's attention only where there is a GPU that goes unused.
    if (has_driver())
      log::warn("device auto: the CPU is used, as " + why);
    else
      log::debug("device auto: the CPU is used, as " + why);
    return at::Device(at::kCPU);
  }

  const CudaOps* const cuda = open_cuda(&why);
  if (cuda == nullptr)
    throw Error(Exit::device,
                "device '" + name + "' cannot be had: " + why + "; or use device cpu or auto");
  const int count = cuda->device_count();
  if (wanted->index >= count)
    throw Error(
        Exit::device,
        "device '" + name + "' does not exist: this machine has " + std::to_string(count) +
            (count == 1 ? " GPU, cuda:0" : " GPUs, cuda:0 to cuda:" + std::to_string(count - 1)));
  if (why = unusable(*cuda, wanted->index); !why.empty())
    throw Error(Exit::device, "device '" + name + "' cannot be used: " + why + "; use device cpu");
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(wanted->index));
}

}  // namespace diffuse
