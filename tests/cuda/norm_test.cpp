// SPDX-License-Identifier: MIT
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "ops/kernels/group_norm.h"

namespace diffuse {
namespace {

using cuda_emulation::Order;
using kernels::NormBatch;

constexpr double kUnit = 0x1p-24;  // of float32: its relative rounding error

struct Case {
  int64_t n, channels, group_channels, pixels;
  bool bf16 = false;
  bool silu = false, added = false, scale_shift = false, dropout = false;
  bool more = false, d_added = false;
  int shared_memory = 227 << 10;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.n << " x " << c.pixels << " x " << c.channels << "/" << c.group_channels
             << (c.bf16 ? " bf16" : "") << (c.silu ? " silu" : "") << (c.added ? " added" : "")
             << (c.scale_shift ? " scale_shift" : "") << (c.dropout ? " dropout" : "")
             << (c.more ? " more" : "") << (c.d_added ? " d_added" : "") << " shared memory "
             << c.shared_memory;
}

struct Width {
  int64_t channels, group_channels;
};

// Of U-Nets (ADM's 576 among them), and such that no pack, no warp and no block of threads divides;
// groups as wide as a block of threads at most.
const std::vector<Width> kWidths{
    {1, 1},   {3, 1},  {3, 3},   {6, 2},   {6, 3},     {32, 1},    {32, 8},     {36, 12}, {40, 5},
    {64, 2},  {64, 4}, {64, 16}, {96, 3},  {96, 48},   {192, 6},   {192, 24},   {34, 17}, {576, 18},
    {576, 2}, {84, 7}, {66, 33}, {256, 1}, {256, 256}, {1024, 32}, {1024, 1024}};

// Of sm_90, of sm_80, what every GPU has, and so little that no map stays in it.
constexpr int kSharedMemory[] = {227 << 10, 163 << 10, 48 << 10, 16 << 10, 4 << 10};

/// Every width with every number of pixels, each with options and a shared memory that are drawn.
std::vector<Case> cases() {
  std::vector<Case> out;
  const Stream stream{.seed = 1, .purpose = Purpose::probe};
  for (const Width& w : kWidths)
    for (const int64_t pixels : {1, 7, 16, 63, 64})
      for (const bool bf16 : {false, true})
        for (const int64_t n : {1, 3}) {
          const uint64_t bits = random_bits(stream, static_cast<uint32_t>(out.size()));
          out.push_back({.n = n,
                         .channels = w.channels,
                         .group_channels = w.group_channels,
                         .pixels = pixels,
                         .bf16 = bf16,
                         .silu = (bits & 1) != 0,
                         .added = (bits & 2) != 0,
                         .scale_shift = (bits & 4) != 0,
                         .dropout = (bits & 8) != 0,
                         .more = (bits & 16) != 0,
                         .d_added = (bits & 32) != 0,
                         .shared_memory = kSharedMemory[(bits >> 6) % std::size(kSharedMemory)]});
        }
  return out;
}

/// Numbers in memory of their exact size, of float32 or bfloat16; at first NaN.
class Numbers {
 public:
  Numbers(int64_t n, bool bf16)
      : bf16_(bf16), bytes_(static_cast<size_t>(n * (bf16 ? 2 : 4)), 0xFF) {}
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  float* floats() { return reinterpret_cast<float*>(bytes_.data()); }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

  double operator[](int64_t i) const {
    if (bf16_) {
      __nv_bfloat16 x;
      std::memcpy(&x, &bytes_[static_cast<size_t>(2 * i)], 2);
      return __bfloat162float(x);
    }
    float x;
    std::memcpy(&x, &bytes_[static_cast<size_t>(4 * i)], 4);
    return x;
  }
  void set(int64_t i, float x) {
    if (bf16_) {
      const __nv_bfloat16 rounded = __float2bfloat16_rn(x);
      std::memcpy(&bytes_[static_cast<size_t>(2 * i)], &rounded, 2);
    } else {
      std::memcpy(&bytes_[static_cast<size_t>(4 * i)], &x, 4);
    }
  }

