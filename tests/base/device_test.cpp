// SPDX-License-Identifier: MIT
#include "base/device.h"

#include <gtest/gtest.h>

namespace diffuse {
namespace {

TEST(Device, Names) {
  using Kind = DeviceName::Kind;
  EXPECT_EQ(parse_device("auto")->kind, Kind::automatic);
  EXPECT_EQ(parse_device("cpu")->kind, Kind::cpu);
  EXPECT_EQ(parse_device("cuda")->kind, Kind::cuda);
  EXPECT_EQ(parse_device("cuda")->index, 0);
  EXPECT_EQ(parse_device("cuda:3")->kind, Kind::cuda);
  EXPECT_EQ(parse_device("cuda:3")->index, 3);
  EXPECT_EQ(parse_device("cuda:255")->index, 255);
}

TEST(Device, OtherTextsAreNone) {
  for (const char* text : {"",
                           "gpu",
                           "CPU",
                           "cuda:",
                           "cuda:x",
                           "cuda:-1",
                           "cuda:+1",
                           "cuda:1x",
                           "cuda: 1",
                           "cuda0",
                           "cuda:256",
                           "cuda:99999999999999999999"})
    EXPECT_FALSE(parse_device(text).has_value()) << text;
}

}  // namespace
}  // namespace diffuse
