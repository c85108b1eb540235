// SPDX-License-Identifier: MIT
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "base/random.h"

namespace diffuse {

/// Fills `out` [n, ...] (contiguous float32, CPU or CUDA) with standard normals: row i is the
/// stream {seed, purpose, step, first_sample + i}, element e number e of it.
void fill_normal(
    const at::Tensor& out, uint64_t seed, Purpose purpose, uint64_t step, int64_t first_sample);

/// Names what a step draws (noise, dropout masks) for rows first_sample, first_sample + 1, ... of
/// the global batch: any split into micro-batches gives each row the same.
struct StepKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  int64_t first_sample = 0;
  // On a GPU, where given: points to the step there, to be read when something is drawn, backward
  // included; for steps that are captured once and replayed.
  const int64_t* step_there = nullptr;
};

/// The probability that dropout really uses: `p` in [0, 1) rounded to a multiple of 2^-16 below 1.
double dropout_probability(double p);

/// Blocks of a stream that a mask of `elements` per sample takes.
constexpr int64_t dropout_blocks(int64_t elements) { return (elements + 7) / 8; }

/// A mask [n, ...] of the shape, type and device of `like`: 0 with probability q =
/// dropout_probability(p), else 1 / (1 - q). Row i reads blocks first_block ... of the stream
/// {seed, dropout, step, first_sample + i}; a network gives each of its layers a range of blocks of
/// its own. 0 <= p < 1.
at::Tensor dropout_mask(const at::Tensor& like, double p, const StepKey& key, int64_t first_block);

}  // namespace diffuse
