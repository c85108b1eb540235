// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/autocast_mode.h>

namespace diffuse {

/// Runs `f` under bfloat16 autocast: matrix products and convolutions in bfloat16, sums
/// and norms in float32. Casts of weights are dropped at the end, so an in-place update is never
/// missed.
template <class F>
auto with_autocast(at::Device device, F f) {
  struct Guard {
    at::DeviceType type;
    bool enabled;
    at::ScalarType dtype;
    explicit Guard(at::DeviceType device_type)
        : type(device_type),
          enabled(at::autocast::is_autocast_enabled(device_type)),
          dtype(at::autocast::get_autocast_dtype(device_type)) {
      at::autocast::set_autocast_enabled(type, true);
      at::autocast::set_autocast_dtype(type, at::kBFloat16);
      at::autocast::increment_nesting();
    }
    ~Guard() {
      if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
      at::autocast::set_autocast_enabled(type, enabled);
      at::autocast::set_autocast_dtype(type, dtype);
    }
  };
  const Guard guard(device.type());
  return f();
}

}  // namespace diffuse
