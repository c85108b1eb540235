// SPDX-License-Identifier: MIT
#include "nn/unet.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "io/safetensors.h"

namespace diffuse {
namespace {

/// These networks are too small to share: on a busy machine threads would only wait for each other.
class OneThread : public testing::Environment {
 public:
  void SetUp() override { at::set_num_threads(1); }
};
[[maybe_unused]] testing::Environment* const one_thread =
    testing::AddGlobalTestEnvironment(new OneThread);

at::Tensor read(const SafetensorsFile& file, const std::string& name) {
  static const std::map<std::string, at::ScalarType> types{
      {"F32", at::kFloat}, {"F64", at::kDouble}, {"I64", at::kLong}};
  const TensorView* view = file.find(name);
  if (view == nullptr) return {};
  return at::from_blob(
             const_cast<std::byte*>(view->bytes.data()), view->shape, types.at(view->dtype))
      .clone();
}

SafetensorsFile fixture(const std::string& name) {
  return SafetensorsFile(DIFFUSE_SOURCE_DIR "/tests/nn/fixtures/" + name + ".safetensors");
}

double largest(const at::Tensor& x) { return x.abs().max().item<double>(); }

/// |a - b| <= relative |b| + absolute, everywhere.
testing::AssertionResult close(const at::Tensor& a,
                               const at::Tensor& b,
                               double relative,
                               double absolute) {
  if (a.sizes() != b.sizes())
    return testing::AssertionFailure() << a.sizes() << " and " << b.sizes();
  const at::Tensor x = a.detach().to(at::kDouble);
  const at::Tensor y = b.detach().to(at::kDouble);
  const double excess = ((x - y).abs() - relative * y.abs()).max().item<double>();
  if (excess <= absolute) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "off by " << largest(x - y) << " of at most " << largest(y);
}

// The table of make_fixtures.py.
struct Case {
  std::string name;
  int64_t channels = 1;
  int64_t height = 8;
  int64_t width = 8;
  int64_t classes = 0;
  std::function<void(UNetOptions&)> set;
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

UNetOptions options_of(const Case& c) {
  UNetOptions o;
  o.base_channels = 4;
  o.channel_mult = {1, 2};
  o.blocks_per_level = 1;
  o.attention_at = {};
  o.head_channels = 4;
  o.norm_groups = 2;
  c.set(o);
  return o;
}

UNet network_of(const Case& c, bool fused) {
  return {options_of(c), c.channels, c.channels, c.height, c.width, c.classes, fused};
}

std::vector<Case> cases() {
  std::vector<Case> out;
  out.push_back({.name = "conv", .channels = 3, .set = [](UNetOptions& o) {
                   o.base_channels = 2;
                   o.channel_mult = {1, 2, 2};
                   o.blocks_per_level = 2;
                 }});
  out.push_back({.name = "attention", .set = [](UNetOptions& o) {
                   o.attention_at = {8, 4};
                   o.head_channels = 2;
                 }});
  out.push_back({.name = "scale_shift", .set = [](UNetOptions& o) {
                   o.time_embedding = TimeEmbedding::scale_shift;
                   o.attention_at = {4};
                 }});
  out.push_back({.name = "resnet", .set = [](UNetOptions& o) {
                   o.downsample = o.upsample = Resample::resnet;
                   o.base_channels = 2;
                   o.channel_mult = {1, 2, 1};
                   o.head_channels = 2;
                   o.attention_at = {4};
                 }});
  out.push_back({.name = "classes", .classes = 3, .set = [](UNetOptions& o) {
                   o.attention_at = {4};
                   o.norm_groups = 4;
                 }});
  out.push_back({.name = "ddpm", .set = [](UNetOptions& o) {
                   o.downsample_padding = 0;
                   o.freq_shift = 1;
                   o.flip_sin_to_cos = false;
                   o.norm_eps = 1e-6;
                   o.attention_at = {4};
                   o.head_channels = 8;
                 }});
  out.push_back({.name = "odd", .height = 6, .width = 10, .set = [](UNetOptions& o) {
                   o.base_channels = 3;
                   o.head_channels = 3;
                   o.norm_groups = 3;
                   o.attention_at = {6};
                 }});
  out.push_back({.name = "plain", .channels = 2, .set = [](UNetOptions& o) {
                   o.mid_attention = false;
                   o.norm_groups = 1;
                   o.norm_eps = 1e-3;
                   o.base_channels = 2;
                   o.channel_mult = {2, 1, 3};
                 }});
  out.push_back({.name = "mixed", .height = 4, .classes = 2, .set = [](UNetOptions& o) {
                   o.downsample = Resample::resnet;
                   o.time_embedding = TimeEmbedding::scale_shift;
                   o.base_channels = 2;
                   o.channel_mult = {3, 1};
                   o.head_channels = 2;
                   o.attention_at = {4};
                 }});
  return out;
}

class Diffusers : public testing::TestWithParam<std::tuple<Case, bool>> {
 protected:
  const Case& one() const { return std::get<0>(GetParam()); }
  UNet network() const { return network_of(one(), std::get<1>(GetParam())); }
};

/// The fixture's weights as a flat buffer of the network's layout.
at::Tensor flat_weights(const UNet& net, const SafetensorsFile& file) {
  at::Tensor flat = at::zeros({net.layout().flat_size()});
  const Weights views = net.layout().views(flat);
  for (size_t i = 0; i < views.size(); ++i)
    views[i].copy_(read(file, "weights." + net.layout().infos()[i].name));
  return flat;
}

TEST_P(Diffusers, HasTheSameParameters) {
  const SafetensorsFile file = fixture(one().name);
  const UNet net = network();
  size_t theirs = 0;
  for (const TensorView& t : file.tensors()) theirs += t.name.starts_with("weights.");
  EXPECT_EQ(net.layout().infos().size(), theirs);
  for (const ParamInfo& info : net.layout().infos()) {
    const TensorView* t = file.find("weights." + info.name);
    ASSERT_NE(t, nullptr) << info.name;
    EXPECT_EQ(t->shape, info.shape) << info.name;
  }
}

// In float64 two ways to the same numbers differ by some hundred roundings of 1.1e-16; gradients
// that are 0 (biases before a norm of one channel) by as many of the numbers that cancel.
TEST_P(Diffusers, SameOutputAndGradientsInFloat64) {
  const SafetensorsFile file = fixture(one().name);
  const UNet net = network();
  const Params params(net.layout(), flat_weights(net, file).to(at::kDouble));
  const at::Tensor x = read(file, "x").to(at::kDouble).set_requires_grad(true);
  const at::Tensor output =
      net.forward(params.weights(), x, read(file, "t"), read(file, "labels"), nullptr);
  EXPECT_EQ(output.scalar_type(), at::kDouble);
  EXPECT_TRUE(close(output, read(file, "output"), 0, 1e-12 * largest(read(file, "output"))));

  (output * read(file, "g")).sum().backward();
  EXPECT_TRUE(close(x.grad(), read(file, "grad.x"), 0, 1e-12 * largest(read(file, "grad.x"))));
  for (size_t i = 0; i < params.weights().size(); ++i) {
    const std::string& name = net.layout().infos()[i].name;
    const at::Tensor expected = read(file, "grad." + name);  // rounded to float32
    EXPECT_TRUE(
        close(params.weights()[i].grad(), expected, 0x1p-24, 1e-12 * largest(expected) + 1e-13))
        << name;
  }
}

// Both sides round some 40 layers in a row, each with sums of up to about 100 terms: relative
// errors of 2^-24 sqrt(40 * 100), and a factor of four for the largest of some hundred values and
// two sides.
TEST_P(Diffusers, SameOutputInFloat32) {
  const SafetensorsFile file = fixture(one().name);
  const UNet net = network();
  const at::NoGradGuard no_grad;
  const at::Tensor output = net.forward(net.layout().views(flat_weights(net, file)),
                                        read(file, "x"),
                                        read(file, "t"),
                                        read(file, "labels"),
                                        nullptr);
  EXPECT_EQ(output.scalar_type(), at::kFloat);
  EXPECT_TRUE(output.is_contiguous());
  const at::Tensor expected = read(file, "output32");
  EXPECT_TRUE(close(output, expected, 0, 4 * std::sqrt(40 * 100) * 0x1p-24 * largest(expected)));
}

INSTANTIATE_TEST_SUITE_P(UNet,
                         Diffusers,
                         testing::Combine(testing::ValuesIn(cases()), testing::Bool()),
                         [](const auto& instance) {
                           return std::get<0>(instance.param).name +
                                  (std::get<1>(instance.param) ? "_fused" : "");
                         });

struct Ran {
  at::Tensor output;
  std::vector<at::Tensor> gradients;  // of x, then of the weights
};

/// A forward and a backward pass with dropout.
Ran run(const Case& c, bool fused, at::ScalarType type, bool bf16 = false) {
  UNetOptions options = options_of(c);
  options.dropout = 0.2;
  options.zero_init = false;
  const UNet net(options, c.channels, c.channels, c.height, c.width, c.classes, fused);
  const Params params(net.layout(), net.layout().initial(4).to(type));
  at::manual_seed(1);
  const at::Tensor x =
      at::randn({3, c.channels, c.height, c.width}, at::kFloat).to(type).requires_grad_();
  const at::Tensor g = at::randn({3, c.channels, c.height, c.width}, at::kFloat);
  const at::Tensor labels = c.classes > 0 ? at::arange(3, at::kLong) % c.classes : at::Tensor();
  const StepKey key{5, 6, 7};
  const at::Tensor y =
      net.forward(params.weights(), x, at::arange(3, at::kFloat) * 400, labels, &key, bf16);
  (y * g.to(y.scalar_type())).sum().backward();
  Ran out{.output = y.detach().to(at::kDouble), .gradients = {x.grad().to(at::kDouble)}};
  for (const at::Tensor& w : params.weights()) out.gradients.push_back(w.grad().to(at::kDouble));
  return out;
}

class Fused : public testing::TestWithParam<Case> {};

/// Root of the summed squares of a - b, over all tensors.
double distance(const Ran& a, const Ran& b) {
  double sum = (a.output - b.output).square().sum().item<double>();
  for (size_t i = 0; i < a.gradients.size(); ++i)
    sum += (a.gradients[i] - b.gradients[i]).square().sum().item<double>();
  return std::sqrt(sum);
}

// Both round, differently: the fused network is to be no further from float64 than twice the
// composed one.
void expect_as_near(const Ran& got, const Ran& composed, const Ran& exact) {
  EXPECT_LE(distance(got, exact), 2 * distance(composed, exact));
}

TEST_P(Fused, IsAsNearToFloat64AsTheComposedNetwork) {
  const Ran exact = run(GetParam(), false, at::kDouble);
  expect_as_near(run(GetParam(), true, at::kFloat), run(GetParam(), false, at::kFloat), exact);
}

TEST_P(Fused, Bfloat16IsAsNearToFloat64AsAutocast) {
  const Ran exact = run(GetParam(), false, at::kDouble);
  expect_as_near(
      run(GetParam(), true, at::kFloat, true), run(GetParam(), false, at::kFloat, true), exact);
}

INSTANTIATE_TEST_SUITE_P(UNet, Fused, testing::ValuesIn(cases()), [](const auto& instance) {
  return instance.param.name;
});

// An angle up to 999 carries the roundings of its frequency and product: 3 * 999 * 2^-24.
TEST(TimeSinusoids, EqualDiffusers) {
  const SafetensorsFile file = fixture("sinusoids");
  const at::Tensor t = read(file, "t");
  EXPECT_TRUE(close(
      time_sinusoids(t, 16, true, 0, at::kFloat), read(file, "flipped"), 0, 3 * 999 * 0x1p-24));
  EXPECT_TRUE(close(
      time_sinusoids(t, 7, false, 1, at::kFloat), read(file, "shifted"), 0, 3 * 999 * 0x1p-24));
}

TEST(TimeSinusoids, EqualTheClosedForm) {
  const at::Tensor e = time_sinusoids(at::tensor({999.0f}), 8, false, 0, at::kDouble);
  for (int64_t i = 0; i < 4; ++i) {
    const double angle = 999 * std::pow(10000.0, -static_cast<double>(i) / 4);
    EXPECT_NEAR(e[0][i].item<double>(), std::sin(angle), 1e-12);
    EXPECT_NEAR(e[0][4 + i].item<double>(), std::cos(angle), 1e-12);
  }
}

// Counts of the published DDPM CIFAR-10 checkpoint and of two networks in diffusers.
TEST(UNet, ParameterCounts) {
  UNetOptions cifar;
  cifar.base_channels = 128;
  cifar.channel_mult = {1, 2, 2, 2};
  cifar.attention_at = {16};
  cifar.head_channels = 256;
  cifar.downsample_padding = 0;
  EXPECT_EQ(UNet(cifar, 3, 3, 32, 32, 0).parameter_count(), 35'746'307);

  UNetOptions a;
  a.attention_at = {16, 8};
  EXPECT_EQ(UNet(a, 3, 3, 32, 32, 0).parameter_count(), 6'803'715);

  UNetOptions s;
  s.base_channels = 32;
  s.channel_mult = {1, 2};
  s.attention_at = {8};
  EXPECT_EQ(UNet(s, 1, 1, 16, 16, 0).parameter_count(), 1'001'729);
  EXPECT_EQ(UNet(s, 1, 1, 16, 16, 10).parameter_count(), 1'001'729 + 10 * 128);
}

struct Small {
  UNetOptions options = [] {
    UNetOptions o;
    o.base_channels = 4;
    o.channel_mult = {1, 2};
    o.attention_at = {4};
    o.head_channels = 4;
    o.norm_groups = 2;
    o.zero_init = false;
    return o;
  }();
  at::Tensor x = at::linspace(-2, 2, 6 * 64).view({6, 1, 8, 8});
  at::Tensor t = at::arange(6, at::kFloat) * 7;

