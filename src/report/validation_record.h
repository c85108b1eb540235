// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace diffuse {

/// What validation/step-*.json of a run folder holds for comparisons: figures of each held-out
/// image, in one order. Numbers that were not finite are NaN.
struct ValidationRecord {
  struct Level {
    double logsnr = 0;
    std::vector<double> mse_eps;  // per image: mean squared error of the predicted noise
  };
  struct Bits {  // per image, in `unit`
    std::vector<double> prior, rest, decoder, total;
  };
  int64_t step = 0;
  std::string weights;      // "ema" or "raw"
  std::string fingerprint;  // of the held-out set: equal ones are the same images in one order
  std::string unit;         // "bits/dim" or "nats/dim"
  int64_t images = 0;
  int64_t seed = 0;  // of the noise
  std::vector<Level> levels;
  std::optional<Bits> bits;
};

/// Throws Error{run_folder} with path and reason when it cannot be read.
ValidationRecord read_validation(const std::filesystem::path& path);

/// The records of a run folder by their step. Empty when there are none.
std::map<int64_t, std::filesystem::path> list_validations(const std::filesystem::path& run);

/// The log SNR that a level stands for: the nearest multiple of 1.5. The chains of two runs reach
/// it at steps that are only near it.
double nominal_logsnr(double logsnr);

/// The record's level nearest to each nominal log SNR.
std::map<double, const ValidationRecord::Level*> nominal_levels(const ValidationRecord& record);

}  // namespace diffuse
