// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <span>

// What others' bytes reach, without LibTorch: one function a reader. Each gives the bytes to the
// reader, catches the errors that its header documents and no other exception, and checks what the
// reader promises of its result. scripts/fuzz runs them under libFuzzer, replay_test.cpp on the
// stored files.

namespace diffuse::fuzz {

using Bytes = std::span<const uint8_t>;

void safetensors(Bytes input);
/// A config, and overrides behind bytes 0x1E.
void config(Bytes input);
/// A PNG whose checksums are put right first: hardly any damaged file would get past them.
void png(Bytes input);
void jpeg(Bytes input);
void bmp(Bytes input);
void exif(Bytes input);
/// metrics.jsonl, status.json or a validation record, by the first byte.
void records(Bytes input);
/// A checkpoint's MANIFEST.json as it is, or signed anew so that what follows its hash is reached.
void manifest(Bytes input);
/// The text files of `schedule: table` and `weighting: table`.
void numbers(Bytes input);

struct Target {
  const char* name;
  void (*run)(Bytes input);
};
inline constexpr Target kTargets[] = {
#define TARGET(name) {#name, name},
#include "fuzz/targets.def"
#undef TARGET
};

}  // namespace diffuse::fuzz