 private:
  bool bf16_;
  std::vector<uint8_t> bytes_;
};

/// offset + scale times standard normals, others for each `what`.
Numbers normals(int64_t n, bool bf16, uint64_t what, float scale = 1, float offset = 0) {
  Numbers out(n, bf16);
  const Stream stream{.seed = 7, .purpose = Purpose::probe, .sample = what};
  for (int64_t i = 0; i < n; ++i)
    out.set(i,
            offset + scale * random_normal4(
                                 stream, static_cast<uint32_t>(i / 4))[static_cast<size_t>(i % 4)]);
  return out;
}

struct Inputs {
  Numbers x, dy, more, weight, bias, added, scale, shift;
  std::vector<uint8_t> kept;

  explicit Inputs(const Case& c)
      : x(normals(c.n * c.pixels * c.channels, c.bf16, 1, 1.5f)),
        dy(normals(c.n * c.pixels * c.channels, c.bf16, 2)),
        more(normals(c.n * c.pixels * c.channels, c.bf16, 3)),
        weight(normals(c.channels, false, 4, 1, 1)),
        bias(normals(c.channels, false, 5)),
        added(normals(c.n * c.channels, false, 6)),
        scale(normals(c.n * c.channels, false, 7)),
        shift(normals(c.n * c.channels, false, 8)),
        kept(static_cast<size_t>(c.n * kernels::kept_bytes(c.pixels, c.channels))) {
    // Means away from 0, different between channels.
    const Numbers mean = normals(c.channels, false, 9, 2);
    for (int64_t i = 0; i < c.n * c.pixels * c.channels; ++i)
      x.set(i, static_cast<float>(x[i] + mean[i % c.channels]));
    if (kernels::dropout_bits(
            kept.data(), c.n, c.pixels, c.channels, 20000, 3, {11}, 5, 40, nullptr) != 0)
      throw std::runtime_error("dropout_bits");
  }

  NormBatch batch(const Case& c) {
    return {.n = c.n,
            .pixels = c.pixels,
            .channels = c.channels,
            .group_channels = c.group_channels,
            .bf16 = c.bf16,
            .silu = c.silu,
            .eps = 1e-5,
            .x = x.data(),
            .weight = weight.floats(),
            .bias = bias.floats(),
            .added = c.added ? added.floats() : nullptr,
            .scale = c.scale_shift ? scale.floats() : nullptr,
            .shift = c.scale_shift ? shift.floats() : nullptr,
            .kept = c.dropout ? kept.data() : nullptr,
            .keep_value = 1.5f};
  }
};

/// What the kernels write.
struct Outcome {
  Numbers y, mean, rstd, dx, with_norm, of_scaled, d_added;

  explicit Outcome(const Case& c)
      : y(c.n * c.pixels * c.channels, c.bf16),
        mean(c.n * c.channels / c.group_channels, false),
        rstd(c.n * c.channels / c.group_channels, false),
        dx(c.n * c.pixels * c.channels, c.bf16),
        with_norm(c.n * c.channels, false),
        of_scaled(c.n * c.channels, false),
        d_added(c.n * c.channels, false) {}

