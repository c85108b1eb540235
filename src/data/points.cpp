// SPDX-License-Identifier: MIT
#include "data/points.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <utility>

#include "base/error.h"

namespace diffuse {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kReach = 0.85;       // of the centres from the origin
constexpr double kLeastNoise = 1e-3;  // a curve needs some for a density
// exp(-45) = 3e-20 of a sum is lost in its rounding.
constexpr double kNegligible = -45;

/// Gauss-Legendre nodes and weights of [-1, 1]: Abramowitz & Stegun 1964, table 25.4, n = 10.
constexpr std::array<std::pair<double, double>, 10> kGauss{{
    {-0.973906528517171720, 0.066671344308688138},
    {-0.865063366688984511, 0.149451349150580593},
    {-0.679409568299024406, 0.219086362515982044},
    {-0.433395394129247191, 0.269266719309996355},
    {-0.148874338981631211, 0.295524224714752870},
    {0.148874338981631211, 0.295524224714752870},
    {0.433395394129247191, 0.269266719309996355},
    {0.679409568299024406, 0.219086362515982044},
    {0.865063366688984511, 0.149451349150580593},
    {0.973906528517171720, 0.066671344308688138},
}};

/// `use(node, weight)` for the rule with 10 nodes in each of `panels` equal parts of [low, high].
template <class Use>
void quadrature(double low, double high, int64_t panels, const Use& use) {
  const double half = (high - low) / (2 * static_cast<double>(panels));
  for (int64_t i = 0; i < panels; ++i) {
    const double middle = low + (2 * static_cast<double>(i) + 1) * half;
    for (const auto& [node, weight] : kGauss) use(middle + half * node, half * weight);
  }
}

PointBox widened(const PointBox& box, double margin) {
  return {{box.low.x - margin, box.low.y - margin}, {box.high.x + margin, box.high.y + margin}};
}

Point blurred(Point centre, double noise, const Stream& stream, uint32_t block) {
  if (noise == 0) return centre;
  const std::array<float, 4> n = random_normal4(stream, block);
  return {centre.x + noise * n[0], centre.y + noise * n[1]};
}

/// A level of x0 = c + noise n, where n is a standard normal: z = alpha c + std n'.
struct BlurLevel {
  double alpha, sigma, noise;
  double variance;  // of z given c, in each coordinate

  BlurLevel(double alpha_, double sigma_, double noise_)
      : alpha(alpha_),
        sigma(sigma_),
        noise(noise_),
        variance(alpha_ * alpha_ * noise_ * noise_ + sigma_ * sigma_) {
    DIFFUSE_CHECK(alpha >= 0 && sigma >= 0 && alpha + sigma > 0 && std::isfinite(alpha + sigma));
  }

  /// From the law of c given z: log of its mass under exp(-|z - alpha c|^2 / (2 variance)), mean,
  /// and the trace of its covariance.
  PointPosterior posterior(Point z, double log_mass, Point mean, double trace) const {
    const double dx = z.x - alpha * mean.x;
    const double dy = z.y - alpha * mean.y;
    // x0 given z and c is normal: mean c + gain (z - alpha c), variance noise^2 rest (Bishop 2006,
    // eqs. 2.116 and 2.117). Those of x0 given z follow by the laws of total expectation and
    // variance.
    const double gain = alpha * noise * noise / variance;
    const double rest = sigma * sigma / variance;
    return {.log_density = log_mass - std::log(2 * kPi * variance),
            .score = {-dx / variance, -dy / variance},
            .x_hat = {mean.x + gain * dx, mean.y + gain * dy},
            .variance = 2 * noise * noise * rest + rest * rest * trace};
  }
};

/// What is no single Gaussian: centres in a box.
class NoisedCentres : public NoisedPoints {
 public:
  NoisedCentres(const PointBox& box, const BlurLevel& level) : box_(box), level_(level) {}

