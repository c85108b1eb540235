// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <new>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config/memory_plan.h"
#include "data/batches.h"
#include "ops/out_of_memory.h"
#include "support/trials.h"
#include "train/train.h"

// Training under a limit of memory: LibTorch's allocator on the CPU is replaced by one that counts.

namespace diffuse {
namespace {

constexpr int64_t kUnlimited = int64_t{1} << 40;

/// Refuses what would make more than `limit` bytes live, and one allocation when `left` others have
/// been made.
class LimitedAllocator : public c10::Allocator {
 public:
  std::atomic<int64_t> live{0}, peak{0};
  std::atomic<int64_t> limit{kUnlimited}, left{kUnlimited};
  /// The fewest bytes live before one of the kAfter allocations after the refused one.
  static constexpr int64_t kAfter = 20;
  std::atomic<int64_t> lowest{kUnlimited};

  at::DataPtr allocate(size_t bytes) override {
    const auto size = static_cast<int64_t>(bytes);
    const int64_t others = left--;
    if (others < 0 && others > -kAfter) lowest = std::min(lowest.load(), live.load());
    if (live + size > limit || others == 0)
      C10_THROW_ERROR(Error,
                      "[enforce fail at alloc_cpu.cpp:1] data. DefaultCPUAllocator: can't allocate "
                      "memory: you tried to allocate " +
                          std::to_string(bytes) + " bytes. Error code 12");
    live += size;
    peak = std::max(peak.load(), live.load());
    auto* const block = static_cast<Block*>(std::aligned_alloc(64, (bytes + 64 + 63) / 64 * 64));
    block->size = size;
    void* const data = reinterpret_cast<char*>(block) + 64;
    return {data, data, &release, at::Device(at::kCPU)};  // oneDNN wants the two to be one
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  struct Block {
    int64_t size;
  };
  static void release(void* data);
};

LimitedAllocator& allocator() {
  static LimitedAllocator one;
  return one;
}

void LimitedAllocator::release(void* data) {
  auto* const block = reinterpret_cast<Block*>(static_cast<char*>(data) - 64);
  allocator().live -= block->size;
  std::free(block);
}

/// Puts it in LibTorch's place for a test.
class Memory : public testing::Test {
 protected:
  void SetUp() override {
    before_ = c10::GetCPUAllocator();
    c10::SetCPUAllocator(&allocator(), 100);
  }
  void TearDown() override {
    allocator().limit = kUnlimited;
    c10::SetCPUAllocator(before_, 100);
  }

 private:
  c10::Allocator* before_ = nullptr;
};

/// Random pictures, the same for everyone.
class NoisePictures : public BatchSource {
 public:
  NoisePictures(int64_t batch, int64_t side) : batch_(batch), side_(side) {}
  Batch next() override {
    Batch out;
    std::mt19937 random(3);
    out.pixels.resize(static_cast<size_t>(batch_ * side_ * side_));
    for (uint8_t& pixel : out.pixels) pixel = static_cast<uint8_t>(random());
    return out;
  }
  double waited() const override { return 0; }

 private:
  int64_t batch_, side_;
};

/// One step of a U-Net, and not the last one of its training.
struct PictureStep {
  int64_t batch = 0, side = 0;
  UNetOptions options;
  std::optional<Model> network;
  DiffusionOptions diffusion;
  std::optional<Objective> objective;
  std::optional<TimeDraw> times;

