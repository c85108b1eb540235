// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/choice.h"
#include "base/random.h"

// Distributions of points in the plane whose densities, scores and denoisers are known exactly:
// what a network learns can be held against the truth. No torch.
//
// How to add one: a struct with fields() and operator()() -> PointDistribution, and one row in
// points.cpp's table. The tests loop over the table.

namespace diffuse {

struct Point {
  double x = 0;
  double y = 0;
};

struct PointBox {
  Point low;
  Point high;
};

/// A number and a bound of its error that was estimated, not proved.
struct Approximation {
  double value = 0;
  double error = 0;
};

/// What an observation z = alpha x0 + sigma eps says.
struct PointPosterior {
  double log_density = 0;  // log p(z); -inf where the density is zero
  Point score;             // gradient of log p(z)
  Point x_hat;             // E[x0 | z]
  double variance = 0;     // E[ |x0 - E[x0 | z]|^2 | z ], both coordinates together
};

/// The law of z = alpha x0 + sigma eps at one noise level; eps is a standard normal of the plane.
class NoisedPoints {
 public:
  NoisedPoints(const NoisedPoints&) = delete;
  NoisedPoints& operator=(const NoisedPoints&) = delete;
  virtual ~NoisedPoints() = default;

  /// z is finite.
  virtual PointPosterior operator()(Point z) const = 0;

  double density(Point z) const;

  /// E |x0 - E[x0 | z]|^2, both coordinates together: what no network can be better than. (The mean
  /// over the coordinates, which training reports, is half of it.) A closed form where there is
  /// one, with error 0. Else by the trapezoidal rule on ever finer grids until two of them agree to
  /// 1e-6 of the value, or the finest has 4 million points; `error` is their difference.
  virtual Approximation minimal_loss() const = 0;

 protected:
  NoisedPoints() = default;
};

/// The law of x0, a value that is shared.
class PointDistribution {
 public:
  PointDistribution() = default;
  PointDistribution(const PointDistribution&) = delete;
  PointDistribution& operator=(const PointDistribution&) = delete;
  virtual ~PointDistribution() = default;

  /// The point of a stream: a pure function of it. Normal deviates have the 24 bits of
  /// random_normal4.
  virtual Point sample(const Stream& stream) const = 0;

  /// alpha, sigma >= 0, not both 0.
  virtual std::unique_ptr<NoisedPoints> noised(double alpha, double sigma) const = 0;

  /// Where the points lie, but for the noise beyond four standard deviations: for axes.
  virtual PointBox box() const = 0;
};

/// With its default options every row lies within [-1, 1] x [-1, 1], but for one point in 10^4: a
/// sampler that clips there cuts off nothing.
using PointSource = Choice<std::unique_ptr<const PointDistribution>()>;

const PointSource::Table& point_sources();

/// "moons (two interleaving half circles)".
std::string described(const PointSource& source);

/// Points `first` .. `first + n - 1` of the data set that `seed` names.
std::vector<Point> sample_points(const PointDistribution& distribution,
                                 uint64_t seed,
                                 uint64_t first,
                                 int64_t n);

/// Two interleaving half circles of radius 0.567, as in scikit-learn's make_moons.
struct MoonsPoints {
  double noise = 0.04;
  void fields(Fields& f);
  std::unique_ptr<const PointDistribution> operator()() const;
};

/// t (cos t, sin t) with t uniform on [1.5 pi, 4.5 pi], its end 0.85 from the origin, as in
/// scikit-learn's make_swiss_roll without the third coordinate.
struct SwissRollPoints {
  double noise = 0.03;
  void fields(Fields& f);
  std::unique_ptr<const PointDistribution> operator()() const;
};

/// Every other square of a board on [-1, 1] x [-1, 1], the lower left one among them.
struct CheckerboardPoints {
  int64_t cells = 4;
  double noise = 0;
  void fields(Fields& f);
  std::unique_ptr<const PointDistribution> operator()() const;
};

/// Equal round Gaussians, evenly spaced on a circle.
struct MixturePoints {
  int64_t modes = 8;
  double radius = 0.75;
  double std = 0.06;
  void fields(Fields& f);
  std::unique_ptr<const PointDistribution> operator()() const;
};

struct GaussianPoints {
  std::vector<double> mean{0.0, 0.0};
  std::vector<double> std{0.25, 0.15};
  double correlation = 0.5;
  void fields(Fields& f);
  std::unique_ptr<const PointDistribution> operator()() const;
};

}  // namespace diffuse