  Approximation minimal_loss() const override {
    if (level_.sigma == 0) return {0, 0};
    // exp(-9^2 / 2) = 3e-18 of a bump lies beyond.
    const double std = std::sqrt(level_.variance), margin = 9 * std;
    const double width = level_.alpha * (box_.high.x - box_.low.x) + 2 * margin;
    const double height = level_.alpha * (box_.high.y - box_.low.y) + 2 * margin;
    const Point corner{level_.alpha * box_.low.x - margin, level_.alpha * box_.low.y - margin};
    const auto on_grid = [&](double step) {
      double mass = 0, loss = 0;
      for (double x = corner.x; x <= corner.x + width; x += step)
        for (double y = corner.y; y <= corner.y + height; y += step) {
          const PointPosterior p = (*this)({x, y});
          const double density = std::exp(p.log_density);
          mass += density;
          loss += density * p.variance;
        }
      return loss / mass;
    };
    // A grid has about width height / step^2 points; there are always two of them.
    double step = std::max(std, std::sqrt(width * height / kMaxGrid) * 2);
    double coarse = on_grid(step);
    for (;;) {
      step /= 2;
      const double fine = on_grid(step);
      const double error = std::abs(fine - coarse);
      if (error <= 1e-6 * fine || width * height / (step * step) > kMaxGrid / 4)
        return {fine, error};
      coarse = fine;
    }
  }

 protected:
  const BlurLevel& level() const { return level_; }

 private:
  static constexpr double kMaxGrid = 4e6;

  PointBox box_;
  BlurLevel level_;
};

struct Node {
  Point centre;
  double weight;  // they sum to 1
};

/// Centres of finite number.
class NoisedNodes : public NoisedCentres {
 public:
  NoisedNodes(std::vector<Node> nodes, const PointBox& box, const BlurLevel& l)
      : NoisedCentres(box, l), nodes_(std::move(nodes)) {
    std::ranges::sort(nodes_, {}, [](const Node& node) { return node.centre.x; });
  }

  PointPosterior operator()(Point z) const override {
    // Nodes count only near z, and are in the order of x.
    const Node& nearest = nearest_to(z);
    const double least = square(nearest, z);
    // A little more, so that rounding leaves the nearest in.
    const double reach = (1 + 1e-9) * std::sqrt(least - 2 * kNegligible * level().variance);
    const size_t begin = first_from(z.x - reach), end = first_from(z.x + reach);
    // Moments about the nearest node, which is where the mass is: their difference cancels little.
    double mass = 0, squares = 0;
    Point shift;
    for (size_t i = begin; i < end; ++i) {
      const double exponent = (least - square(nodes_[i], z)) / (2 * level().variance);
      if (exponent < kNegligible) continue;
      const double w = nodes_[i].weight * std::exp(exponent);
      const double dx = nodes_[i].centre.x - nearest.centre.x;
      const double dy = nodes_[i].centre.y - nearest.centre.y;
      mass += w;
      shift.x += w * dx;
      shift.y += w * dy;
      squares += w * (dx * dx + dy * dy);
    }
    shift = {shift.x / mass, shift.y / mass};
    return level().posterior(z,
                             std::log(mass) - least / (2 * level().variance),
                             {nearest.centre.x + shift.x, nearest.centre.y + shift.y},
                             std::max(0.0, squares / mass - shift.x * shift.x - shift.y * shift.y));
  }

 private:
  double square(const Node& node, Point z) const {
    const double dx = z.x - level().alpha * node.centre.x;
    const double dy = z.y - level().alpha * node.centre.y;
    return dx * dx + dy * dy;
  }

  size_t first_from(double x) const {
    const auto place = [&](const Node& node) { return level().alpha * node.centre.x; };
    return static_cast<size_t>(std::ranges::lower_bound(nodes_, x, {}, place) - nodes_.begin());
  }

