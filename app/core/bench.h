// SPDX-License-Identifier: MIT
#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/commands.h"
#include "nn/model.h"

// What the parts of `diffuse bench` share.

namespace diffuse {

using BenchJson = nlohmann::ordered_json;
using BenchClock = std::chrono::steady_clock;

double seconds_since(BenchClock::time_point start);

/// Of a list that is not empty.
double median(std::vector<double> values);

/// The processor's model.
std::string processor();

/// The most memory that was in use so far: the process's, or on a GPU what its tensors had.
int64_t peak_memory_mb(at::Device device);

/// What a run of `diffuse bench` knows of itself.
BenchJson description(const BenchRequest& request,
                      const Model& network,
                      at::Device device,
                      bool bf16);

/// Throws Error when a signal asks to stop.
void refuse_to_go_on(const BenchRequest& request);

/// Blocks of measurement, each of as many pictures.
class Blocks {
 public:
  /// With --wait, prints `about` and a line of JSON for each block.
  Blocks(const BenchRequest& request, at::Device device, const BenchJson& about, double pictures);

  /// Whether there is one more block; it begins now. With --wait there is one for each line of
  /// stdin, which this waits for. Throws Error when a signal asks to stop, as end() does.
  bool begin();
  /// The block's work is done; on a GPU the caller has waited for it.
  void end();

  const std::vector<double>& rates() const { return rates_; }  // pictures a second
  const std::vector<double>& walls() const { return walls_; }  // seconds
  const std::vector<double>& cpus() const { return cpus_; }    // seconds of all threads
  /// Of the rates.
  BenchJson summary() const;

 private:
  const BenchRequest& request_;
  at::Device device_;
  double pictures_;
  std::vector<double> rates_, walls_, cpus_;
  BenchClock::time_point start_;
  double cpu_ = 0;
};

int bench_kernels(const BenchRequest& request, at::Device device, bool bf16);
int bench_data(const BenchRequest& request);

}  // namespace diffuse
