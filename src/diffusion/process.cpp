// SPDX-License-Identifier: MIT
#include "diffusion/process.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "diffusion/normal.h"

namespace diffuse {
namespace {

constexpr int64_t kContinuousBins = 256;

/// Away from the ends, where a density over all log SNR is infinite.
double inside(double u) { return std::clamp(u, 0x1p-54, 1 - 0x1p-53); }

}  // namespace

Process::Process(const Noising& noising, const Options& options)
    : options_(options), schedule_(noising.continuous) {
  if (!schedule_) {
    DIFFUSE_CHECK(!options.continuous);
    chain_ = make_chain(noising.beta);
    if (options.path == Path::vp && options.logsnr_shift == 0) return;
    std::vector<Level> levels;
    for (const Level& old : chain_.levels) {
      if (options.path == Path::ve && old.alpha == 0)
        throw Error(Exit::config,
                    "path 've' has no level without signal; use zero_terminal_snr: false, or path: "
                    "vp");
      levels.push_back(level_on(options.path, old.logsnr + options.logsnr_shift));
      levels.back().t = old.t;
    }
    chain_ = make_chain(levels);
    return;
  }
  std::vector<Level> levels;
  for (int64_t t = 0; t < options.steps; ++t) {
    // Both ends are visited; a single step is the noisy one.
    const double v =
        options.steps > 1 ? static_cast<double>(t) / static_cast<double>(options.steps - 1) : 1;
    levels.push_back(continuous_level(schedule_->chain(v) + options.logsnr_shift));
  }
  chain_ = make_chain(levels);
  // Of x_0 given z_0 alone (Kingma et al. 2021, eq. 8). beta~_1 would shrink with the length of the
  // chain, whose first step is noise that the data have already.
  chain_.decoder_variance = chain_.sigma2.front() / chain_.alpha_bar.front();
  if (options.continuous)  // the network is not trained for the chain's steps
    for (Level& level : chain_.levels)
      level.mean_x0 = level.mean_z = std::numeric_limits<double>::quiet_NaN();
}

Level Process::continuous_level(double logsnr) const {
  Level out = level_on(options_.path, logsnr);
  out.t = 1000 * schedule_->time(logsnr - options_.logsnr_shift);
  return out;
}

NoisePoint Process::at(double u) const {
  if (!options_.continuous) {
    const auto t =
        std::min(static_cast<int64_t>(u * static_cast<double>(chain_.steps())), chain_.steps() - 1);
    return {.level = chain_.level(t), .t = t, .slope = 0};
  }
  const LogSnr logsnr = schedule_->train(inside(u));
  return {.level = continuous_level(logsnr.value + options_.logsnr_shift),
          .t = -1,
          .slope = logsnr.slope};
}

double Process::u_of(double logsnr) const {
  DIFFUSE_CHECK(options_.continuous);
  double clean = 0, noisy = 1;
  for (int halving = 0; halving < 60; ++halving) {
    const double u = 0.5 * (clean + noisy);
    (at(u).level.logsnr > logsnr ? clean : noisy) = u;
  }
  return 0.5 * (clean + noisy);
}

Level Process::level_at(double logsnr) const {
  if (schedule_) return continuous_level(logsnr);
  Level out = level_on(options_.path, logsnr);
  const auto& levels = chain_.levels;
  const auto after = std::find_if(
      levels.begin(), levels.end(), [&](const Level& l) { return l.logsnr <= logsnr; });
  if (after == levels.begin() || after == levels.end()) {
    out.t = after == levels.end() ? levels.back().t : after->t;
    return out;
  }
  const Level& noisy = *after;
  const Level& clean = *(after - 1);
  const double way =
      std::isfinite(noisy.logsnr) ? (clean.logsnr - logsnr) / (clean.logsnr - noisy.logsnr) : 0;
  out.t = clean.t + way * (noisy.t - clean.t);
  return out;
}

int64_t Process::bins() const { return options_.continuous ? kContinuousBins : chain_.steps(); }

std::vector<double> Process::bin_edges() const {
  const int64_t n = bins();
  std::vector<double> out;
  for (int64_t i = 0; i <= n; ++i) {
    if (options_.continuous) {
      const double u = static_cast<double>(i) / static_cast<double>(n);
      out.push_back(schedule_->train(inside(u)).value + options_.logsnr_shift);
    } else if (i == 0 || i == n) {
      out.push_back((i == 0 ? 1 : -1) * std::numeric_limits<double>::infinity());
    } else {
      out.push_back((chain_.level(i - 1).logsnr + chain_.level(i).logsnr) / 2);
    }
  }
  return out;
}

}  // namespace diffuse
