// SPDX-License-Identifier: MIT
#include "data/dataset.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "data/parallel.h"

namespace diffuse {
namespace {

constexpr int64_t kMiB = 1 << 20;

/// So many bad files are logged one by one; all are in bad().
constexpr size_t kMostLogged = 20;

}  // namespace

struct Dataset::Impl {
  DataOptions options;
  DataScan scan;
  int64_t pictures = 0;     // files that look like one
  int64_t image_bytes = 0;  // of a finished image

  bool cached = false;
  std::unique_ptr<uint8_t[]> fixed;  // crop center or none: image i at i * image_bytes
  std::vector<Image> covers;         // crop random: resized, not yet cut

  mutable std::mutex mutex;
  std::map<int64_t, std::string> bad_entries;  // by index, with the reason; guarded by the mutex
  int64_t bad_pictures = 0;                    // with those of the scan; guarded by the mutex
  size_t logged = 0;                           // guarded by the mutex

  const std::string& path(int64_t index) const {
    return scan.entries[static_cast<size_t>(index)].path;
  }

  /// Decoded and fitted (fit_image). Throws ImageError.
  Image load(int64_t index) const {
    std::vector<uint8_t> file;
    try {
      file = read_bytes(std::filesystem::path(options.path) / path(index),
                        static_cast<uint64_t>(options.max_file_bytes));
    } catch (const Error& e) {
      throw ImageError(e.what());
    }
    return fit_image(decode_image(file, decode_options(options)), options);
  }

  void log_bad(const std::string& file, const std::string& reason) {
    if (logged < kMostLogged) log::warn("skipped picture " + printable(file + ": " + reason, true));
    if (logged == kMostLogged) log::warn("further skipped pictures are not named here");
    ++logged;
  }

  void log_skipped() {
    std::vector<SkippedFile> others;
    for (const SkippedFile& s : all_skipped()) {
      if (s.picture)
        log_bad(s.path, s.reason);
      else
        others.push_back(s);
    }
    if (!others.empty()) log::info(options.path + ": " + list_skipped(others));
  }

  std::vector<SkippedFile> all_skipped() const {
    std::vector<SkippedFile> out = scan.skipped;
    for (const auto& [index, reason] : bad_entries) out.push_back({path(index), reason, true});
    std::sort(out.begin(), out.end(), [](const SkippedFile& a, const SkippedFile& b) {
      return a.path < b.path;
    });
    return out;
  }

  void check_bad_fraction() const {
    refuse_too_many_bad(options, bad_pictures, pictures, [this] { return all_skipped(); });
  }

  /// Records a file that did not decode in a streamed set, as on_bad_image says.
  void add_bad(int64_t index, const std::string& reason) {
    if (options.on_bad_image == BadImage::fail) refuse_bad(options, {{path(index), reason, true}});
    const std::lock_guard lock(mutex);
    if (!bad_entries.emplace(index, reason).second) return;  // another thread was first
    ++bad_pictures;
    check_bad_fraction();
    log_bad(path(index), reason);
  }

  void fill_cache(const std::function<void(int64_t, int64_t)>& progress) {
    const auto count = static_cast<int64_t>(scan.entries.size());
    const bool random = options.crop == Crop::random;
    const bool automatic = options.cache == CachePolicy::automatic;
    const int64_t limit = options.cache_mb * kMiB;
    if (options.cache == CachePolicy::none || (automatic && image_bytes > limit / count)) return;
    std::atomic<int64_t> used = 0;  // of `covers`, whose sizes are known once decoded
    const std::string too_large =
        "data.cache: the decoded images do not fit in memory; set data.cache to 'none'";
    std::vector<std::string> reasons(scan.entries.size());
    try {
      if (random)
        covers.resize(scan.entries.size());
      else
        fixed = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(count * image_bytes));
      parallel_for(
          count,
          worker_count(options.workers),
          [&](int64_t i) {
            if (automatic && used > limit) return;
            try {
              Image image = load(i);
              used += static_cast<int64_t>(image.data.size());
              if (random)
                covers[static_cast<size_t>(i)] = std::move(image);
              else
                std::copy(image.data.begin(), image.data.end(), fixed.get() + i * image_bytes);
            } catch (const ImageError& e) {
              if (options.on_bad_image == BadImage::fail)
                refuse_bad(options, {{path(i), e.what(), true}});
              reasons[static_cast<size_t>(i)] = e.what();
            }
          },
          progress);
    } catch (const std::bad_alloc&) {
      throw Error(Exit::data, too_large);
    }
    if (automatic && random && used > limit) {
      covers = {};
      return;
    }
    cached = true;
    for (int64_t i = 0; i < count; ++i)
      if (!reasons[static_cast<size_t>(i)].empty())
        bad_entries.emplace(i, reasons[static_cast<size_t>(i)]);
    bad_pictures += static_cast<int64_t>(bad_entries.size());
    check_bad_fraction();
    if (static_cast<int64_t>(bad_entries.size()) == count)
      throw Error(Exit::data,
                  "no picture in " + options.path + " can be used; " + list_skipped(all_skipped()));
  }

