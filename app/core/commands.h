// SPDX-License-Identifier: MIT
#pragma once

#include "core.h"

namespace diffuse {

int run_train(const TrainRequest& request);
int run_sample(const SampleRequest& request);
int run_evaluate(const EvaluateRequest& request);
int run_bench(const BenchRequest& request);

/// 0: all cores.
void set_threads(int threads);

}  // namespace diffuse
