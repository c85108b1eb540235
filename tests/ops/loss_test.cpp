// SPDX-License-Identifier: MIT
#include "ops/loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "ops/cuda.h"
#include "ops/noise.h"

namespace diffuse {
namespace {

constexpr int64_t kPictures = 5, kChannels = 3, kHeight = 7, kWidth = 6;
constexpr int64_t kValues = kChannels * kHeight * kWidth;

at::Tensor normals(uint64_t step) {
  at::Tensor out = at::empty({kPictures, kChannels, kHeight, kWidth});
  fill_normal(out, 1, Purpose::probe, step, 0);
  return out;
}

ErrorTerms terms_of(double huber) {
  return {.x0 = normals(1),
          .eps = normals(2),
          .target_x0 = at::tensor({0.0, 0.3, -1.5, 1.0, 0.7}).to(at::kFloat),
          .target_eps = at::tensor({1.0, -0.2, 0.5, 0.0, 0.7}).to(at::kFloat),
          .weight = at::tensor({1.0, 0.0, 2.5, 0.1, 7.0}).to(at::kFloat),
          .huber = huber};
}

ErrorTerms converted(const ErrorTerms& from, const at::TensorOptions& to) {
  return {.x0 = from.x0.to(to),
          .eps = from.eps.to(to),
          .target_x0 = from.target_x0.to(to),
          .target_eps = from.target_eps.to(to),
          .weight = from.weight.to(to),
          .huber = from.huber};
}

/// Values and the gradient of sum_i (i + 1) weighted_i.
struct Ran {
  at::Tensor raw, weighted, gradient;
};

template <class Body>
Ran run(const Body& body, const at::Tensor& f, const ErrorTerms& terms) {
  const at::Tensor leaf = f.detach().clone().set_requires_grad(true);
  const ErrorLoss loss = body(leaf, terms);
  EXPECT_FALSE(loss.raw.requires_grad());
  at::mul(loss.weighted, at::arange(1, kPictures + 1, loss.weighted.options())).sum().backward();
  const auto host = [](const at::Tensor& t) { return t.detach().to(at::kDouble).cpu(); };
  return {host(loss.raw), host(loss.weighted), host(leaf.grad())};
}

TEST(ErrorLoss, IsTheFormula) {
  for (const double huber : {0.0, 0.8}) {
    const at::Tensor f = normals(0).to(at::kDouble);
    const ErrorTerms terms = converted(terms_of(huber), at::kDouble);
    const Ran ran = run(composed_error_loss, f, terms);
    for (int64_t i = 0; i < kPictures; ++i) {
      const auto flat = [&](const at::Tensor& t) { return t[i].reshape({-1}); };
      const at::Tensor x0 = flat(terms.x0), eps = flat(terms.eps), out = flat(f);
      const double weight = terms.weight[i].item<double>();
      double raw = 0, loss = 0;
      for (int64_t j = 0; j < kValues; ++j) {
        const double e = out[j].item<double>() -
                         terms.target_x0[i].item<double>() * x0[j].item<double>() -
                         terms.target_eps[i].item<double>() * eps[j].item<double>();
        const bool far = huber > 0 && std::abs(e) > huber;
        raw += e * e / static_cast<double>(kValues);
        loss += (far ? huber * (2 * std::abs(e) - huber) : e * e) / static_cast<double>(kValues);
        const double slope = far ? 2 * std::copysign(huber, e) : 2 * e;
        EXPECT_NEAR(flat(ran.gradient)[j].item<double>(),
                    static_cast<double>(i + 1) * weight * slope / static_cast<double>(kValues),
                    1e-13);
      }
      EXPECT_NEAR(ran.raw[i].item<double>(), raw, 1e-12);
      EXPECT_NEAR(ran.weighted[i].item<double>(), weight * loss, 1e-12);
    }
  }
}

TEST(ErrorLossOnAGpu, EqualsTheComposedBody) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Device gpu(at::kCUDA, 0);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const double huber : {0.0, 0.8}) {
      const at::Tensor f = normals(0).to(type);
      const Ran ran = run(error_loss, f.to(gpu), converted(terms_of(huber), gpu));
      const Ran want =
          run(composed_error_loss, f.to(at::kDouble), converted(terms_of(huber), at::kDouble));
      // An error of |e| < 16 is rounded four times in float32, a sum of them in float64; the
      // gradient once more to its type.
      EXPECT_TRUE(at::allclose(ran.raw, want.raw, 1e-5, 1e-6));
      EXPECT_TRUE(at::allclose(ran.weighted, want.weighted, 1e-5, 1e-6));
      EXPECT_TRUE(
          at::allclose(ran.gradient, want.gradient, type == at::kFloat ? 1e-5 : 0x1p-8, 1e-6));
    }
}

}  // namespace
}  // namespace diffuse
