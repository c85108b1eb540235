// SPDX-License-Identifier: MIT
// The stored inputs of fuzzing without libFuzzer: each as it is, and with small damage.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/log.h"
#include "fuzz/targets.h"

namespace diffuse::fuzz {
namespace {

namespace fs = std::filesystem;
using Input = std::vector<uint8_t>;

/// Where a target's seeds lie; scripts/fuzz has the same list.
std::vector<fs::path> seed_folders(const std::string& target) {
  const fs::path source = DIFFUSE_SOURCE_DIR;
  std::vector<fs::path> out{source / "tests/fuzz/corpus" / target};
  if (target == "safetensors") out.push_back(source / "tests/io/fixtures");
  if (target == "config") out.push_back(source / "configs");
  if (target == "png" || target == "jpeg" || target == "bmp")
    out.push_back(source / "tests/data/fixtures");
  return out;
}

std::vector<fs::path> seeds(const std::string& target) {
  std::vector<fs::path> out;
  for (const fs::path& folder : seed_folders(target)) {
    std::error_code ignored;  // pictures have no folder of their own until something is found
    for (fs::directory_iterator it(folder, ignored); it != fs::directory_iterator(); ++it)
      if (it->is_regular_file() && it->path().filename() != "expected.bin" &&
          it->path().filename() != "manifest.json")
        out.push_back(it->path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

void damage(Input& input, std::mt19937& random) {
  const auto below = [&](size_t n) { return random() % std::max<size_t>(n, 1); };
  const size_t at = below(input.size());
  switch (below(5)) {
    case 0:
      input.resize(at);
      break;
    case 1:
      input.insert(input.begin() + static_cast<ptrdiff_t>(at), 1 + below(4), 0xFF);
      break;
    case 2: {  // a part again
      const size_t end = at + below(std::min<size_t>(input.size() - at, 64));
      const Input part(input.begin() + static_cast<ptrdiff_t>(at),
                       input.begin() + static_cast<ptrdiff_t>(end));
      input.insert(
          input.begin() + static_cast<ptrdiff_t>(below(input.size())), part.begin(), part.end());
      break;
    }
    default:
      if (!input.empty()) input[at] ^= static_cast<uint8_t>(1u << below(8));
  }
}

class Replay : public testing::TestWithParam<Target> {};

TEST_P(Replay, StoredInputsAndDamagedOnes) {
  log::set_level(log::Level::off);
  const std::vector<fs::path> files = seeds(GetParam().name);
  ASSERT_GE(files.size(), 3u);
  std::mt19937 random(1);
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.string());
    std::ifstream in(file, std::ios::binary);
    const Input whole{std::istreambuf_iterator<char>(in), {}};
    EXPECT_NO_THROW(GetParam().run(whole));
    for (int i = 0; i < 30; ++i) {
      Input damaged = whole;
      for (size_t k = 1 + random() % 3; k > 0; --k) damage(damaged, random);
      EXPECT_NO_THROW(GetParam().run(damaged)) << "damaged, round " << i;
    }
  }
  log::set_level(log::Level::info);
}

INSTANTIATE_TEST_SUITE_P(Targets, Replay, testing::ValuesIn(kTargets), [](const auto& target) {
  return target.param.name;
});

}  // namespace
}  // namespace diffuse::fuzz
