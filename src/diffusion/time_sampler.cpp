// SPDX-License-Identifier: MIT
#include "diffusion/time_sampler.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace diffuse {
namespace {

Stream stream(const TimeQuery& q, int64_t position) {
  return Stream{q.seed, Purpose::timestep, q.step, static_cast<uint64_t>(position)};
}

struct Uniform {
  void fields(Fields&) {}
  std::vector<int64_t> operator()(const TimeQuery& q) const {
    std::vector<int64_t> t(static_cast<size_t>(q.batch));
    for (int64_t i = 0; i < q.batch; ++i)
      t[static_cast<size_t>(i)] =
          static_cast<int64_t>(random_below(stream(q, i), static_cast<uint64_t>(q.steps)));
    return t;
  }
};

struct Stratified {  // t_i = (u + i / B) mod 1: Kingma et al. 2021 (VDM), appendix I.1
  void fields(Fields&) {}
  std::vector<int64_t> operator()(const TimeQuery& q) const {
    const double start = random_uniform(stream(q, 0));
    std::vector<int64_t> t(static_cast<size_t>(q.batch));
    for (int64_t i = 0; i < q.batch; ++i) {
      const double u = start + static_cast<double>(i) / static_cast<double>(q.batch);
      const auto index = static_cast<int64_t>((u - std::floor(u)) * static_cast<double>(q.steps));
      t[static_cast<size_t>(i)] = std::min(index, q.steps - 1);
    }
    return t;
  }
};

}  // namespace

const TimeSampler::Table& time_samplers() {
  static const TimeSampler::Table table{
      TimeSampler::row<Uniform>(
          "uniform", "every t equally likely, independently", "Ho et al. 2020, algorithm 1"),
      TimeSampler::row<Stratified>("stratified",
                                   "a batch spread evenly over t: less noise in the loss",
                                   "Kingma et al. 2021, appendix I.1"),
  };
  return table;
}

}  // namespace diffuse