  std::vector<const Numbers*> all() const {
    return {&y, &mean, &rstd, &dx, &with_norm, &of_scaled, &d_added};
  }
};

Outcome run(const Case& c, Inputs& in) {
  Outcome out(c);
  const NormBatch batch = in.batch(c);
  EXPECT_TRUE(kernels::norm_fits(batch));
  EXPECT_EQ(
      kernels::norm_forward(batch, out.y.data(), out.mean.floats(), out.rstd.floats(), nullptr), 0)
      << cuda_emulation::last_launch().failure;
  EXPECT_EQ(kernels::norm_backward(batch,
                                   in.dy.data(),
                                   c.more ? in.more.data() : nullptr,
                                   out.mean.floats(),
                                   out.rstd.floats(),
                                   out.dx.data(),
                                   out.with_norm.floats(),
                                   out.of_scaled.floats(),
                                   c.d_added ? out.d_added.floats() : nullptr,
                                   nullptr),
            0)
      << cuda_emulation::last_launch().failure;
  return out;
}

/// A number and how far from it float32 may lead: what is rounded, to first order, and a hundredth
/// for the rest.
struct Bounded {
  double value = 0, error = 0;
};

void expect_near(const Numbers& got, int64_t i, Bounded expected, double unit, const char* what) {
  const double bound = 1.01 * (expected.error + unit * std::abs(expected.value)) + 1e-30;
  // A NaN is not within it.
  if (!(std::abs(got[i] - expected.value) <= bound))
    ADD_FAILURE() << what << "[" << i << "] is " << got[i] << ", expected " << expected.value
                  << " up to " << bound;
}

/// The layer of one picture and one group by its formulas, in float64, with its bounds.
class Reference {
 public:
  Reference(const Case& c, const Inputs& in, int64_t picture, int64_t group)
      : c_(c), in_(in), picture_(picture), first_(group * c.group_channels) {
    const double count = static_cast<double>(c.pixels * c.group_channels);
    const double sums = static_cast<double>(c.pixels) * kUnit;  // of `pixels` numbers, in any order
    for_each([&](int64_t ch, int64_t p) { mean_.value += x_of(ch, p) / count; });
    double variance = 0;
    for_each(
        [&](int64_t ch, int64_t p) { variance += std::pow(x_of(ch, p) - mean_.value, 2) / count; });
    // The kernel adds up differences to the first pixel, d and d^2, and the rest in float64.
    double size = 0, size2 = 0;
    for_each([&](int64_t ch, int64_t p) {
      const double d = std::abs(x_of(ch, p) - x_of(ch, 0));
      size += d / count;
      size2 += d * d / count;
    });
    const double of_sum = (sums + kUnit) * size;
    mean_.error = of_sum + kUnit * std::abs(mean_.value);
    // E d^2 - (E d)^2 of each channel, and the squares of the channels' means around the group's.
    double means = 0;  // mean of |channel's mean - group's|, each of which may be of_sum off
    for_each([&](int64_t ch, int64_t p) { means += std::abs(x_of(ch, p) - mean_.value) / count; });
    const double of_variance = 3 * (sums + 2 * kUnit) * size2 + 4 * of_channel() * means;
    rstd_.value = 1 / std::sqrt(variance + 1e-5);
    rstd_.error = rstd_.value * (of_variance / (2 * (variance + 1e-5)) + kUnit);
  }

  Bounded mean() const { return mean_; }
  Bounded rstd() const { return rstd_; }

  Bounded y(int64_t ch, int64_t p) const {
    const Bounded u = before_activation(ch, p);
    const double factor = kept(ch, p);
    const double y = c_.silu ? u.value * sigmoid(u.value) : u.value;
    // |silu'| <= 1.1; the exponential is 2 units in the last place off, a sum, a quotient and two
    // products one half each.
    return {y * factor, factor * (1.1 * u.error + 8 * kUnit * std::abs(y))};
  }

  /// The sums over the pixels of a channel: du, du (x - center), x - center.
  struct Sums {
    Bounded du, du_x, x;
  };