  const Node& nearest_to(Point z) const {
    const auto gap = [&](const Node& node) {
      const double dx = z.x - level().alpha * node.centre.x;
      return dx * dx;
    };
    const size_t middle = first_from(z.x);
    double least = kInfinity;
    const Node* nearest = nullptr;
    const auto look_at = [&](const Node& node) {
      const double distance = square(node, z);
      if (distance < least) {
        least = distance;
        nearest = &node;
      }
    };
    for (size_t i = middle; i < nodes_.size() && gap(nodes_[i]) < least; ++i) look_at(nodes_[i]);
    for (size_t i = middle; i-- > 0 && gap(nodes_[i]) < least;) look_at(nodes_[i]);
    DIFFUSE_CHECK(nearest != nullptr);  // z is finite
    return *nearest;
  }

  std::vector<Node> nodes_;
};

/// Centres on a curve, whose parameter is uniform on [0, 1].
struct Curve {
  std::function<Point(double)> at;
  double speed;  // bound of |d at(u) / du|
};

/// Curves of equal weight, blurred by a Gaussian.
class CurvePoints : public PointDistribution {
 public:
  CurvePoints(std::vector<Curve> curves, const PointBox& box, double noise)
      : curves_(std::move(curves)), box_(box), noise_(noise) {}

  Point sample(const Stream& stream) const override {
    const Curve& curve = curves_[random_below(stream, curves_.size(), 0)];
    return blurred(curve.at(random_uniform(stream, 1)), noise_, stream, 1);
  }

  /// The integral of K(u) = exp(-|z - alpha c(u)|^2 / (2 v)) over each curve by the Gauss rule with
  /// 10 nodes in panels on which alpha c(u) moves by at most sqrt(v). Its error: on the Bernstein
  /// ellipse rho around a panel, Im u = y moves alpha c(u) by at most (rho - 1/rho) sqrt(v) / 4,
  /// and |K| <= exp((rho - 1/rho)^2 / 32), to first order in the curvature (for a circle of radius
  /// r exactly, with r sinh y for r y). So it is at most 64/15 exp((rho - 1/rho)^2 / 32) rho^-18 /
  /// (1 - rho^-2) (Trefethen 2008, "Is Gauss quadrature better than Clenshaw-Curtis?",
  /// theorem 4.5): 3e-18 of K's largest value at rho = 17, below the rounding. Far from the curve,
  /// where every K is small, the relative error counts: K falls along a panel like exp(-D u), D =
  /// distance / sqrt(v), and the rule's is 1.2e-24 (D / 2)^21: 1e-14 at D = 6 and 1e-9 at D = 10.
  std::unique_ptr<NoisedPoints> noised(double alpha, double sigma) const override {
    const BlurLevel level(alpha, sigma, noise_);
    std::vector<Node> nodes;
    for (const Curve& curve : curves_) {
      const double lengths = alpha * curve.speed / std::sqrt(level.variance);
      const auto panels = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(lengths)));
      quadrature(0, 1, panels, [&](double u, double weight) {
        nodes.push_back({curve.at(u), weight / static_cast<double>(curves_.size())});
      });
    }
    return std::make_unique<NoisedNodes>(std::move(nodes), box_, level);
  }

  PointBox box() const override { return widened(box_, 4 * noise_); }

 private:
  std::vector<Curve> curves_;
  PointBox box_;  // of the curves
  double noise_;
};

class RingPoints : public PointDistribution {
 public:
  explicit RingPoints(const MixturePoints& options) : options_(options) {}

  Point sample(const Stream& stream) const override {
    const uint64_t mode = random_below(stream, static_cast<uint64_t>(options_.modes), 0);
    return blurred(centre(static_cast<int64_t>(mode)), options_.std, stream, 1);
  }

  std::unique_ptr<NoisedPoints> noised(double alpha, double sigma) const override {
    std::vector<Node> nodes;
    for (int64_t i = 0; i < options_.modes; ++i)
      nodes.push_back({centre(i), 1 / static_cast<double>(options_.modes)});
    return std::make_unique<NoisedNodes>(
        std::move(nodes), disc(), BlurLevel(alpha, sigma, options_.std));
  }

  PointBox box() const override { return widened(disc(), 4 * options_.std); }

