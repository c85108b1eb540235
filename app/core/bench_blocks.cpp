// SPDX-License-Identifier: MIT
#include <ATen/Parallel.h>
#include <sys/resource.h>
#include <torch/version.h>

#include <algorithm>
#include <fstream>
#include <iostream>

#include "base/error.h"
#include "base/text.h"
#include "core/bench.h"
#include "core/model.h"
#include "ops/cuda.h"
#include "ops/kernels/cpu.h"

namespace diffuse {
namespace {

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

double seconds_since(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

int64_t peak_memory_mb(at::Device device) {
  if (device.is_cuda()) return open_cuda()->memory_peak(device.index()) / (1 << 20);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

BenchJson description(const BenchRequest& request,
                      const Model& network,
                      at::Device device,
                      bool bf16) {
  const Config& config = request.loaded.config;
  std::string on = processor();
  if (const CudaOps* cuda = device.is_cuda() ? open_cuda() : nullptr)
    on = cuda->device_name(device.index());
  BenchJson out{{"what", request.what},
                {"config", request.config_path},
                {"diffuse", DIFFUSE_VERSION},
                {"git", request.git},
                {"libtorch", TORCH_VERSION},
                {"date", utc_now()},
                {"device", device.str()},
                {"processor", on},
                {"threads", at::get_num_threads()},
                {"kernels", device.is_cuda() ? "cuda" : kernels::cpu_kernels().name},
                {"fused", config.runtime.fused},
                {"precision", bf16 ? "bf16" : "fp32"},
                {"parameters", network.parameter_count()}};
  if (!config.data.are_points()) {
    const std::vector<int64_t> shape = config.data.shape();
    const int64_t outputs = is_learned(config.diffusion.variance) ? 2 : 1;
    out["macs"] = config.model.macs(shape[0], outputs * shape[0], shape[1], shape[2]);
  }
  return out;
}

void refuse_to_go_on(const BenchRequest& request) {
  if (request.signals->stop() != Exit::ok)
    throw Error(request.signals->stop(), "stopped; nothing was written");
}

Blocks::Blocks(const BenchRequest& request,
               at::Device device,
               const BenchJson& about,
               double pictures)
    : request_(request), device_(device), pictures_(pictures) {
  if (request.wait) write_to_stdout(about.dump() + "\n", "what is measured");
}

bool Blocks::begin() {
  std::string line;
  const bool more =
      request_.wait ? !!std::getline(std::cin, line) : std::ssize(rates_) < request_.blocks;
  refuse_to_go_on(request_);
  if (!more) return false;
  start_ = BenchClock::now();
  cpu_ = cpu_seconds();
  return true;
}

void Blocks::end() {
  refuse_to_go_on(request_);  // a signal has cut the block short
  walls_.push_back(seconds_since(start_));
  cpus_.push_back(cpu_seconds() - cpu_);
  rates_.push_back(pictures_ / walls_.back());
  if (request_.wait)
    write_to_stdout(BenchJson{{"wall_s", walls_.back()},
                              {"cpu_s", cpus_.back()},
                              {"images_per_second", rates_.back()},
                              {"peak_mb", peak_memory_mb(device_)}}
                            .dump() +
                        "\n",
                    "a block");
}

BenchJson Blocks::summary() const {
  const auto [low, high] = std::minmax_element(rates_.begin(), rates_.end());
  return {{"median", median(rates_)}, {"min", *low}, {"max", *high}};
}

}  // namespace diffuse
