// SPDX-License-Identifier: MIT
#include "nn/mlp.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numbers>
#include <string>
#include <vector>

#include "nn/model.h"

namespace diffuse {
namespace {

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

MlpOptions small_options() {
  return {.hidden = 6, .layers = 2, .fourier_octaves = 2, .dropout = 0, .zero_init = false};
}

struct Small {
  Mlp net;
  Weights weights;  // float64
  at::Tensor x = at::linspace(-1.2, 1.1, 10, at::kDouble).view({5, 2, 1, 1});
  at::Tensor t = at::arange(5, at::kDouble) * 37;
  at::Tensor labels;

  explicit Small(const MlpOptions& options = small_options(), int64_t classes = 0)
      : net(options, 2, 2, classes),
        weights(net.layout().views(net.layout().initial(3).to(at::kDouble))) {
    if (classes > 0) labels = at::arange(5, at::kLong) % classes;
    for (const at::Tensor& w : weights)  // biases start at zero: give them something to do
      if (w.dim() == 1) w.copy_(at::linspace(-0.3, 0.4, w.size(0), at::kDouble));
  }

  at::Tensor operator()(const StepKey* key = nullptr) const {
    return net.forward(weights, x, t, labels, key);
  }
};

// Features d = c (1 + 2 octaves), then: in d H + H, time 2 (H^2 + H), classes H each, layers 3 (H^2
// + H) each, out H o + o.
TEST(Mlp, ParameterCount) {
  const auto count =
      [](int64_t h, int64_t layers, int64_t octaves, int64_t in, int64_t out, int64_t classes) {
        return in * (1 + 2 * octaves) * h + h + (2 + 3 * layers) * (h * h + h) + classes * h +
               h * out + out;
      };
  EXPECT_EQ(Mlp(MlpOptions(), 2, 2, 0).parameter_count(), 233'858);
  EXPECT_EQ(Mlp(MlpOptions(), 2, 2, 0).parameter_count(), count(128, 4, 4, 2, 2, 0));
  MlpOptions o = small_options();
  EXPECT_EQ(Mlp(o, 3, 6, 4).parameter_count(), count(6, 2, 2, 3, 6, 4));
  o.fourier_octaves = 0;
  EXPECT_EQ(Mlp(o, 2, 4, 0).parameter_count(), count(6, 2, 0, 2, 4, 0));
}

using Vector = std::vector<double>;

double silu(double v) { return v / (1 + std::exp(-v)); }

/// The network once more, one row, one number at a time.
Vector by_hand(const Small& s, int64_t row) {
  std::map<std::string, at::Tensor> w;
  for (size_t i = 0; i < s.weights.size(); ++i) w[s.net.layout().infos()[i].name] = s.weights[i];
  const auto linear = [&](const std::string& name, const Vector& in) {
    Vector out;
    for (int64_t i = 0; i < w.at(name + ".bias").size(0); ++i) {
      double sum = w.at(name + ".bias")[i].item<double>();
      for (size_t k = 0; k < in.size(); ++k)
        sum += w.at(name + ".weight")[i][static_cast<int64_t>(k)].item<double>() * in[k];
      out.push_back(sum);
    }
    return out;
  };
  const auto activated = [](Vector v) {
    for (double& e : v) e = silu(e);
    return v;
  };
  const auto sum = [](Vector a, const Vector& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  };
  const double x = s.x[row][0].item<double>(), y = s.x[row][1].item<double>();
  const double pi = std::numbers::pi;
  const Vector features{x,
                        y,
                        std::sin(pi * x),
                        std::sin(pi * y),
                        std::cos(pi * x),
                        std::cos(pi * y),
                        std::sin(2 * pi * x),
                        std::sin(2 * pi * y),
                        std::cos(2 * pi * x),
                        std::cos(2 * pi * y)};
  const double t = s.t[row].item<double>();
  Vector sinusoids(6);
  for (size_t i = 0; i < 3; ++i) {
    const double angle = t * std::pow(10000.0, -static_cast<double>(i) / 3);
    sinusoids[i] = std::cos(angle);
    sinusoids[3 + i] = std::sin(angle);
  }
  Vector embedding =
      linear("time_embedding.linear_2", activated(linear("time_embedding.linear_1", sinusoids)));
  if (s.labels.defined()) {
    const at::Tensor extra = w.at("class_embedding.weight")[s.labels[row].item<int64_t>()];
    for (size_t i = 0; i < 6; ++i) embedding[i] += extra[static_cast<int64_t>(i)].item<double>();
  }
  Vector h = linear("linear_in", features);
  for (const std::string layer : {"layers.0", "layers.1"}) {
    const Vector u = sum(linear(layer + ".linear_1", activated(h)),
                         linear(layer + ".time_emb_proj", activated(embedding)));
    h = sum(h, linear(layer + ".linear_2", activated(u)));
  }
  return linear("linear_out", activated(h));
}

// Two orders of the same sums, in float64: some ten layers of ten terms.
TEST(Mlp, IsWhatItsPiecesSay) {
  for (const int64_t classes : {0, 3}) {
    const Small s(small_options(), classes);
    const at::Tensor y = s();
    ASSERT_EQ(y.sizes(), (std::vector<int64_t>{5, 2, 1, 1}));
    EXPECT_TRUE(y.is_contiguous());
    for (int64_t row = 0; row < 5; ++row) {
      const Vector expected = by_hand(s, row);
      for (int64_t c = 0; c < 2; ++c)
        EXPECT_NEAR(y[row][c].item<double>(), expected[static_cast<size_t>(c)], 1e-13);
    }
    EXPECT_TRUE(at::equal(y, s()));
  }
}

// Central differences of the loss along a direction in each parameter and in x: h^2 of a third
// derivative of order 1, and 2^-52 / h of rounding, at h = 1e-5.
TEST(Mlp, GradientsAreDifferences) {
  const Small s(small_options(), 3);
  const at::Tensor pull = at::linspace(-1, 1.5, 10, at::kDouble).view({5, 2, 1, 1});
  std::vector<at::Tensor> inputs = s.weights;
  inputs.push_back(s.x);
  const auto loss = [&](const std::vector<at::Tensor>& in) {
    const Weights w(in.begin(), in.end() - 1);
    return (s.net.forward(w, in.back(), s.t, s.labels, nullptr) * pull).sum();
  };
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& v : inputs) leaves.push_back(v.detach().clone().set_requires_grad(true));
  loss(leaves).backward();
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor direction =
        at::cos(at::arange(inputs[i].numel(), at::kDouble) * 1.7).view(inputs[i].sizes());
    const auto moved = [&](double h) {
      std::vector<at::Tensor> in = inputs;
      in[i] = inputs[i] + h * direction;
      return loss(in).item<double>();
    };
    const double slope = (leaves[i].grad() * direction).sum().item<double>();
    EXPECT_NEAR(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5, 1e-7 * (1 + std::abs(slope))) << i;
    EXPECT_GT(largest(leaves[i].grad()), 0) << i;
  }
}

TEST(Mlp, InitialisationFollowsTheOption) {
  for (const bool zero : {true, false}) {
    MlpOptions o = small_options();
    o.zero_init = zero;
    const Mlp net(o, 2, 2, 3);
    const Weights w = net.layout().views(net.layout().initial(5));
    for (size_t i = 0; i < w.size(); ++i) {
      const std::string& name = net.layout().infos()[i].name;
      const bool last = name == "linear_out.weight" ||
                        (name.starts_with("layers.") && name.ends_with("linear_2.weight"));
      EXPECT_EQ(largest(w[i]) == 0, name.ends_with(".bias") || (zero && last)) << name;
    }
    const Small s;
    const at::Tensor y =
        net.forward(w, s.x.to(at::kFloat), s.t.to(at::kFloat), at::zeros({5}, at::kLong), nullptr);
    EXPECT_EQ(y.scalar_type(), at::kFloat);
    EXPECT_EQ(largest(y) == 0, zero);
  }
}

TEST(Mlp, DropoutDoesNotDependOnTheMicroBatch) {
  MlpOptions o = small_options();
  o.dropout = 0.4;
  const Small s(o);
  const auto run = [&](int64_t first, int64_t last, uint64_t step) {
    const StepKey key{9, step, 100 + first};
    return s.net.forward(s.weights, s.x.slice(0, first, last), s.t.slice(0, first, last), {}, &key);
  };
  const at::Tensor whole = run(0, 5, 3);
  EXPECT_LE(largest(at::cat({run(0, 2, 3), run(2, 5, 3)}) - whole), 1e-13);
  EXPECT_GT(largest(run(0, 5, 4) - whole), 1e-3);
  EXPECT_GT(largest(s() - whole), 1e-3);
}

TEST(Mlp, RunsUnderBfloat16Autocast) {
  const Small s;
  const Weights w = s.net.layout().views(s.net.layout().initial(1));
  const auto run = [&] {
    return s.net.forward(w, s.x.to(at::kFloat), s.t.to(at::kFloat), {}, nullptr);
  };
  const at::Tensor exact = run();
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::increment_nesting();
  const at::Tensor y = run();
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  // 8 bits: each of some 10 layers adds 2^-9 relative, at random; a factor of four for the largest.
  EXPECT_LE(largest(y - exact), 4 * std::sqrt(10) * 0x1p-9 * (1 + largest(exact)));
}

TEST(Mlp, IsAModelLikeTheUNet) {
  const Small s;
  const Model plain(small_options(), 2, 2, 0), weighted(small_options(), 2, 2, 0, true);
  EXPECT_FALSE(plain.has_level_weight());
  ASSERT_TRUE(weighted.has_level_weight());
  EXPECT_EQ(plain.parameter_count(), s.net.parameter_count());
  EXPECT_GT(weighted.parameter_count(), plain.parameter_count());
  EXPECT_EQ(plain.num_classes(), 0);
  // u(sigma) stands beside the network: it is 0 at first and does not change the output.
  const Weights both = weighted.layout().views(weighted.layout().initial(3));
  const at::Tensor x = s.x.to(at::kFloat), t = s.t.to(at::kFloat);
  EXPECT_EQ(at::abs(weighted.level_weight(both, t)).max().item<float>(), 0);
  const Weights alone = plain.layout().views(plain.layout().initial(3));
  EXPECT_TRUE(at::equal(weighted.forward(both, x, t, {}, nullptr),
                        plain.forward(alone, x, t, {}, nullptr)));
}

TEST(Mlp, WrongUseIsCaught) {
  const Small s;
  EXPECT_THROW(s.net.forward(s.weights, s.x.flatten(1), s.t, {}, nullptr), std::logic_error);
  EXPECT_THROW(s.net.forward(s.weights, s.x, s.t.narrow(0, 0, 2), {}, nullptr), std::logic_error);
  EXPECT_THROW(s.net.forward(s.weights, s.x, s.t, s.t.to(at::kLong), nullptr), std::logic_error);
  MlpOptions o = small_options();
  o.hidden = 7;
  EXPECT_EQ(o.problems().size(), 1);
  EXPECT_THROW(Mlp(o, 2, 2, 0), std::logic_error);
  EXPECT_TRUE(small_options().problems().empty());
}

}  // namespace
}  // namespace diffuse
