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

TEST(Device, PeaksByName) {
  EXPECT_EQ(dense_bf16_tflops("NVIDIA H100 80GB HBM3"), 989);
  EXPECT_EQ(dense_bf16_tflops("NVIDIA H100 PCIe"), 756);
  EXPECT_EQ(dense_bf16_tflops("NVIDIA H200"), 989);
  EXPECT_EQ(dense_bf16_tflops("NVIDIA A100-SXM4-80GB"), 312);
  EXPECT_FALSE(dense_bf16_tflops("NVIDIA GeForce GTX 1080").has_value());
}

}  // namespace
}  // namespace diffuse