  PictureStep(int64_t batch_, int64_t side_, int64_t channels, int64_t blocks)
      : batch(batch_), side(side_) {
    options.base_channels = channels;
    options.channel_mult = {1, 2};
    options.blocks_per_level = blocks;
    options.attention_at = {side / 2};
    options.norm_groups = 4;
    options.dropout = 0.1;
    network.emplace(options, 1, 1, side, side, 0, false, true);
    diffusion.steps = 100;
    objective.emplace(diffusion, at::kCPU);
    times.emplace(diffusion.time_sampler, objective->process().bin_edges());
  }
  TrainState fresh() const { return {network->layout(), network->layout().initial(1)}; }
  double step(TrainState& state, int64_t micro_batch, bool split) const {
    NoisePictures pictures(batch, side);
    train(state,
          {.network = *network,
           .objective = *objective,
           .times = *times,
           .image_shape = {1, side, side},
           .optim = {},
           .steps = state.step + 2,
           .batch = batch,
           .micro_batch = micro_batch,
           .seed = 1,
           .micro_batches = micro_batches(batch),
           .split = split},
          pictures,
          {},
          [] { return true; });
    return state.tally[Tally::loss].item<double>();
  }
  /// Most bytes that a step has live beside what was there before.
  int64_t peak(int64_t micro_batch) const {
    TrainState state = fresh();
    allocator().peak = allocator().live.load();
    const int64_t before = allocator().live;
    step(state, micro_batch, false);
    return allocator().peak - before;
  }
};

TEST_F(Memory, TheAdviceFitsAndAutoKeepsTheNumbersInFiftyTrials) {
  std::mt19937 random(17);
  const auto between = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  int64_t right = 0, halved = 0;
  const int count = trials(50);
  for (int trial = 0; trial < count; ++trial) {
    const PictureStep run(between(5, 24), 8, 4 * between(1, 4), 1);
    const int64_t most = run.peak(run.batch), least = run.peak(1);
    ASSERT_LT(least, most);
    SCOPED_TRACE(testing::Message() << "batch " << run.batch << ", " << least << " to " << most);
    const double whole = [&] {
      TrainState state = run.fresh();
      return run.step(state, run.batch, false);
    }();

    const int64_t room = between(least, most - 1);
    const auto with_limit = [&](TrainState& state, int64_t micro_batch, bool split) {
      allocator().limit = allocator().live + room;
      std::string message;
      double loss = 0;
      try {
        loss = run.step(state, micro_batch, split);
      } catch (const Error& e) {
        EXPECT_EQ(e.code, Exit::device);
        message = e.what();
      }
      allocator().limit = kUnlimited;
      return std::pair(loss, message);
    };

    TrainState told = run.fresh();
    const std::string message = with_limit(told, run.batch, false).second;
    EXPECT_NE(message.find(" wanted, of "), std::string::npos) << message;
    const size_t at = message.find("train.micro_batch=");
    ASSERT_NE(at, std::string::npos) << message;
    const int64_t advised = std::atoll(message.c_str() + at + 18);
    ASSERT_GE(advised, 1);
    ASSERT_LT(advised, run.batch);
    // Nothing of the attempts before is left: the next larger one does not fit by itself.
    const std::vector<int64_t> sizes = micro_batches(run.batch);
    EXPECT_GT(run.peak(*std::prev(std::find(sizes.begin(), sizes.end(), advised))), room);
    TrainState again = run.fresh();
    const auto [loss, failed] = with_limit(again, advised, false);
    right += failed.empty();

    TrainState automatic = run.fresh();
    const auto [auto_loss, auto_failed] = with_limit(automatic, run.batch, true);
    EXPECT_EQ(auto_failed, "");
    EXPECT_EQ(automatic.micro_batch, advised);
    EXPECT_EQ(automatic.updates.item<float>(), 1);
    EXPECT_EQ(automatic.images_seen, run.batch);
    EXPECT_NEAR(auto_loss / whole, 1, 1e-6);
    halved += advised * 2 <= run.batch;
  }
  count_done("limits of an allocator, advice that fitted", right);
  EXPECT_GE(right, count * 95 / 100) << "the advice fits";
  EXPECT_GT(halved, 0);
  EXPECT_LT(halved, count);
}

TEST_F(Memory, WhatAFailedAttemptHeldIsGivenBack) {
  const PictureStep run(8, 8, 8, 1);
  int64_t made = 0;
  // The fewest bytes live when a step begins again whose allocation number `failing` was refused;
  // none where LibTorch could do without it.
  const auto held_after = [&](int64_t failing) -> std::optional<int64_t> {
    const int64_t before = allocator().live;
    TrainState state = run.fresh();
    allocator().lowest = kUnlimited;
    allocator().left = failing;
    run.step(state, run.batch, true);
    made = failing - allocator().left;
    allocator().left = kUnlimited;
    return state.micro_batch == 0 ? std::nullopt : std::optional(allocator().lowest - before);
  };
  held_after(kUnlimited);
  const int64_t all = made, first = all / 20, last = all * 19 / 20, tries = 60;
  const std::optional<int64_t> nothing = held_after(first);
  ASSERT_TRUE(nothing);
  int64_t noticed = 0;
  for (int64_t i = 0; i < tries; ++i) {  // in the forward and the backward pass
    const int64_t failing = first + (last - first) * i / tries;
    const std::optional<int64_t> held = held_after(failing);
    if (!held) continue;
    ++noticed;
    // Beside the gradient of a single number.
    EXPECT_LE(*held, *nothing + 4) << failing << " of " << all;
  }
  EXPECT_GE(noticed, tries * 9 / 10);
}

TEST_F(Memory, WhereNothingFitsTheMessageSaysSo) {
  const PictureStep run(6, 8, 8, 1);
  const int64_t least = run.peak(1);
  TrainState state = run.fresh();
  allocator().limit = allocator().live + least * 3 / 4;
  try {
    run.step(state, 6, true);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::device);
    EXPECT_NE(std::string(e.what()).find("not even a micro-batch of 1"), std::string::npos)
        << e.what();
  }
  EXPECT_EQ(state.updates.item<float>(), 0);
}

TEST(OutOfMemory, LibrariesSayItInTheirOwnWords) {
  for (const char* words : {"could not create a primitive", "out_of_memory", "CUDA out of memory"})
    EXPECT_TRUE(out_of_memory(std::runtime_error(words))) << words;
  EXPECT_TRUE(out_of_memory(std::bad_alloc()));
  // Of which the reason is that there is none for the arguments.
  EXPECT_FALSE(out_of_memory(
      std::runtime_error("could not create a primitive descriptor for a convolution")));
  EXPECT_FALSE(out_of_memory(Error(Exit::device, "out of memory: use a smaller micro-batch")));
}

TEST(MicroBatches, FallFromTheBatchToOnePicture) {
  for (const int64_t batch : {1, 2, 3, 7, 64, 128, 1000}) {
    const std::vector<int64_t> sizes = micro_batches(batch);
    EXPECT_EQ(sizes.front(), batch);
    EXPECT_EQ(sizes.back(), 1);
    for (size_t i = 1; i < sizes.size(); ++i) {
      EXPECT_LT(sizes[i], sizes[i - 1]);
      EXPECT_GE(2 * sizes[i] + 1, sizes[i - 1]);  // never less than about half of the one before
    }
  }
}

}  // namespace
}  // namespace diffuse
