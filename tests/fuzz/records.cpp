// SPDX-License-Identifier: MIT
#include <xxhash.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "base/text.h"
#include "config/yaml.h"
#include "diffusion/number_file.h"
#include "input_file.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"
#include "report/metrics.h"
#include "report/validation_record.h"
#include "targets.h"

namespace diffuse::fuzz {
namespace {

void read_as_metrics(Bytes input) {
  static const InputFile file;
  file.write(input);
  for (const MetricRow& row : read_metrics(file.path()))
    for (const auto& [name, value] : row.values) DIFFUSE_CHECK(!std::isinf(value));
}

void read_as_validation(Bytes input) {
  static const InputFile file;
  file.write(input);
  try {
    const ValidationRecord record = read_validation(file.path());
    const auto images = static_cast<size_t>(record.images);
    for (const auto& level : record.levels) DIFFUSE_CHECK(level.mse_eps.size() == images);
    if (record.bits) DIFFUSE_CHECK(record.bits->total.size() == images);
    DIFFUSE_CHECK(nominal_levels(record).size() <= record.levels.size());
  } catch (const Error& e) {
    DIFFUSE_CHECK(e.code == Exit::run_folder);
  }
}

void read_as_status(Bytes input) {
  static const InputFolder folder;
  folder.write("status.json", text_of(input));
  read_status(folder.path());
}

std::string xxh3_128(std::string_view text) {
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  return hex(hash.high64) + hex(hash.low64);
}

/// The manifest with the hash that it should have; the input as it is where it has not the form.
std::string signed_manifest(std::string_view text) {
  using nlohmann::ordered_json;
  ordered_json in = ordered_json::parse(text, nullptr, false);
  if (!in.is_object()) return std::string(text);
  in.erase("xxh3_128");
  try {
    in["xxh3_128"] = xxh3_128(in.dump(1) + "\n");
    return in.dump(1) + "\n";
  } catch (const ordered_json::exception&) {  // not UTF-8
    return std::string(text);
  }
}

}  // namespace

void records(Bytes input) {
  if (input.empty()) return;
  const Bytes rest = input.subspan(1);
  switch (input[0] % 3) {
    case 0:
      return read_as_metrics(rest);
    case 1:
      return read_as_status(rest);
    default:
      return read_as_validation(rest);
  }
}

void manifest(Bytes input) {
  static const InputFolder folder;
  folder.write("file.txt", "four");
  for (const std::string& text : {std::string(text_of(input)), signed_manifest(text_of(input))}) {
    folder.write("MANIFEST.json", text);
    try {
      for (const ManifestEntry& entry : verify_checkpoint(folder.path())) {
        DIFFUSE_CHECK(entry.name == "file.txt" || entry.name == "MANIFEST.json");
      }
    } catch (const Error& e) {
      DIFFUSE_CHECK(e.code == Exit::checkpoint);
    }
  }
}

void numbers(Bytes input) {
  static const InputFile file;
  file.write(input);
  for (const size_t columns : {1, 2}) {
    try {
      for (const auto& row : read_number_file(file.path(), columns)) {
        DIFFUSE_CHECK(row.size() == columns);
        for (const double value : row) DIFFUSE_CHECK(std::isfinite(value));
      }
    } catch (const Error& e) {
      DIFFUSE_CHECK(e.code == Exit::config);
      DIFFUSE_CHECK(std::string_view(e.what()).starts_with(file.path()));
    }
  }
  // A whole config takes as long as a hundred tables: for one input in 16.
  if (!is_drawn(input)) return;
  for (const std::string& text : {"{steps: 4, schedule: {type: table, file: " + file.path() + "}}",
                                  "{weighting: {type: table, file: " + file.path() + "}}"}) {
    try {
      load_config_text("data: {path: /p}\ndiffusion: " + text, "c.yaml", "/", {});
    } catch (const ConfigError&) {  // says what is wrong
    }
  }
}

}  // namespace diffuse::fuzz