  void add_up() {
    const double sums = static_cast<double>(c_.pixels) * kUnit;
    of_channel_.assign(static_cast<size_t>(c_.group_channels), {});
    const double count = static_cast<double>(c_.pixels * c_.group_channels);
    for (int64_t ch = first_; ch < first_ + c_.group_channels; ++ch) {
      Sums& s = of_channel_[static_cast<size_t>(ch - first_)];
      for (int64_t p = 0; p < c_.pixels; ++p) {
        const Bounded d = du(ch, p), x = centered(ch, p);
        const double d_size = std::abs(d.value), x_size = std::abs(x.value);
        s.du.value += d.value;
        s.du.error += d.error + sums * d_size;
        s.du_x.value += d.value * x.value;
        s.du_x.error += d.error * x_size + d_size * x.error + (sums + kUnit) * d_size * x_size;
        s.x.value += x.value;
        s.x.error += x.error + sums * x_size;
      }
      const double a = slope(ch), f = a / rstd_.value;
      mean_g_.value += f * s.du.value / count;
      mean_g_.error += std::abs(f) * (s.du.error + 4 * kUnit * std::abs(s.du.value)) / count;
      mean_gx_.value += a * s.du_x.value / count;
      mean_gx_.error +=
          std::abs(a) * (s.du_x.error + (of_slope() + kUnit) * std::abs(s.du_x.value)) / count;
    }
    const double r = rstd_.value, of_r = rstd_.error / r;
    slope_ = {-r * r * mean_gx_.value,
              r * r * (mean_gx_.error + (2 * of_r + kUnit) * std::abs(mean_gx_.value))};
    constant_ = {-r * mean_g_.value,
                 r * (mean_g_.error + (of_r + kUnit) * std::abs(mean_g_.value))};
  }

  Bounded of_scaled(int64_t ch) const { return sums_of(ch).du; }
  Bounded with_norm(int64_t ch) const {
    const Bounded s = sums_of(ch).du_x;
    return {rstd_.value * s.value, rstd_.value * s.error + rstd_.error * std::abs(s.value)};
  }
  Bounded d_added(int64_t ch) const {
    const Sums& s = sums_of(ch);
    const double a = slope(ch), pixels = static_cast<double>(c_.pixels);
    return {a * s.du.value + slope_.value * s.x.value + pixels * constant_.value,
            std::abs(a) * (s.du.error + of_slope() * std::abs(s.du.value)) +
                std::abs(slope_.value) * s.x.error + slope_.error * std::abs(s.x.value) +
                pixels * constant_.error};
  }
  Bounded dx(int64_t ch, int64_t p) const {
    const Bounded d = du(ch, p), x = centered(ch, p);
    const double a = slope(ch), other = c_.more ? in_.more[at(ch, p)] : 0;
    const double by_d = a * d.value, by_x = slope_.value * x.value;
    // Two products and three sums.
    return {by_d + by_x + constant_.value + other,
            std::abs(a) * d.error + of_slope() * std::abs(by_d) + std::abs(slope_.value) * x.error +
                slope_.error * std::abs(x.value) + constant_.error +
                4 * kUnit * (std::abs(by_d) + std::abs(by_x) + std::abs(constant_.value)) +
                kUnit * std::abs(other)};
  }

 private:
  template <class Body>
  void for_each(const Body& body) const {
    for (int64_t ch = first_; ch < first_ + c_.group_channels; ++ch)
      for (int64_t p = 0; p < c_.pixels; ++p) body(ch, p);
  }
  int64_t at(int64_t ch, int64_t p) const { return (picture_ * c_.pixels + p) * c_.channels + ch; }
  int64_t row(int64_t ch) const { return picture_ * c_.channels + ch; }
  double added(int64_t ch) const { return c_.added ? in_.added[row(ch)] : 0; }
  double x_of(int64_t ch, int64_t p) const { return in_.x[at(ch, p)] + added(ch); }

  /// What a channel's own mean may be off, at most.
  double of_channel() const {
    double most = 0;
    for (int64_t ch = first_; ch < first_ + c_.group_channels; ++ch) {
      double size = 0;
      for (int64_t p = 0; p < c_.pixels; ++p)
        size += std::abs(x_of(ch, p) - x_of(ch, 0)) / static_cast<double>(c_.pixels);
      most = std::max(most, (static_cast<double>(c_.pixels) + 1) * kUnit * size);
    }
    return most;
  }