 private:
  Point centre(int64_t i) const {
    const double angle = 2 * kPi * static_cast<double>(i) / static_cast<double>(options_.modes);
    return {options_.radius * std::cos(angle), options_.radius * std::sin(angle)};
  }
  PointBox disc() const {
    return {{-options_.radius, -options_.radius}, {options_.radius, options_.radius}};
  }

  MixturePoints options_;
};

/// A measure on the line: logarithm of its mass, mean and variance.
struct Moments {
  double log_mass = -kInfinity;
  double mean = 0;
  double variance = 0;
};

/// The measure exp(-(z - alpha c)^2 / (2 std^2)) dc over c in [low, high]. To a relative 1e-13,
/// wherever z is.
Moments moments_on(double low, double high, double z, double alpha, double std) {
  const double a = (alpha * low - z) / std;  // the deviation z - alpha c runs from -a to -a - width
  const double width = alpha * (high - low) / std;
  if (a + width / 2 < 0) {
    Moments mirrored = moments_on(-high, -low, -z, alpha, std);
    mirrored.mean = -mirrored.mean;
    return mirrored;
  }
  if (a <= 0 && width > 1) {
    // Mean and variance of a truncated normal: Johnson, Kotz & Balakrishnan 1994, eqs. 13.134 and
    // 13.135. Neither difference cancels here.
    const double b = a + width;
    const auto phi = [](double u) { return std::exp(-u * u / 2) / std::sqrt(2 * kPi); };
    const double mass = (std::erf(b / std::numbers::sqrt2) - std::erf(a / std::numbers::sqrt2)) / 2;
    const double mean = (phi(a) - phi(b)) / mass;
    const double variance = 1 + (a * phi(a) - b * phi(b)) / mass - mean * mean;
    const double unit = std / alpha;
    return {std::log(mass * unit * std::sqrt(2 * kPi)),
            (z + std * mean) / alpha,
            variance * unit * unit};
  }
  // Narrow or in the tail, where those would cancel. From its largest value the integrand falls by
  // at least exp(-rate u) e within u: what lies beyond 45 / rate is negligible, and on panels of 4
  // / rate the rule is exact to 1e-16 (see CurvePoints).
  const double nearest = std::max(a, 0.0);
  const double rate = 1 + nearest;
  const double end = std::min(1.0, 45 / (rate * width));  // a part of the interval
  const auto panels = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(end * width * rate / 4)));
  const auto each = [&](const auto& use) {
    quadrature(0, end, panels, [&](double part, double weight) {
      const double t = a + width * part;
      use(part, weight * std::exp(-(t - nearest) * (t + nearest) / 2));
    });
  };
  double mass = 0, first = 0, second = 0;
  each([&](double part, double w) {
    mass += w;
    first += w * part;
  });
  const double mean = first / mass;
  each([&](double part, double w) { second += w * (part - mean) * (part - mean); });
  const double length = high - low;
  return {std::log(mass * length) - nearest * nearest / 2,
          low + mean * length,
          second / mass * length * length};
}

/// The sum of measures.
Moments joined(const std::vector<Moments>& parts) {
  Moments out;
  for (const Moments& part : parts) out.log_mass = std::max(out.log_mass, part.log_mass);
  const double greatest = out.log_mass;
  double mass = 0;
  for (const Moments& part : parts) {
    const double w = std::exp(part.log_mass - greatest);
    mass += w;
    out.mean += w * part.mean;
  }
  out.mean /= mass;
  for (const Moments& part : parts)
    out.variance += std::exp(part.log_mass - greatest) / mass *
                    (part.variance + (part.mean - out.mean) * (part.mean - out.mean));
  out.log_mass += std::log(mass);
  return out;
}

/// [-1, 1] x [-1, 1] in cells x cells squares, of which those with an even sum of column and row
/// are black.
struct Board {
  int64_t cells;

  double edge(int64_t i) const {
    return -1 + 2 * static_cast<double>(i) / static_cast<double>(cells);
  }
  int64_t black() const { return (cells * cells + 1) / 2; }
  double area() const { return static_cast<double>(black()) * (edge(1) + 1) * (edge(1) + 1); }

