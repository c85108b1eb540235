// SPDX-License-Identifier: MIT
#include "diffusion/path.h"

#include <cmath>

#include "base/error.h"
#include "diffusion/normal.h"

namespace diffuse {

Level level_on(Path path, double logsnr) {
  Level out;
  out.logsnr = logsnr;
  switch (path) {
    case Path::vp:  // alpha^2 = sigmoid(log SNR): Kingma et al. 2021, eq. 4
      out.alpha = std::sqrt(logistic(logsnr));
      out.sigma = std::sqrt(logistic(-logsnr));
      return out;
    case Path::ve:
      DIFFUSE_CHECK(std::isfinite(logsnr));
      out.alpha = 1;
      out.sigma = std::exp(-logsnr / 2);
      // sigma grows without bound; the input of a network should not.
      out.c_in = 1 / std::sqrt(1 + out.sigma * out.sigma);
      return out;
    case Path::flow:  // t = sigma: log SNR = 2 log((1 - t) / t)
      out.alpha = logistic(logsnr / 2);
      out.sigma = logistic(-logsnr / 2);
      return out;
  }
  throw Error(Exit::bug, "no such path");
}

}  // namespace diffuse