  double factor(int64_t ch) const { return c_.scale_shift ? 1 + in_.scale[row(ch)] : 1; }
  double slope(int64_t ch) const { return rstd_.value * in_.weight[ch] * factor(ch); }
  /// Relative: of rstd, 1 + scale, and two products.
  double of_slope() const { return rstd_.error / rstd_.value + 3 * kUnit; }

  /// x - center, where center = mean - added.
  Bounded centered(int64_t ch, int64_t p) const {
    const double x = x_of(ch, p) - mean_.value;
    return {x, mean_.error + kUnit * (std::abs(mean_.value - added(ch)) + std::abs(x))};
  }
  Bounded before_activation(int64_t ch, int64_t p) const {
    const Bounded x = centered(ch, p);
    const double a = slope(ch), by_bias = in_.bias[ch] * factor(ch);
    const double shift = c_.scale_shift ? in_.shift[row(ch)] : 0;
    const double u = a * x.value + by_bias + shift;
    return {u,
            std::abs(a) * x.error + (of_slope() + kUnit) * std::abs(a * x.value) +
                3 * kUnit * (std::abs(by_bias) + std::abs(shift)) + kUnit * std::abs(u)};
  }
  /// The gradient before the activation.
  Bounded du(int64_t ch, int64_t p) const {
    const double d = in_.dy[at(ch, p)] * kept(ch, p), size = std::abs(d);
    if (!c_.silu) return {d, kUnit * size};
    const Bounded u = before_activation(ch, p);
    const double s = sigmoid(u.value), stretch = s * (1 + u.value * (1 - s));
    // |silu''| <= 1/2; the sigmoid's 4 units of rounding come once as a factor and once times u.
    return {d * stretch, size * (u.error / 2 + 8 * kUnit * (1 + std::abs(u.value)))};
  }
  const Sums& sums_of(int64_t ch) const { return of_channel_[static_cast<size_t>(ch - first_)]; }

  static double sigmoid(double u) { return 1 / (1 + std::exp(-u)); }

  double kept(int64_t ch, int64_t p) const {
    if (!c_.dropout) return 1;
    const int64_t e = ch * c_.pixels + p;
    const Stream stream{.seed = 3,
                        .purpose = Purpose::dropout,
                        .step = 11,
                        .sample = static_cast<uint64_t>(5 + picture_)};
    const Philox4 b = random_block(stream, static_cast<uint32_t>(40 + e / 8));
    return ((b.v[e % 8 / 2] >> (16 * (e % 2))) & 0xFFFF) >= 20000 ? 1.5 : 0.0;
  }

