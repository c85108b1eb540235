// SPDX-License-Identifier: MIT
#include "ops/replayed.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

namespace diffuse {
namespace {

/// In place of a CUDA graph, on the CPU: what was captured is done again, with the memory of then.
struct FakeGraph : CapturedWork {
  explicit FakeGraph(std::function<void()> work_) : work(std::move(work_)) {}
  void replay() override { work(); }
  std::function<void()> work;
};

struct Replaying : testing::Test {
  int calls = 0, captures = 0, replays = 0;
  bool broken = false;

  Replayed replayed() {
    return {[this](const std::vector<at::Tensor>& a) {
              ++calls;
              return a[1].defined() ? at::add(a[0], a[1]) : at::mul(a[0], 10);
            },
            [this](const std::function<void()>& work) -> std::unique_ptr<CapturedWork> {
              if (broken) throw std::runtime_error("operation not permitted\nmore");
              ++captures;
              work();
              return std::make_unique<FakeGraph>([this, work] {
                ++replays;
                work();
              });
            }};
  }
};

at::Tensor filled(int64_t n, double value) { return at::full({n}, value, at::kDouble); }

TEST_F(Replaying, EveryCallSeesItsOwnArguments) {
  Replayed f = replayed();
  for (int i = 0; i < 6; ++i)
    EXPECT_TRUE(at::equal(f({filled(3, i), filled(3, 100)}), filled(3, 100 + i)));
  EXPECT_EQ(captures, 1);
  EXPECT_EQ(replays, 4);
}

TEST_F(Replaying, AnotherShapeTypeOrArgumentIsCapturedAnew) {
  Replayed f = replayed();
  for (int i = 0; i < 4; ++i) f({filled(3, i), {}});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(f({filled(2, i), {}}), filled(2, 10 * i)));
  EXPECT_EQ(captures, 2);
  const at::Tensor one = at::ones({2}, at::kFloat);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(f({one, {}}), at::mul(one, 10)));
  EXPECT_EQ(captures, 3);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(at::equal(f({one, one}), at::mul(one, 2)));
  EXPECT_EQ(captures, 4);
}

TEST_F(Replaying, WhatCannotBeCapturedIsCalled) {
  broken = true;
  Replayed f = replayed();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(at::equal(f({filled(3, i), {}}), filled(3, 10 * i)));
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(captures, 0);
}

TEST_F(Replaying, WithoutCaptureItIsTheFunction) {
  Replayed f([](const std::vector<at::Tensor>& a) { return a[0]; }, nullptr);
  const at::Tensor x = filled(2, 1);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(f({x}).is_same(x));
}

}  // namespace
}  // namespace diffuse
