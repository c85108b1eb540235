// SPDX-License-Identifier: MIT
#include "data/batches.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "data/parallel.h"

namespace diffuse {
namespace {

// Workers share a batch, so that the first one is there soon; a piece is large enough that the
// queue's lock costs nothing.
constexpr int64_t kPieceImages = 16;

}  // namespace

struct Batches::Impl {
  const Dataset& data;
  DataOptions options;
  int64_t batch;
  uint64_t seed;
  bool pixels;
  int64_t delivered;  // the step of the next batch to hand out; guarded by the mutex
  double waited = 0;

  /// A batch in preparation: step s is in slots[s % slots.size()].
  struct Slot {
    Batch content;
    int64_t pieces_left = 0;
    int64_t failed_piece = 0;  // the first one that threw
    std::exception_ptr error;
  };
  std::vector<Slot> slots;
  int64_t next_step;  // of the next piece to start; guarded by the mutex
  int64_t next_piece = 0;
  bool stopping = false;
  std::mutex mutex;
  std::condition_variable work_changed, batch_done;
  std::vector<std::jthread> threads;  // last: joined before anything they use goes

  Impl(const Dataset& data_,
       const DataOptions& options_,
       int64_t batch_,
       uint64_t seed_,
       int64_t first_step,
       bool pixels_)
      : data(data_),
        options(options_),
        batch(batch_),
        seed(seed_),
        pixels(pixels_),
        delivered(first_step),
        next_step(first_step) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    work_changed.notify_all();
  }

  int64_t pieces() const { return (batch + kPieceImages - 1) / kPieceImages; }

  int64_t image_bytes() const { return options.channels * options.height() * options.width(); }

  Batch empty_batch(int64_t step) const {
    const auto n = static_cast<size_t>(batch);
    return {.step = step,
            .pixels = std::vector<uint8_t>(pixels ? n * static_cast<size_t>(image_bytes()) : 0),
            .labels = std::vector<int64_t>(n),
            .indices = std::vector<int64_t>(n),
            .flips = std::vector<uint8_t>(pixels ? 0 : n)};
  }

  /// The image at `index` or, when that is bad, the next good one. Returns its index. Null: the
  /// index alone.
  int64_t fetch(int64_t index, bool flip, double crop_y, double crop_x, uint8_t* out) const {
    for (int64_t tries = 0; tries < data.size(); ++tries) {
      const int64_t i = (index + tries) % data.size();
      if (data.fetch(i, flip, crop_y, crop_x, out)) return i;
    }
    throw Error(Exit::data,
                "no picture in " + options.path + " can be used; " + list_skipped(data.bad()));
  }

  /// Images [begin, end) of a batch.
  void fill(Batch& out, int64_t begin, int64_t end) const {
    const auto n = static_cast<uint64_t>(data.size());
    const int64_t channels = options.channels, plane = options.height() * options.width();
    std::vector<uint8_t> interleaved(static_cast<size_t>(image_bytes()));
    std::optional<Permutation> order;
    uint64_t order_epoch = 0;
    for (int64_t i = begin; i < end; ++i) {
      const auto position = static_cast<uint64_t>(out.step * batch + i);
      const uint64_t epoch = position / n, place = position % n;
      if (!order || epoch != order_epoch) {
        order.emplace(n, Stream{seed, Purpose::order, epoch});
        order_epoch = epoch;
      }
      const bool flip = options.flip && (random_bits({seed, Purpose::flip, epoch, place}) & 1) != 0;
      const Stream crop{seed, Purpose::crop, epoch, place};
      const int64_t index = fetch(static_cast<int64_t>((*order)(place)),
                                  flip,
                                  random_uniform(crop, 0),
                                  random_uniform(crop, 1),
                                  pixels ? interleaved.data() : nullptr);
      out.indices[static_cast<size_t>(i)] = index;
      out.labels[static_cast<size_t>(i)] = data.label(index);
      if (!pixels) {
        out.flips[static_cast<size_t>(i)] = flip ? 1 : 0;
        continue;
      }
      uint8_t* to = out.pixels.data() + i * image_bytes();
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = 0; p < plane; ++p)
          *to++ = interleaved[static_cast<size_t>(p * channels + c)];
    }
  }

  void start(int64_t workers) {
    if (workers <= 0) return;
    slots.resize(static_cast<size_t>(std::max<int64_t>(options.queue_batches, 1)));
    for (int64_t i = 0; i < workers; ++i) threads.emplace_back([this] { work(); });
  }

  Slot& slot(int64_t step) { return slots[static_cast<size_t>(step) % slots.size()]; }

  /// Makes the slot ready for its pieces. Without the memory for them the batch is a single piece
  /// that failed, and why is returned.
  std::exception_ptr prepare(Slot& s, int64_t step) const {
    s.pieces_left = pieces();
    s.error = nullptr;
    try {
      s.content = empty_batch(step);
      return nullptr;
    } catch (...) {
      s.pieces_left = 1;
      return std::current_exception();
    }
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      work_changed.wait(lock, [&] {
        return stopping || next_step < delivered + static_cast<int64_t>(slots.size());
      });
      if (stopping) return;
      const int64_t step = next_step, piece = next_piece;
      Slot& s = slot(step);
      std::exception_ptr error = piece == 0 ? prepare(s, step) : nullptr;
      if (error || ++next_piece == pieces()) {
        next_piece = 0;
        ++next_step;
      }
      lock.unlock();
      try {
        if (!error)
          fill(s.content, piece * kPieceImages, std::min((piece + 1) * kPieceImages, batch));
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error && (!s.error || piece < s.failed_piece)) {
        s.error = error;
        s.failed_piece = piece;
      }
      if (--s.pieces_left == 0) batch_done.notify_all();
    }
  }

  Batch next() {
    if (threads.empty()) {
      Batch out = empty_batch(delivered);
      fill(out, 0, batch);
      ++delivered;
      return out;
    }
    std::unique_lock lock(mutex);
    Slot& s = slot(delivered);
    batch_done.wait(lock, [&] { return next_step > delivered && s.pieces_left == 0; });
    if (s.error) std::rethrow_exception(s.error);  // and again when asked again
    Batch out = std::move(s.content);
    ++delivered;
    lock.unlock();
    work_changed.notify_all();
    return out;
  }
};

Batches::Batches(const Dataset& data,
                 const DataOptions& options,
                 int64_t batch,
                 uint64_t seed,
                 int64_t first_step,
                 bool pixels)
    : impl_(std::make_unique<Impl>(data, options, batch, seed, first_step, pixels)) {
  DIFFUSE_CHECK(batch >= 1 && first_step >= 0 && data.size() >= 1);
  DIFFUSE_CHECK(pixels || !data.pixels().empty());
  impl_->start(worker_count(options.workers));
}

Batches::~Batches() = default;

Batch Batches::next() {
  const auto start = std::chrono::steady_clock::now();
  Batch out = impl_->next();
  impl_->waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

double Batches::waited() const { return impl_->waited; }

}  // namespace diffuse