  /// Cuts the window out of a cover, mirrors it if asked.
  void write(const uint8_t* image,
             int64_t top,
             int64_t left,
             int64_t row_pixels,
             bool flip,
             uint8_t* out) const {
    const int64_t channels = options.channels, width = options.width();
    for (int64_t y = 0; y < options.height(); ++y) {
      const uint8_t* from = image + ((top + y) * row_pixels + left) * channels;
      uint8_t* to = out + y * width * channels;
      if (!flip) {
        std::copy_n(from, width * channels, to);
        continue;
      }
      for (int64_t x = 0; x < width; ++x)
        std::copy_n(from + (width - 1 - x) * channels, channels, to + x * channels);
    }
  }

  void write_window(
      const Image& cover, double crop_y, double crop_x, bool flip, uint8_t* out) const {
    const auto place = [](double u, int64_t room) {
      return std::min(static_cast<int64_t>(u * static_cast<double>(room + 1)), room);
    };
    const int64_t top = place(crop_y, cover.height - options.height());
    const int64_t left = place(crop_x, cover.width - options.width());
    write(cover.data.data(), top, left, cover.width, flip, out);
  }
};

void refuse_bad(const DataOptions& options, const std::vector<SkippedFile>& skipped) {
  if (options.on_bad_image != BadImage::fail) return;
  for (const SkippedFile& s : skipped)
    if (s.picture)
      throw Error(
          Exit::data,
          "bad picture " +
              printable((std::filesystem::path(options.path) / s.path).string() + ": " + s.reason,
                        true) +
              "\nMend or remove it, or set data.on_bad_image to 'skip'.");
}

void require_classes(const DataOptions& options, const std::vector<std::string>& label_names) {
  if (label_names.empty())
    throw Error(Exit::data,
                options.path +
                    " has no classes, which model.class_conditional needs; put the pictures of "
                    "each class into a folder of its own, and none beside them");
}

void refuse_too_many_bad(const DataOptions& options,
                         int64_t bad,
                         int64_t pictures,
                         const std::function<std::vector<SkippedFile>()>& skipped) {
  if (static_cast<double>(bad) <= options.max_bad_fraction * static_cast<double>(pictures)) return;
  std::vector<SkippedFile> named = skipped();
  std::erase_if(named, [](const SkippedFile& s) { return !s.picture; });
  throw Error(Exit::data,
              "too many bad pictures in " + options.path + ": " + std::to_string(bad) + " of " +
                  std::to_string(pictures) + "; " + list_skipped(named) +
                  "\nMend or remove them, or raise data.max_bad_fraction.");
}

Dataset::Dataset(const DataOptions& options, const std::function<void(int64_t, int64_t)>& progress)
    : impl_(std::make_unique<Impl>()) {
  Impl& d = *impl_;
  d.options = options;
  d.scan = scan_folder(options, true);
  refuse_bad(options, d.scan.skipped);
  d.image_bytes = options.height() * options.width() * options.channels;
  d.pictures = static_cast<int64_t>(d.scan.entries.size());
  for (const SkippedFile& s : d.scan.skipped) {
    if (!s.picture) continue;
    ++d.pictures;
    ++d.bad_pictures;
  }
  d.check_bad_fraction();
  d.fill_cache(progress);
  d.log_skipped();
}

Dataset::~Dataset() = default;
Dataset::Dataset(Dataset&&) noexcept = default;

int64_t Dataset::size() const {
  return static_cast<int64_t>(impl_->scan.entries.size()) - impl_->scan.held_out;
}

int64_t Dataset::held_out() const { return impl_->scan.held_out; }

int64_t Dataset::usable() const {
  const std::lock_guard lock(impl_->mutex);
  return size() + held_out() - static_cast<int64_t>(impl_->bad_entries.size());
}

const DataScan& Dataset::scan() const { return impl_->scan; }
bool Dataset::cached() const { return impl_->cached; }

int64_t Dataset::label(int64_t index) const {
  return impl_->scan.entries[static_cast<size_t>(index)].label;
}

bool Dataset::fetch(int64_t index, bool flip, double crop_y, double crop_x, uint8_t* out) const {
  Impl& d = *impl_;
  DIFFUSE_CHECK(index >= 0 && index < size() + held_out());
  {
    std::unique_lock lock(d.mutex, std::defer_lock);
    if (!d.cached) lock.lock();  // else nothing is added any more
    if (d.bad_entries.contains(index)) return false;
  }
  if (d.cached && d.fixed) {
    if (out == nullptr) return true;
    d.write(d.fixed.get() + index * d.image_bytes, 0, 0, d.options.width(), flip, out);
    return true;
  }
  if (d.cached) {
    d.write_window(d.covers[static_cast<size_t>(index)], crop_y, crop_x, flip, out);
    return true;
  }
  try {
    d.write_window(d.load(index), crop_y, crop_x, flip, out);
  } catch (const ImageError& e) {
    d.add_bad(index, e.what());
    return false;
  }
  return true;
}

std::span<const uint8_t> Dataset::pixels() const {
  const Impl& d = *impl_;
  if (!d.cached || !d.fixed) return {};
  return {d.fixed.get(), d.scan.entries.size() * static_cast<size_t>(d.image_bytes)};
}

std::vector<SkippedFile> Dataset::bad() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->all_skipped();
}

}  // namespace diffuse
