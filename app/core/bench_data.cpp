// SPDX-License-Identifier: MIT
#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/files.h"
#include "base/text.h"
#include "core/bench.h"
#include "core/model.h"
#include "data/batches.h"
#include "data/dataset.h"
#include "data/parallel.h"
#include "report/table.h"

namespace diffuse {
namespace {

/// Reads, decodes and fits every picture of `entries` on the config's workers. The sum of all
/// bytes, by which two programs can be compared; a file that is no picture adds nothing.
uint64_t decode_pictures(const BenchRequest& request, const std::vector<DataEntry>& entries) {
  const DataOptions& options = request.loaded.config.data;
  std::atomic<uint64_t> sum = 0;
  parallel_for(static_cast<int64_t>(entries.size()), worker_count(options.workers), [&](int64_t i) {
    refuse_to_go_on(request);
    try {
      const std::vector<uint8_t> file =
          read_bytes(std::filesystem::path(options.path) / entries[static_cast<size_t>(i)].path,
                     static_cast<uint64_t>(options.max_file_bytes));
      const Image image = fit_image(decode_image(file, decode_options(options)), options);
      sum += std::accumulate(image.data.begin(), image.data.end(), uint64_t{0});
    } catch (const ImageError&) {
    }
  });
  return sum;
}

/// At most so many pictures are decoded in a block, spread evenly over the folder.
constexpr size_t kDecoded = 4096;

}  // namespace

int bench_data(const BenchRequest& request) {
  const Config& config = request.loaded.config;
  if (config.data.are_points())
    throw Error(Exit::usage, "bench data needs a folder of pictures; this config draws points");
  const int64_t memory = peak_memory_mb(at::kCPU);
  auto start = BenchClock::now();
  DataScan scan = scan_folder(config.data, false);
  const double names = seconds_since(start);
  scan = {};
  start = BenchClock::now();
  scan = scan_folder(config.data, true);
  const double headers = seconds_since(start);
  const size_t pictures = scan.entries.size();
  std::vector<DataEntry> entries;
  const size_t count = std::min(pictures, kDecoded);
  for (size_t i = 0; i < count; ++i) entries.push_back(scan.entries[i * pictures / count]);
  scan = {};
  BenchJson about{{"what", request.what},
                  {"config", request.config_path},
                  {"diffuse", DIFFUSE_VERSION},
                  {"git", request.git},
                  {"date", utc_now()},
                  {"processor", processor()},
                  {"threads", worker_count(config.data.workers)},
                  {"pictures", pictures},
                  {"scan_s", names},
                  {"headers_s", headers},
                  {"scan_mb", peak_memory_mb(at::kCPU) - memory},
                  {"decoded", count},
                  {"pixel_sum", decode_pictures(request, entries)}};
  start = BenchClock::now();
  decode_pictures(request, entries);
  const auto passes = std::max<int64_t>(
      1, std::lround(1 / std::max(seconds_since(start), 1e-9)));  // of a block of about a second
  Blocks decoding(
      request, at::kCPU, about, static_cast<double>(passes) * static_cast<double>(count));
  while (decoding.begin()) {
    for (int64_t i = 0; i < passes; ++i) decode_pictures(request, entries);
    decoding.end();
  }
  if (request.wait) return 0;
  const Dataset data(config.data);
  Batches batches(data, config.data, config.train.batch, 0, 0);
  for (int i = 0; i < 3; ++i) batches.next();
  start = BenchClock::now();
  int64_t taken = 0;
  while (seconds_since(start) < 3) {
    refuse_to_go_on(request);
    batches.next();
    ++taken;
  }
  const double rate = static_cast<double>(taken * config.train.batch) / seconds_since(start);
  about["cached"] = data.cached();
  about["decode_images_per_second"] = decoding.summary();
  about["batch_images_per_second"] = rate;
  about["peak_mb"] = peak_memory_mb(at::kCPU);
  if (request.json) {
    write_to_stdout(about.dump(2) + "\n", "the result");
    return 0;
  }
  Table table{
      .title = "data of " + request.config_path + ", " + about["threads"].dump() + " threads",
      .head = {"pictures", "names s", "headers s", "decoded/s", "batched/s", "scan MB", "peak MB"},
      .rows = {{std::to_string(pictures),
                significant(names, 3),
                significant(headers, 3),
                significant(median(decoding.rates()), 4),
                significant(rate, 4),
                about["scan_mb"].dump(),
                std::to_string(peak_memory_mb(at::kCPU))}},
      .left = 0,
      .notes = {
          "names, headers: the folder listed by names; and with every file's header read. scan MB: "
          "what both took of memory",
          "decoded: " + counted(count, "picture") + " read, decoded and resized",
          data.cached() ? "batched: pictures in batches, decoded once and kept in memory"
                        : "batched: pictures in batches, each decoded when it is needed"}};
  write_to_stdout(table_text(table), "the result");
  return 0;
}

}  // namespace diffuse
