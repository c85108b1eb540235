// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "diffusion/options.h"

namespace diffuse {

/// The weight on |F* - F|^2 of every step of a variance-preserving chain.
inline std::vector<double> network_weights(const Chain& chain,
                                           const Prediction& prediction,
                                           const Weighting& weighting,
                                           WeightOn on,
                                           const Variance& variance) {
  const Process process(chain.beta, {.steps = chain.steps()});
  std::vector<double> out;
  for (int64_t t = 0; t < chain.steps(); ++t)
    out.push_back(network_weight(process,
                                 prediction,
                                 weighting,
                                 on,
                                 variance,
                                 {.level = chain.level(t), .t = t, .slope = 0}));
  return out;
}

/// Sets an option of a row whose struct is not public.
template <class Axis, class T>
void set_option(Axis& axis, const std::string& key, const T& value) {
  Fields fields;
  axis.fields(fields);
  for (Field& field : fields.list())
    if (field.key == key) {
      *std::get<T*>(field.value) = value;
      return;
    }
  throw std::logic_error("no option " + key);
}

/// A table for schedule `table` of 50 steps, and one for weighting `table`.
inline std::string fifty_betas() {
  std::string betas;
  for (int i = 1; i <= 50; ++i) betas += std::to_string(i) + "e-2\n";
  return betas;
}
inline std::string some_weights() { return "-10 2\n-2 1  # on epsilon\n3, 0.5\n"; }

}  // namespace diffuse
