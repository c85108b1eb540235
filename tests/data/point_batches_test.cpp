// SPDX-License-Identifier: MIT
#include "data/point_batches.h"

#include <gtest/gtest.h>

namespace diffuse {
namespace {

std::unique_ptr<const PointDistribution> moons() { return MoonsPoints{}(); }

TEST(PointBatches, AreAddressableByStep) {
  PointBatches all(moons(), 5, 7, 0), later(moons(), 5, 7, 2), other(moons(), 5, 8, 0);
  const Batch zero = all.next(), one = all.next(), two = all.next();
  EXPECT_EQ(two.step, 2);
  EXPECT_EQ(later.next().values, two.values);
  EXPECT_NE(zero.values, one.values);
  EXPECT_NE(other.next().values, zero.values);
  // A larger batch begins with the smaller one's points.
  const Batch larger = PointBatches(moons(), 9, 7, 0).next();
  EXPECT_TRUE(std::equal(zero.values.begin(), zero.values.end(), larger.values.begin()));
  EXPECT_EQ(all.waited(), 0);
}

TEST(PointBatches, ArePointsOfTheDistribution) {
  const auto distribution = moons();
  const Batch batch = PointBatches(moons(), 4, 3, 6).next();
  ASSERT_EQ(batch.values.size(), 8u);
  EXPECT_TRUE(batch.pixels.empty());
  for (size_t i = 0; i < 4; ++i) {
    const Point p = distribution->sample({3, Purpose::point, 6, i});
    EXPECT_EQ(batch.values[2 * i], static_cast<float>(p.x));
    EXPECT_EQ(batch.values[2 * i + 1], static_cast<float>(p.y));
  }
}

}  // namespace
}  // namespace diffuse