  const Case& c_;
  const Inputs& in_;
  int64_t picture_, first_;
  Bounded mean_, rstd_;
  std::vector<Sums> of_channel_;
  Bounded mean_g_, mean_gx_;  // of g = d xhat, and of g (x - center)
  Bounded slope_, constant_;  // dx = a du + slope (x - center) + constant
};

void expect_reference(const Case& c, const Inputs& in, const Outcome& got) {
  const double unit = c.bf16 ? 0x1p-8 : kUnit;  // of the output's type
  const int64_t groups = c.channels / c.group_channels;
  for (int64_t i = 0; i < c.n; ++i)
    for (int64_t g = 0; g < groups; ++g) {
      Reference expected(c, in, i, g);
      expect_near(got.mean, i * groups + g, expected.mean(), 0, "mean");
      expect_near(got.rstd, i * groups + g, expected.rstd(), 0, "rstd");
      expected.add_up();
      for (int64_t ch = g * c.group_channels; ch < (g + 1) * c.group_channels; ++ch) {
        const int64_t row = i * c.channels + ch;
        expect_near(got.with_norm, row, expected.with_norm(ch), kUnit, "with_norm");
        expect_near(got.of_scaled, row, expected.of_scaled(ch), kUnit, "of_scaled");
        if (c.d_added) expect_near(got.d_added, row, expected.d_added(ch), kUnit, "d_added");
        for (int64_t p = 0; p < c.pixels; ++p) {
          const int64_t at = (i * c.pixels + p) * c.channels + ch;
          expect_near(got.y, at, expected.y(ch, p), unit, "y");
          expect_near(got.dx, at, expected.dx(ch, p), unit, "dx");
        }
      }
    }
}

class EmulatedNorm : public testing::Test {
  void TearDown() override { cuda_emulation::settings() = {}; }
};

/// Against the reference, and once more in another order of threads and blocks: if a number changes
/// there is a race.
void expect_right(const Case& c, uint64_t turn) {
  SCOPED_TRACE(testing::PrintToString(c));
  cuda_emulation::settings() = {.shared_memory = c.shared_memory};
  Inputs in(c);
  const Outcome got = run(c, in);
  expect_reference(c, in, got);
  cuda_emulation::settings().order = turn % 2 == 0 ? Order::reverse : Order::shuffled;
  cuda_emulation::settings().seed = turn;
  const Outcome again = run(c, in);
  for (size_t i = 0; i < got.all().size(); ++i)
    EXPECT_TRUE(got.all()[i]->bytes() == again.all()[i]->bytes()) << "a race: output " << i;
}

TEST_F(EmulatedNorm, IsTheLayerInFloat64ToRounding) {
  uint64_t turn = 0;
  for (const Case& c : cases()) {
    expect_right(c, turn++);
    if (HasFailure()) return;  // one case says enough
  }
}

TEST_F(EmulatedNorm, LargeMapsOnEveryDevice) {
  Case plain{.n = 1, .channels = 64, .group_channels = 2, .pixels = 1024, .silu = true};
  Case half{
      .n = 2, .channels = 36, .group_channels = 12, .pixels = 900, .bf16 = true, .more = true};
  for (const int shared_memory : kSharedMemory)
    for (Case* c : {&plain, &half}) {
      c->shared_memory = shared_memory;
      expect_right(*c, 0);
    }
}

TEST_F(EmulatedNorm, MapsStayInSharedMemoryWhereTheyFit) {
  const Case c{.n = 1, .channels = 64, .group_channels = 16, .pixels = 64};
  Inputs in(c);
  constexpr size_t kMaps = 2 * 64 * 64 * sizeof(float);  // of the backward kernel, which is last
  run(c, in);
  EXPECT_GT(cuda_emulation::last_launch().shared_bytes, kMaps);
  cuda_emulation::settings().shared_memory = 4 << 10;
  run(c, in);
  EXPECT_LT(cuda_emulation::last_launch().shared_bytes, kMaps);
}

TEST_F(EmulatedNorm, BadNumbersStayInTheirGroup) {
  const Case c{.n = 2, .channels = 32, .group_channels = 8, .pixels = 16, .silu = true};
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    Inputs in(c);
    in.x.set((c.pixels + 3) * c.channels + 5, bad);  // of picture 1, in its first group
    const Outcome got = run(c, in);
    for (int64_t i = 0; i < c.n * c.pixels * c.channels; ++i) {
      const bool same_group = i >= c.pixels * c.channels && i % c.channels < c.group_channels;
      EXPECT_EQ(std::isfinite(got.y[i]), !same_group) << i;
      EXPECT_EQ(std::isfinite(got.dx[i]), !same_group) << i;
    }
  }
}

TEST_F(EmulatedNorm, RefusesGroupsWiderThanABlock) {
  EXPECT_TRUE(kernels::norm_fits({.channels = 1024, .group_channels = 1024}));
  EXPECT_FALSE(kernels::norm_fits({.channels = 1028, .group_channels = 1028}));
  EXPECT_FALSE(kernels::norm_fits({.channels = 514, .group_channels = 257}));
}

}  // namespace
}  // namespace diffuse