  bool is_black(Point p) const {
    const auto place = [&](double v) {
      return static_cast<int64_t>(std::floor((v + 1) / 2 * static_cast<double>(cells)));
    };
    return std::max(std::abs(p.x), std::abs(p.y)) < 1 && (place(p.x) + place(p.y)) % 2 == 0;
  }

  /// moments_on over the columns (or rows) number parity, parity + 2, ...; there is one.
  Moments moments(int64_t parity, double z, double alpha, double std) const {
    const auto deviation = [&](int64_t i) {
      return std::max({alpha * edge(i) - z, z - alpha * edge(i + 1), 0.0}) / std;
    };
    double least = kInfinity;
    for (int64_t i = parity; i < cells; i += 2) least = std::min(least, deviation(i));
    std::vector<Moments> parts;
    for (int64_t i = parity; i < cells; i += 2) {
      const double d = deviation(i);
      if ((least - d) * (least + d) / 2 > kNegligible)
        parts.push_back(moments_on(edge(i), edge(i + 1), z, alpha, std));
    }
    return joined(parts);
  }
};

class NoisedBoard : public NoisedCentres {
 public:
  NoisedBoard(const Board& board, const BlurLevel& l)
      : NoisedCentres({{-1, -1}, {1, 1}}, l), board_(board) {}

  PointPosterior operator()(Point z) const override {
    const double alpha = level().alpha;
    const double std = std::sqrt(level().variance);
    if (std == 0) {  // no blur at all: x0 is known, the density a constant or zero
      const Point x0{z.x / alpha, z.y / alpha};
      const double height = 1 / (board_.area() * alpha * alpha);
      return {.log_density = board_.is_black(x0) ? std::log(height) : -kInfinity,
              .score = {},
              .x_hat = x0,
              .variance = 0};
    }
    // A black square has column and row both even or both odd: given which, the coordinates are
    // independent.
    std::vector<Moments> xs, ys;
    for (int64_t parity = 0; parity < std::min<int64_t>(2, board_.cells); ++parity) {
      Moments x = board_.moments(parity, z.x, alpha, std);
      Moments y = board_.moments(parity, z.y, alpha, std);
      x.log_mass = y.log_mass = x.log_mass + y.log_mass;
      xs.push_back(x);
      ys.push_back(y);
    }
    const Moments x = joined(xs), y = joined(ys);
    return level().posterior(
        z, x.log_mass - std::log(board_.area()), {x.mean, y.mean}, x.variance + y.variance);
  }

 private:
  Board board_;
};

class BoardPoints : public PointDistribution {
 public:
  explicit BoardPoints(const CheckerboardPoints& options)
      : board_{options.cells}, noise_(options.noise) {}

  Point sample(const Stream& stream) const override {
    const auto number =
        static_cast<int64_t>(random_below(stream, static_cast<uint64_t>(board_.black()), 0));
    // Two rows have `cells` black squares, the even row the one more where that is odd.
    const int64_t pair = number / board_.cells, rest = number % board_.cells;
    const int64_t in_even_row = (board_.cells + 1) / 2;
    const bool odd = rest >= in_even_row;
    const int64_t row = 2 * pair + (odd ? 1 : 0);
    const int64_t column = odd ? 2 * (rest - in_even_row) + 1 : 2 * rest;
    const double side = board_.edge(1) + 1;
    const Point place{board_.edge(column) + side * random_uniform(stream, 1),
                      board_.edge(row) + side * random_uniform(stream, 2)};
    return blurred(place, noise_, stream, 2);
  }

  std::unique_ptr<NoisedPoints> noised(double alpha, double sigma) const override {
    return std::make_unique<NoisedBoard>(board_, BlurLevel(alpha, sigma, noise_));
  }

  PointBox box() const override { return widened({{-1, -1}, {1, 1}}, 4 * noise_); }

 private:
  Board board_;
  double noise_;
};

/// A symmetric matrix.
struct Covariance {
  double xx, xy, yy;

