// SPDX-License-Identifier: MIT
// What the emulation must notice, on kernels that are wrong on purpose.
#include <gtest/gtest.h>

#include <vector>

#include "ops/kernels/launch.cuh"

namespace diffuse::kernels {
namespace {

using cuda_emulation::last_launch;
using cuda_emulation::Order;
using cuda_emulation::settings;

class Emulation : public testing::Test {
  void TearDown() override { settings() = {}; }
};

__global__ void where(int* out) {
  out[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] =
      static_cast<int>(1000 * blockIdx.x + 100 * blockIdx.y + threadIdx.x);
}

TEST_F(Emulation, RunsEachThreadOnce) {
  std::vector<int> out(2 * 3 * 5, -1), expected;
  for (int y = 0; y < 3; ++y)
    for (int x = 0; x < 2; ++x)
      for (int t = 0; t < 5; ++t) expected.push_back(1000 * x + 100 * y + t);
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled}) {
    settings().order = order;
    std::fill(out.begin(), out.end(), -1);
    EXPECT_EQ(launch(where, dim3(2, 3), 5, 0, nullptr, out.data()), cudaSuccess);
    EXPECT_EQ(out, expected);
  }
}

/// Each thread's neighbour's number, `rounds` times over.
__global__ void pass_on(int rounds, bool wait, int* out) {
  int* const all = shared_memory<int>();
  int mine = static_cast<int>(threadIdx.x);
  for (int i = 0; i < rounds; ++i) {
    all[threadIdx.x] = mine;
    __syncthreads();
    mine = all[(threadIdx.x + 1) % blockDim.x];
    if (wait) __syncthreads();
  }
  out[threadIdx.x] = mine;
}

std::vector<int> passed_on(bool wait, Order order) {
  settings().order = order;
  std::vector<int> out(64, -1);
  EXPECT_EQ(launch(pass_on, dim3(1), 64, 64 * sizeof(int), nullptr, 3, wait, out.data()), 0);
  return out;
}

TEST_F(Emulation, BarriersHoldThreadsBack) {
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled}) {
    const std::vector<int> out = passed_on(true, order);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], (i + 3) % 64);
  }
}

TEST_F(Emulation, AMissingBarrierShowsInAnotherOrder) {
  EXPECT_NE(passed_on(false, Order::forward), passed_on(false, Order::reverse));
  EXPECT_NE(passed_on(false, Order::forward), passed_on(false, Order::shuffled));
}

__global__ void half_waits(int* out) {
  if (threadIdx.x < 4) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_places(int* out) {
  if (threadIdx.x < 4)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

TEST_F(Emulation, ThreadsThatMeetAtDifferentBarriersAreAnError) {
  std::vector<int> out(8);
  EXPECT_EQ(launch(half_waits, dim3(1), 8, 0, nullptr, out.data()), cudaErrorLaunchFailure);
  EXPECT_NE(last_launch().failure.find("thread 4 of block (0, 0) has ended"), std::string::npos)
      << last_launch().failure;
  EXPECT_EQ(launch(two_places, dim3(1), 8, 0, nullptr, out.data()), cudaErrorLaunchFailure);
  EXPECT_EQ(launch(half_waits, dim3(1), 4, 0, nullptr, out.data()), cudaSuccess);
}

__global__ void read_shared(float* out) {
  float* const shared = shared_memory<float>();
  out[blockIdx.x] = shared[0];
  shared[0] = 1;
}

TEST_F(Emulation, SharedMemoryOfEachBlockBeginsAsNaN) {
  std::vector<float> out(3);
  EXPECT_EQ(launch(read_shared, dim3(3), 1, 4, nullptr, out.data()), cudaSuccess);
  for (const float x : out) EXPECT_NE(x, x);
}

TEST_F(Emulation, LimitsAreTheDevices) {
  std::vector<float> out(1);
  const auto of_bytes = [&](int bytes) {
    return launch(read_shared, dim3(1), 1, static_cast<size_t>(bytes), nullptr, out.data());
  };
  settings().shared_memory = 100 << 10;
  EXPECT_EQ(of_bytes(100 << 10), cudaSuccess);
  EXPECT_EQ(of_bytes((100 << 10) + 1), cudaErrorInvalidValue);
  const auto of_grid = [&](dim3 grid, int threads) {
    return launch(read_shared, grid, threads, 4, nullptr, out.data());
  };
  EXPECT_EQ(of_grid(dim3(0), 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(of_grid(dim3(1, 65536), 1), cudaErrorInvalidConfiguration);
  EXPECT_EQ(of_grid(dim3(1), 1025), cudaErrorInvalidConfiguration);
}

}  // namespace
}  // namespace diffuse::kernels
