// SPDX-License-Identifier: MIT
#include "ops/kernels/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>
#include <vector>

#include "base/random.h"
#include "ops/kernels/group_norm.h"

// The numbers of base/random.h, element for element.

namespace diffuse {
namespace {

constexpr uint64_t kSeed = 0x123456789ABCDEFull, kStep = (uint64_t{1} << 40) + 3;
constexpr int64_t kFirstSample = (int64_t{1} << 33) + 1, kFirstBlock = 77;
constexpr uint32_t kThreshold = 20000;

// Rows and their lengths: one number, broken blocks, one thread more than a block has.
const std::vector<std::pair<int64_t, int64_t>> kShapes{
    {1, 1}, {3, 3}, {2, 8}, {5, 13}, {1, 1024}, {3, 4 * 257}, {2, 3001}};

Stream stream_of(Purpose purpose, int64_t row) {
  return {kSeed, purpose, kStep, static_cast<uint64_t>(kFirstSample + row)};
}

/// Whether element e of picture `row` is kept, and its 16 bits are those of base/random.h.
bool kept_at(int64_t row, int64_t e) {
  const Philox4 b =
      random_block(stream_of(Purpose::dropout, row), static_cast<uint32_t>(kFirstBlock + e / 8));
  return ((b.v[e % 8 / 2] >> (16 * (e % 2))) & 0xFFFF) >= kThreshold;
}

TEST(EmulatedPhilox, NormalsAreTheCpus) {
  for (const auto& [rows, size] : kShapes) {
    std::vector<float> out(static_cast<size_t>(rows * size), std::nanf(""));
    ASSERT_EQ(kernels::fill_normal(out.data(),
                                   rows,
                                   size,
                                   kSeed,
                                   static_cast<uint32_t>(Purpose::sample_step),
                                   kStep,
                                   kFirstSample,
                                   nullptr),
              0);
    for (int64_t i = 0; i < rows * size; ++i) {
      const int64_t e = i % size;
      const std::array<float, 4> expected =
          random_normal4(stream_of(Purpose::sample_step, i / size), static_cast<uint32_t>(e / 4));
      ASSERT_EQ(out[static_cast<size_t>(i)], expected[static_cast<size_t>(e % 4)])
          << rows << "x" << size << " at " << i;
    }
  }
}

TEST(EmulatedPhilox, MasksAreTheCpus) {
  for (const auto& [rows, size] : kShapes) {
    std::vector<float> out(static_cast<size_t>(rows * size), std::nanf(""));
    ASSERT_EQ(kernels::dropout_mask(out.data(),
                                    rows,
                                    size,
                                    kThreshold,
                                    1.5f,
                                    kSeed,
                                    {kStep},
                                    kFirstSample,
                                    kFirstBlock,
                                    nullptr),
              0);
    for (int64_t i = 0; i < rows * size; ++i)
      ASSERT_EQ(out[static_cast<size_t>(i)], kept_at(i / size, i % size) ? 1.5f : 0.0f)
          << rows << "x" << size << " at " << i;
  }
}

TEST(EmulatedPhilox, BitsAreTheCpusInTheirPlaces) {
  for (const auto& [pixels, channels] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 32}, {7, 3}, {8, 5}, {16, 64}, {63, 6}, {64, 33}, {15, 576}}) {
    constexpr int64_t n = 3;
    const int64_t bytes = kernels::kept_bytes(pixels, channels);
    std::vector<uint8_t> kept(static_cast<size_t>(n * bytes));
    ASSERT_EQ(kernels::dropout_bits(kept.data(),
                                    n,
                                    pixels,
                                    channels,
                                    kThreshold,
                                    kSeed,
                                    {kStep},
                                    kFirstSample,
                                    kFirstBlock,
                                    nullptr),
              0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = 0; p < pixels; ++p) {
          const int64_t e = c * pixels + p;
          const int64_t byte = pixels % 8 == 0 ? p / 8 * channels + c : e / 8;
          ASSERT_EQ((kept[static_cast<size_t>(i * bytes + byte)] >> (e % 8)) & 1,
                    static_cast<int>(kept_at(i, e)))
              << pixels << "x" << channels << " at " << i << ", " << c << ", " << p;
        }
  }
}

}  // namespace
}  // namespace diffuse