  Point operator()(Point p) const { return {xx * p.x + xy * p.y, xy * p.x + yy * p.y}; }
  double determinant() const { return xx * yy - xy * xy; }
  Covariance inverse() const {
    const double d = determinant();
    return {yy / d, -xy / d, xx / d};
  }
};

class NoisedNormal : public NoisedPoints {
 public:
  NoisedNormal(Point mean, const Covariance& s, double alpha, double sigma)
      : mean_(mean),
        x0_(s),
        alpha_(alpha),
        z_{alpha * alpha * s.xx + sigma * sigma,
           alpha * alpha * s.xy,
           alpha * alpha * s.yy + sigma * sigma},
        variance_(posterior_trace(s, sigma)) {}

  // Linear-Gaussian model: Bishop 2006, eqs. 2.115 to 2.117.
  PointPosterior operator()(Point z) const override {
    const Point d{z.x - alpha_ * mean_.x, z.y - alpha_ * mean_.y};
    const Point scaled = z_.inverse()(d);
    const Point gained = x0_(scaled);
    return {.log_density = -(d.x * scaled.x + d.y * scaled.y) / 2 - std::log(2 * kPi) -
                           std::log(z_.determinant()) / 2,
            .score = {-scaled.x, -scaled.y},
            .x_hat = {mean_.x + alpha_ * gained.x, mean_.y + alpha_ * gained.y},
            .variance = variance_};
  }

  /// The variance is the same at every z.
  Approximation minimal_loss() const override { return {variance_, 0}; }

 private:
  /// Trace of sigma^2 S (alpha^2 S + sigma^2 I)^-1.
  double posterior_trace(const Covariance& s, double sigma) const {
    const Covariance i = z_.inverse();
    return sigma * sigma * (s.xx * i.xx + 2 * s.xy * i.xy + s.yy * i.yy);
  }

  Point mean_;
  Covariance x0_;
  double alpha_;
  Covariance z_;
  double variance_;
};

class NormalPoints : public PointDistribution {
 public:
  explicit NormalPoints(const GaussianPoints& options) : options_(options) {
    DIFFUSE_CHECK(options.mean.size() == 2 && options.std.size() == 2);
  }

  Point sample(const Stream& stream) const override {
    const std::array<float, 4> n = random_normal4(stream, 0);
    const double r = options_.correlation;
    return {options_.mean[0] + options_.std[0] * n[0],
            options_.mean[1] + options_.std[1] * (r * n[0] + std::sqrt(1 - r * r) * n[1])};
  }

  std::unique_ptr<NoisedPoints> noised(double alpha, double sigma) const override {
    const double sx = options_.std[0], sy = options_.std[1];
    const Covariance s{sx * sx, options_.correlation * sx * sy, sy * sy};
    DIFFUSE_CHECK(alpha >= 0 && sigma >= 0 && alpha + sigma > 0 && std::isfinite(alpha + sigma));
    return std::make_unique<NoisedNormal>(
        Point{options_.mean[0], options_.mean[1]}, s, alpha, sigma);
  }

  PointBox box() const override {
    const double dx = 4 * options_.std[0], dy = 4 * options_.std[1];
    return {{options_.mean[0] - dx, options_.mean[1] - dy},
            {options_.mean[0] + dx, options_.mean[1] + dy}};
  }

 private:
  GaussianPoints options_;
};

constexpr const char* kNoiseHelp = "standard deviation of the noise added to the points";

}  // namespace

double NoisedPoints::density(Point z) const { return std::exp((*this)(z).log_density); }

std::vector<Point> sample_points(const PointDistribution& distribution,
                                 uint64_t seed,
                                 uint64_t first,
                                 int64_t n) {
  std::vector<Point> out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(distribution.sample({seed, Purpose::point, 0, first + static_cast<uint64_t>(i)}));
  return out;
}

