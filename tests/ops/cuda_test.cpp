// SPDX-License-Identifier: MIT
#include "ops/cuda.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace diffuse {
namespace {

/// LibTorch looks for its CUDA part once.
class CudaFirst : public testing::Environment {
 public:
  void SetUp() override { open_cuda(); }
};
[[maybe_unused]] testing::Environment* const cuda_first =
    testing::AddGlobalTestEnvironment(new CudaFirst);

std::string refusal(const std::string& name) {
  try {
    pick_device(name);
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::device);
    return e.what();
  }
  return "";
}

TEST(PickDevice, Cpu) { EXPECT_EQ(pick_device("cpu"), at::Device(at::kCPU)); }

TEST(PickDevice, AutoAlwaysFindsOne) {
  const bool gpu = open_cuda() != nullptr;
  EXPECT_EQ(pick_device("auto"), gpu ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU));
}

TEST(PickDevice, AMissingGpuIsRefusedWithTheReasonAndTheRemedy) {
  std::string why;
  if (open_cuda(&why) != nullptr) {
    EXPECT_EQ(pick_device("cuda"), at::Device(at::kCUDA, 0));
    EXPECT_NE(refusal("cuda:255").find("this machine has"), std::string::npos);
    return;
  }
  EXPECT_FALSE(why.empty());
  for (const char* name : {"cuda", "cuda:0", "cuda:3"}) {
    EXPECT_NE(refusal(name).find(why), std::string::npos) << name;
    EXPECT_NE(refusal(name).find("device cpu or auto"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace diffuse
