// SPDX-License-Identifier: MIT
#include "report/validation_record.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"

namespace diffuse {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxBytes = uint64_t{1} << 30;

/// One number an image; null was not finite.
std::vector<double> numbers(const json& in, size_t images) {
  std::vector<double> out;
  for (const json& value : in)
    out.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>());
  if (!in.is_array() || out.size() != images)
    throw std::runtime_error(std::to_string(out.size()) + " values for " + std::to_string(images) +
                             " images");
  return out;
}

ValidationRecord parse(const json& in) {
  ValidationRecord out;
  out.step = integer(in.at("step"));
  out.weights = in.at("weights").get<std::string>();
  out.fingerprint = in.at("fingerprint").get<std::string>();
  out.unit = in.at("unit").get<std::string>();
  out.images = integer(in.at("images"));
  out.seed = integer(in.at("seed"));
  if (out.images < 1) throw std::runtime_error("no images");
  const auto images = static_cast<size_t>(out.images);
  if (const auto levels = in.find("levels"); levels != in.end())
    for (const json& level : *levels) {
      const auto logsnr = level.at("logsnr").get<double>();
      out.levels.push_back({logsnr, numbers(level.at("mse_eps"), images)});
    }
  if (const auto bits = in.find("bits"); bits != in.end() && !bits->is_null())
    out.bits = ValidationRecord::Bits{.prior = numbers(bits->at("prior"), images),
                                      .rest = numbers(bits->at("rest"), images),
                                      .decoder = numbers(bits->at("decoder"), images),
                                      .total = numbers(bits->at("total"), images)};
  return out;
}

}  // namespace

ValidationRecord read_validation(const std::filesystem::path& path) {
  const std::string text = read_file(path, Exit::run_folder, kMaxBytes);
  try {
    return parse(json::parse(text));
  } catch (const std::exception& e) {
    throw Error(Exit::run_folder,
                path.string() + " is no validation record (" + e.what() + "); remove it");
  }
}

std::map<int64_t, std::filesystem::path> list_validations(const std::filesystem::path& run) {
  namespace fs = std::filesystem;
  constexpr std::string_view kStart = "step-", kEnd = ".json";
  std::map<int64_t, fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(run / "validation", error);
       !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kStart) || !name.ends_with(kEnd)) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size() - kEnd.size();
    const auto [rest, wrong] = std::from_chars(name.data() + kStart.size(), end, step);
    if (wrong == std::errc() && rest == end) out[step] = it->path();
  }
  return out;
}

double nominal_logsnr(double logsnr) {
  return std::round(logsnr / 1.5) * 1.5 + 0.0;  // + 0: never a negative zero
}

std::map<double, const ValidationRecord::Level*> nominal_levels(const ValidationRecord& record) {
  std::map<double, const ValidationRecord::Level*> out;
  for (const auto& level : record.levels) {
    const double nominal = nominal_logsnr(level.logsnr);
    const auto*& place = out[nominal];
    if (place == nullptr || std::abs(level.logsnr - nominal) < std::abs(place->logsnr - nominal))
      place = &level;
  }
  return out;
}

}  // namespace diffuse