const PointSource::Table& point_sources() {
  static const PointSource::Table table{
      PointSource::row<MoonsPoints>(
          "moons", "two interleaving half circles", "Pedregosa et al. 2011, make_moons"),
      PointSource::row<SwissRollPoints>(
          "swiss_roll", "a spiral", "Marsland 2009; Sohl-Dickstein et al. 2015, figure 1"),
      PointSource::row<CheckerboardPoints>(
          "checkerboard", "every other square of a board", "Grathwohl et al. 2019"),
      PointSource::row<MixturePoints>("mixture", "Gaussians on a circle", ""),
      PointSource::row<GaussianPoints>("gaussian", "one Gaussian", ""),
  };
  return table;
}

std::string described(const PointSource& source) {
  return source.name() + " (" + source.row().help + ")";
}

void MoonsPoints::fields(Fields& f) {
  f(noise, "noise", kNoiseHelp).at_least(kLeastNoise).at_most(1).also_called({"std", "sigma"});
}

std::unique_ptr<const PointDistribution> MoonsPoints::operator()() const {
  // make_moons has half circles of radius 1 around (0, 0) and (1, 0.5): x in [-1, 2], y in [-0.5,
  // 1].
  constexpr double radius = kReach / 1.5;
  const auto upper = [](double u) {
    return Point{radius * (std::cos(kPi * u) - 0.5), radius * (std::sin(kPi * u) - 0.25)};
  };
  const auto lower = [](double u) {
    return Point{radius * (0.5 - std::cos(kPi * u)), radius * (0.25 - std::sin(kPi * u))};
  };
  const PointBox box{{-kReach, -0.75 * radius}, {kReach, 0.75 * radius}};
  return std::make_unique<CurvePoints>(
      std::vector<Curve>{{upper, kPi * radius}, {lower, kPi * radius}}, box, noise);
}

void SwissRollPoints::fields(Fields& f) {
  f(noise, "noise", kNoiseHelp).at_least(kLeastNoise).at_most(1).also_called({"std", "sigma"});
}

std::unique_ptr<const PointDistribution> SwissRollPoints::operator()() const {
  constexpr double first = 1.5 * kPi, last = 4.5 * kPi;
  constexpr double scale = kReach / last;
  const auto at = [](double u) {
    const double t = first + (last - first) * u;
    return Point{scale * t * std::cos(t), scale * t * std::sin(t)};
  };
  // |d/dt t (cos t, sin t)|^2 = 1 + t^2.
  const double speed = scale * std::sqrt(1 + last * last) * (last - first);
  return std::make_unique<CurvePoints>(
      std::vector<Curve>{{at, speed}}, PointBox{{-kReach, -kReach}, {kReach, kReach}}, noise);
}

void CheckerboardPoints::fields(Fields& f) {
  f(cells, "cells", "squares on each side").at_least(1).at_most(64).also_called({"squares"});
  f(noise, "noise", kNoiseHelp).at_least(0).at_most(1).also_called({"std", "sigma"});
}

std::unique_ptr<const PointDistribution> CheckerboardPoints::operator()() const {
  return std::make_unique<BoardPoints>(*this);
}

void MixturePoints::fields(Fields& f) {
  f(modes, "modes", "number of Gaussians").at_least(1).at_most(1000).also_called({"components"});
  f(radius, "radius", "of the circle that their means lie on").at_least(0).at_most(1000);
  f(std, "std", "standard deviation of each")
      .at_least(kLeastNoise)
      .at_most(1000)
      .also_called({"noise", "sigma"});
}

std::unique_ptr<const PointDistribution> MixturePoints::operator()() const {
  return std::make_unique<RingPoints>(*this);
}

void GaussianPoints::fields(Fields& f) {
  f(mean, "mean", "of x and of y").at_least(-1000).at_most(1000).items(2, 2);
  f(std, "std", "standard deviations of x and of y")
      .at_least(kLeastNoise)
      .at_most(1000)
      .items(2, 2)
      .also_called({"sigma"});
  f(correlation, "correlation", "of x and y").above(-1).below(1).also_called({"rho"});
}

std::unique_ptr<const PointDistribution> GaussianPoints::operator()() const {
  return std::make_unique<NormalPoints>(*this);
}

}  // namespace diffuse
