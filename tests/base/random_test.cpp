// SPDX-License-Identifier: MIT
#include "base/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

namespace diffuse {
namespace {

void expect_words(const Philox4& got, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  EXPECT_EQ(got.v[0], a);
  EXPECT_EQ(got.v[1], b);
  EXPECT_EQ(got.v[2], c);
  EXPECT_EQ(got.v[3], d);
}

// The known answers of the authors' Random123 library (philox4x32, 10 rounds).
TEST(Random, PhiloxKnownAnswers) {
  expect_words(philox4x32({{0, 0, 0, 0}}, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  const uint32_t ones = 0xffffffff;
  expect_words(philox4x32({{ones, ones, ones, ones}}, ones, ones),
               0x408f276d,
               0x41c83b0e,
               0xa20bc7c6,
               0x6d5451fd);
  expect_words(
      philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
      0xd16cfe09,
      0x94fdcceb,
      0x5001e420,
      0x24126ea1);
}

TEST(Random, EveryPartOfAStreamsNameCounts) {
  const Stream base{5, Purpose::noise, 7, 9};
  std::vector<Stream> streams{base};
  for (int bit = 0; bit < 64; ++bit)
    streams.push_back({base.seed ^ (uint64_t{1} << bit), base.purpose, base.step, base.sample});
  for (int bit = 0; bit < 48; ++bit)
    streams.push_back({base.seed, base.purpose, base.step ^ (uint64_t{1} << bit), base.sample});
  for (int bit = 0; bit < 40; ++bit)
    streams.push_back({base.seed, base.purpose, base.step, base.sample ^ (uint64_t{1} << bit)});
  for (uint32_t p = 1; p <= 10; ++p)
    if (p != static_cast<uint32_t>(base.purpose))
      streams.push_back({base.seed, static_cast<Purpose>(p), base.step, base.sample});
  std::set<uint64_t> seen;
  size_t draws = 0;
  for (const Stream& s : streams)
    for (const uint32_t index : {0u, 1u, 2u, 3u, 0x80000000u, 0xffffffffu}) {
      seen.insert(random_bits(s, index));
      ++draws;
    }
  EXPECT_EQ(seen.size(), draws);
}

TEST(Random, DrawsAreOrderFree) {
  const Stream s{1, Purpose::noise, 2, 3};
  const uint64_t late = random_bits(s, 1000);
  for (uint32_t i = 0; i < 10; ++i) random_bits(s, i);
  EXPECT_EQ(random_bits(s, 1000), late);
  const Philox4 block = random_block(s, 500);
  EXPECT_EQ(late, (uint64_t{block.v[1]} << 32) | block.v[0]);
  EXPECT_EQ(random_bits(s, 1001), (uint64_t{block.v[3]} << 32) | block.v[2]);
}

// With a fixed seed the statistics are fixed numbers: bounds of 5 standard deviations are no
// gamble.
TEST(Random, UniformIsUniform) {
  const Stream s{11, Purpose::timestep, 0, 0};
  constexpr int kDraws = 1 << 20, kCells = 64;
  std::vector<int> cells(kCells);
  double sum = 0;
  for (uint32_t i = 0; i < kDraws; ++i) {
    const double u = random_uniform(s, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    ++cells[static_cast<size_t>(u * kCells)];
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  double chi2 = 0;
  const double expected = static_cast<double>(kDraws) / kCells;
  for (const int n : cells) chi2 += (n - expected) * (n - expected) / expected;
  EXPECT_NEAR(chi2, kCells - 1, 5 * std::sqrt(2.0 * (kCells - 1)));
}

TEST(Random, BelowCoversItsRangeEvenly) {
  const Stream s{12, Purpose::crop, 0, 0};
  constexpr int kDraws = 70000;
  std::vector<int> cells(7);
  for (uint32_t i = 0; i < kDraws; ++i) ++cells.at(random_below(s, 7, i));
  for (const int n : cells) EXPECT_NEAR(n, kDraws / 7, 5 * std::sqrt(kDraws / 7.0 * 6 / 7));
  EXPECT_EQ(random_below(s, 1), 0u);
  for (uint32_t i = 0; i < 1000; ++i)
    EXPECT_LT(random_below(s, uint64_t{1} << 63, i), uint64_t{1} << 63);
}

TEST(Random, NormalsAreNormal) {
  const Stream s{13, Purpose::noise, 0, 0};
  constexpr uint32_t kBlocks = 1 << 18;
  constexpr double n = 4.0 * kBlocks;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, neighbours = 0, largest = 0;
  int below_one = 0;
  for (uint32_t b = 0; b < kBlocks; ++b) {
    const auto z = random_normal4(s, b);
    for (const float v : z) {
      const double x = v;
      m1 += x;
      m2 += x * x;
      m3 += x * x * x;
      m4 += x * x * x * x;
      largest = std::max(largest, std::abs(x));
      below_one += std::abs(x) < 1;
    }
    neighbours += static_cast<double>(z[0]) * z[1] + static_cast<double>(z[1]) * z[2] +
                  static_cast<double>(z[2]) * z[3];
  }
  // Standard deviations of the sample moments of a standard normal: 1, sqrt 2, sqrt 15, sqrt 96
  // over sqrt n.
  EXPECT_NEAR(m1 / n, 0, 5 * std::sqrt(1 / n));
  EXPECT_NEAR(m2 / n, 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(m3 / n, 0, 5 * std::sqrt(15 / n));
  EXPECT_NEAR(m4 / n, 3, 5 * std::sqrt(96 / n));
  EXPECT_NEAR(neighbours / (0.75 * n), 0, 5 * std::sqrt(1 / (0.75 * n)));
  const double inside = std::erf(1 / std::sqrt(2.0));
  EXPECT_NEAR(below_one / n, inside, 5 * std::sqrt(inside * (1 - inside) / n));
  EXPECT_GT(largest, 4);
  EXPECT_LE(largest, 6.77);
}

TEST(Permutation, IsABijection) {
  std::vector<uint64_t> sizes{1000, 4096, 4097, 65535, 65536, 65537, 100003};
  for (uint64_t n = 1; n <= 130; ++n) sizes.push_back(n);
  for (const uint64_t n : sizes) {
    const Permutation p(n, {3, Purpose::order, n, 0});
    std::vector<bool> seen(n);
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t x = p(i);
      ASSERT_LT(x, n);
      ASSERT_FALSE(seen[x]) << n << ": " << x << " twice";
      seen[x] = true;
    }
  }
}

TEST(Permutation, LargeOnesStayInRange) {
  const uint64_t n = (uint64_t{1} << 40) - 12345;
  const Permutation p(n, {3, Purpose::order, 0, 0});
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 1000; ++i) seen.insert(p(n - 1 - i * (n / 1000)));
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_LT(*seen.rbegin(), n);
  EXPECT_GT(*seen.rbegin(), n / 2);
}

TEST(Permutation, IsChosenByItsKey) {
  const auto order = [](const Stream& key) {
    const Permutation p(50, key);
    std::vector<uint64_t> out;
    for (uint64_t i = 0; i < 50; ++i) out.push_back(p(i));
    return out;
  };
  EXPECT_EQ(order({1, Purpose::order, 0, 0}), order({1, Purpose::order, 0, 0}));
  EXPECT_NE(order({1, Purpose::order, 0, 0}), order({1, Purpose::order, 1, 0}));
  EXPECT_NE(order({1, Purpose::order, 0, 0}), order({2, Purpose::order, 0, 0}));
}

TEST(Permutation, EveryPlaceIsEquallyLikely) {
  for (const uint64_t n :
       {2, 3, 4, 16, 31, 50}) {  // 5 to 15 in a domain of 16 are a few percent uneven
    constexpr int kKeys = 20000;
    std::vector<std::vector<int>> counts(n, std::vector<int>(n));
    for (uint64_t key = 0; key < kKeys; ++key) {
      const Permutation p(n, {key, Purpose::order, 0, 0});
      for (uint64_t i = 0; i < n; ++i) ++counts[i][p(i)];
    }
    const double q = 1.0 / static_cast<double>(n);
    for (const auto& row : counts)
      for (const int c : row) EXPECT_NEAR(c, kKeys * q, 5 * std::sqrt(kKeys * q * (1 - q))) << n;
  }
}

TEST(Permutation, NeighboursAreScattered) {
  // In a random order of n, |p(i+1) - p(i)| has the mean (n+1)/3; its standard deviation is below
  // n/4, and differences that share no element are nearly independent.
  constexpr uint64_t n = 50000;
  const Permutation p(n, {9, Purpose::order, 4, 0});
  double sum = 0;
  for (uint64_t i = 0; i + 1 < n; ++i)
    sum += std::abs(static_cast<double>(p(i + 1)) - static_cast<double>(p(i)));
  EXPECT_NEAR(sum / (n - 1), (n + 1) / 3.0, 5 * (n / 4.0) * std::sqrt(2.0 / n));
}

}  // namespace
}  // namespace diffuse
