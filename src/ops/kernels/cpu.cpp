// SPDX-License-Identifier: MIT
#include "ops/kernels/cpu.h"

namespace diffuse::kernels {

#ifdef DIFFUSE_X86_64_LEVELS
namespace v3 {
extern const CpuKernels table;
}
namespace v4 {
extern const CpuKernels table;
}
#endif
namespace baseline {
extern const CpuKernels table;
}

const std::vector<const CpuKernels*>& cpu_kernel_tables() {
  static const std::vector<const CpuKernels*> tables = [] {
    std::vector<const CpuKernels*> out;
#ifdef DIFFUSE_X86_64_LEVELS
    // The levels of the x86-64 psABI, as far as the kernels use them.
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512cd");
    if (v4) out.push_back(&v4::table);
    if (v3) out.push_back(&v3::table);
#endif
    out.push_back(&baseline::table);
    return out;
  }();
  return tables;
}

}  // namespace diffuse::kernels
