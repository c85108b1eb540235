// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "data/dataset.h"
#include "support/temp_folder.h"

namespace diffuse {

inline const std::filesystem::path kFixtures =
    std::filesystem::path(DIFFUSE_SOURCE_DIR) / "tests" / "data" / "fixtures";

inline std::vector<uint8_t> read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline const nlohmann::json& manifest() {
  static const auto json = nlohmann::json::parse(read_all(kFixtures / "manifest.json"));
  return json;
}

/// `size` bytes of Pillow's results.
inline std::span<const uint8_t> expected_bytes(int64_t offset, int64_t size) {
  static const std::vector<uint8_t> all = read_all(kFixtures / "expected.bin");
  return std::span(all).subspan(static_cast<size_t>(offset), static_cast<size_t>(size));
}

/// Largest difference of two arrays of one length; 256 when the lengths differ.
inline int max_difference(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  if (a.size() != b.size()) return 256;
  int most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

/// A folder of pictures that is gone with the test.
class PictureFolder : public TempFolder {
 public:
  void write(const std::string& name, std::span<const uint8_t> bytes) const {
    std::filesystem::create_directories((path() / name).parent_path());
    std::ofstream out(path() / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  }
  void write(const std::string& name, std::string_view text) const {
    write(name, std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  }
  void add_fixture(const std::string& fixture, const std::string& name) const {
    write(name, read_all(kFixtures / fixture));
  }
};

/// A picture whose every pixel tells where it was: (y, x, tag).
inline Image tagged_image(int64_t height, int64_t width, uint8_t tag) {
  Image image{height, width, 3, {}};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (const int64_t v : {y, x, int64_t{tag}}) image.data.push_back(static_cast<uint8_t>(v));
  return image;
}

inline void write_tagged(const PictureFolder& folder,
                         const std::string& name,
                         int64_t height,
                         int64_t width,
                         uint8_t tag) {
  folder.write(name, encode_png(tagged_image(height, width, tag)));
}

/// The message of the Error{data} that `call` throws; a failure text otherwise.
template <class Call>
std::string data_error(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.code == Exit::data ? e.what() : "wrong exit code";
  }
  return "nothing was thrown";
}

}  // namespace diffuse