  UNet net() const { return {options, 1, 1, 8, 8, 0}; }
};

TEST(UNet, MultiplyAccumulates) {
  UNetOptions o;
  o.base_channels = 4;
  o.channel_mult = {1, 2};
  o.blocks_per_level = 1;
  o.attention_at = {};
  o.head_channels = 4;
  o.norm_groups = 2;
  // By hand; 64 and 16 pixels, an embedding of 16 channels.
  const int64_t time = 4 * 16 + 16 * 16;
  const int64_t conv_in = 9 * 1 * 4 * 64;
  const int64_t down0 = 9 * 4 * 4 * 64 + 16 * 4 + 9 * 4 * 4 * 64;
  const int64_t halve = 9 * 4 * 4 * 16;
  const int64_t down1 = 9 * 4 * 8 * 16 + 16 * 8 + 9 * 8 * 8 * 16 + 4 * 8 * 16;
  const int64_t middle = 2 * (2 * 9 * 8 * 8 * 16 + 16 * 8) + 4 * 16 * 8 * 8 + 2 * 16 * 16 * 8;
  const int64_t up1 = 9 * (16 + 8 + 12 + 8) * 8 * 16 + 2 * 16 * 8 + (16 + 12) * 8 * 16;
  const int64_t twice = 9 * 8 * 8 * 64;
  const int64_t up0 = 9 * (12 + 4 + 8 + 4) * 4 * 64 + 2 * 16 * 4 + (12 + 8) * 4 * 64;
  const int64_t conv_out = 9 * 4 * 1 * 64;
  EXPECT_EQ(o.macs(1, 1, 8, 8),
            time + conv_in + down0 + halve + down1 + middle + up1 + twice + up0 + conv_out);
  o.attention_at = {8};
  EXPECT_EQ(o.macs(1, 1, 8, 8) - 246656, 3 * (4 * 64 * 4 * 4 + 2 * 64 * 64 * 4));
  o.attention_at = {};
  o.time_embedding = TimeEmbedding::scale_shift;
  o.downsample = Resample::resnet;
  EXPECT_EQ(o.macs(1, 1, 8, 8) - 246656,
            16 * (4 + 8 + 2 * 8 + 2 * 8 + 2 * 4) + (9 * 4 * 4 * 16 + 16 * 2 * 4));

  // DDPM's network for CIFAR-10: 6.22 G where all products are counted.
  UNetOptions ddpm;
  ddpm.base_channels = 128;
  ddpm.channel_mult = {1, 2, 2, 2};
  ddpm.attention_at = {16};
  EXPECT_NEAR(static_cast<double>(ddpm.macs(3, 3, 32, 32)) / 1e9, 6.22, 0.005);
}

TEST(UNet, InitialisationFollowsTheOption) {
  Small small;
  for (const bool zero : {true, false}) {
    small.options.zero_init = zero;
    const UNet net = small.net();
    const Weights weights = net.layout().views(net.layout().initial(5));
    for (size_t i = 0; i < weights.size(); ++i) {
      const ParamInfo& info = net.layout().infos()[i];
      const bool norm = info.name.find("norm") != std::string::npos;
      const bool last = info.name.find(".conv2.") != std::string::npos ||
                        info.name.find(".to_out.") != std::string::npos ||
                        info.name.starts_with("conv_out.");
      if (info.name.ends_with(".bias") || (zero && last))
        EXPECT_EQ(largest(weights[i]), 0) << info.name;
      else if (norm)
        EXPECT_TRUE((weights[i] == 1).all().item<bool>()) << info.name;
      else
        EXPECT_GT(largest(weights[i]), 0) << info.name;
    }
    // A network with a zero last layer predicts zero; every other one something.
    const at::Tensor y = net.forward(weights, small.x, small.t, {}, nullptr);
    EXPECT_EQ(largest(y) == 0, zero);
  }
}

TEST(UNet, RunsOnAnyBufferOfTheLayout) {
  const Small small;
  const UNet net = small.net();
  const Params params(net.layout(), net.layout().initial(1));
  const at::Tensor ema = params.flat().clone();
  const at::NoGradGuard no_grad;  // with gradients it rounds otherwise
  const at::Tensor before = net.forward(params.weights(), small.x, small.t, {}, nullptr);
  params.flat().mul_(1.5);
  EXPECT_TRUE(
      at::equal(before, net.forward(net.layout().views(ema), small.x, small.t, {}, nullptr)));
  EXPECT_FALSE(at::equal(before, net.forward(params.weights(), small.x, small.t, {}, nullptr)));
}

TEST(UNet, EveryParameterGetsAGradientAndPaddingNone) {
  const Small small;
  const UNet net = small.net();
  const Params params(net.layout(), net.layout().initial(1));
  net.forward(params.weights(), small.x, small.t, {}, nullptr).pow(2).sum().backward();
  for (size_t i = 0; i < params.weights().size(); ++i)
    EXPECT_GT(largest(params.weights()[i].grad()), 0) << net.layout().infos()[i].name;
  at::Tensor padding = params.grad().clone();
  for (const at::Tensor& view : net.layout().views(padding)) view.zero_();
  EXPECT_EQ(largest(padding), 0);
}

// Float64: only the masks can make a difference above 1e-12.
TEST(UNet, DropoutDoesNotDependOnTheMicroBatch) {
  Small small;
  small.options.dropout = 0.3;
  const UNet net = small.net();
  const Weights w = net.layout().views(net.layout().initial(1).to(at::kDouble));
  const at::Tensor x = small.x.to(at::kDouble);
  const auto run = [&](int64_t first, int64_t last, uint64_t step) {
    const StepKey key{9, step, 100 + first};
    return net.forward(w, x.slice(0, first, last), small.t.slice(0, first, last), {}, &key);
  };
  const at::Tensor whole = run(0, 6, 3);
  EXPECT_TRUE(close(at::cat({run(0, 1, 3), run(1, 4, 3), run(4, 6, 3)}), whole, 0, 1e-12));
  EXPECT_FALSE(close(run(0, 6, 4), whole, 0, 1e-3));
  EXPECT_FALSE(close(net.forward(w, x, small.t, {}, nullptr), whole, 0, 1e-3));
}

// With an identity as second convolution, the residual branch is what the mask is applied to.
TEST(ResBlock, DropoutMasksTheSecondConvolutionsInput) {
  UNetOptions options;
  options.norm_groups = 2;
  options.dropout = 0.4;
  ParamLayout layout;
  Builder builder{layout, options, 3};
  const ResBlock first = ResBlock::build(builder, "a", 4, 4, 5, 3);
  const ResBlock second = ResBlock::build(builder, "b", 4, 4, 5, 3);
  layout.finalize();
  EXPECT_EQ(second.dropout_block - first.dropout_block, dropout_blocks(4 * 5 * 3));

  const Weights w = layout.views(layout.initial(1).to(at::kDouble));
  const at::Tensor identity = w[static_cast<size_t>(second.conv2.weight)].zero_();
  for (int64_t c = 0; c < 4; ++c) identity[c][c][1][1] = 1;
  const at::Tensor x = at::linspace(-1, 3, 2 * 60, at::kDouble).view({2, 4, 5, 3});
  const at::Tensor embedding = at::ones({2, 3}, at::kDouble);
  const StepKey key{1, 2, 3};
  const at::Tensor full = second({w, options, nullptr, false, embedding}, x) - x;
  const at::Tensor dropped = second({w, options, &key, false, embedding}, x) - x;
  const at::Tensor mask = dropout_mask(full, 0.4, key, second.dropout_block);
  EXPECT_GT(largest(full), 0.1);
  EXPECT_TRUE(close(dropped, full * mask, 0, 1e-14 * largest(x)));
}

// bfloat16 keeps 8 bits: each of some 40 layers adds 2^-9 relative twice, at random.
TEST(UNet, RunsInBfloat16) {
  const Small small;
  for (const bool fused : {false, true}) {
    const UNet net(small.options, 1, 1, 8, 8, 0, fused);
    const Params params(net.layout(), net.layout().initial(1));
    const at::Tensor exact = net.forward(params.weights(), small.x, small.t, {}, nullptr);
    const at::Tensor y = net.forward(params.weights(), small.x, small.t, {}, nullptr, true);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(close(y, exact, 0, 4 * std::sqrt(80) * 0x1p-9 * largest(exact)));
    y.to(at::kFloat).sum().backward();
    EXPECT_EQ(params.grad().scalar_type(), at::kFloat);
    EXPECT_GT(largest(params.weights()[0].grad()), 0);
  }
}

TEST(UNet, WrongUseIsCaught) {
  const Small small;
  const UNet net = small.net();
  const Weights w = net.layout().views(net.layout().initial(1));
  EXPECT_THROW(net.forward(w, small.x.narrow(2, 0, 4), small.t, {}, nullptr), std::logic_error);
  EXPECT_THROW(net.forward(w, small.x, small.t.narrow(0, 0, 2), {}, nullptr), std::logic_error);
  EXPECT_THROW(net.forward(w, small.x, small.t, small.t.to(at::kLong), nullptr), std::logic_error);
  EXPECT_THROW(UNet(small.options, 1, 1, 7, 8, 0), std::logic_error);
}

}  // namespace
}  // namespace diffuse
