// SPDX-License-Identifier: MIT
#include "base/random.h"

#include "base/error.h"

namespace diffuse {
namespace {

// Finaliser of MurmurHash3: a bijection on 64 bits that mixes well enough for a Feistel round.
uint64_t mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDull;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ull;
  return x ^ (x >> 33);
}

}  // namespace

Permutation::Permutation(uint64_t n, const Stream& key) : n_(n), half_bits_(1) {
  DIFFUSE_CHECK(n >= 1 && n <= (uint64_t{1} << 40));
  while ((uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
  for (uint32_t i = 0; i < round_keys_.size(); ++i) round_keys_[i] = random_bits(key, i);
}

uint64_t Permutation::operator()(uint64_t position) const {
  DIFFUSE_CHECK(position < n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = position;
  // Cycle-walking: Black & Rogaway 2002. The domain has fewer than 4 n values (4 where n = 1), so
  // at worst 4 walks are expected.
  do {
    uint64_t left = x >> half_bits_;
    uint64_t right = x & mask;
    for (const uint64_t k : round_keys_) {
      const uint64_t next = left ^ (mix(right ^ k) & mask);
      left = right;
      right = next;
    }
    x = (left << half_bits_) | right;
  } while (x >= n_);
  return x;
}

}  // namespace diffuse
