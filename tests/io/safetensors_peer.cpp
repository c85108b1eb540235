// SPDX-License-Identifier: MIT
// Our side of compare_with_reference.py. Records on stdin and stdout are a length of 8 bytes,
// little-endian, and bytes.
//   judge < FILES        for each file, what is in it as JSON, or why it is refused
//   write SEED COUNT     COUNT files of random tensors, each followed by what is in it as JSON
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "io/safetensors.h"
#include "support/temp_folder.h"

namespace diffuse {
namespace {

using nlohmann::json;

bool read_record(std::string& out) {
  uint64_t length = 0;
  if (!std::cin.read(reinterpret_cast<char*>(&length), sizeof(length))) return false;
  out.resize(length);
  return static_cast<bool>(std::cin.read(out.data(), static_cast<std::streamsize>(length)));
}

void write_record(const std::string& bytes) {
  const uint64_t length = bytes.size();
  std::cout.write(reinterpret_cast<const char*>(&length), sizeof(length)) << bytes;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) {
    out += "0123456789abcdef"[std::to_integer<int>(b) >> 4];
    out += "0123456789abcdef"[std::to_integer<int>(b) & 15];
  }
  return out;
}

json described(const std::vector<TensorView>& tensors, const Metadata& metadata) {
  json out{{"tensors", json::object()}, {"metadata", metadata}};
  for (const TensorView& t : tensors) out["tensors"][t.name] = {t.dtype, t.shape, hex(t.bytes)};
  return out;
}

void judge() {
  const TempFolder folder;
  const std::filesystem::path path = folder / "case";
  for (std::string bytes; read_record(bytes);) {
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
    try {
      const SafetensorsFile file(path);
      write_record(described(file.tensors(), file.metadata()).dump());
    } catch (const Error& e) {
      write_record(e.what());
    }
  }
}

/// Text of any characters but surrogates, most of them ASCII.
std::string random_text(std::mt19937& random) {
  std::string out;
  for (uint32_t left = random() % 12; left > 0; --left) {
    const uint32_t c = random() % 4 != 0 ? random() % 0x80
                       : random() % 2    ? 0x80 + random() % 0xD780
                                         : 0xE000 + random() % 0x102000;
    if (c < 0x80) {
      out += static_cast<char>(c);
      continue;
    }
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    out += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | c >> (6 * more));
    for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | (c >> (6 * i) & 0x3F));
  }
  return out;
}

void write(uint32_t seed, int count) {
  static const std::vector<std::pair<std::string, int64_t>> kBits{
      {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
      {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  std::mt19937 random(seed);
  for (int i = 0; i < count; ++i) {
    std::vector<std::byte> memory(4096);
    for (std::byte& b : memory) b = static_cast<std::byte>(random());
    std::vector<TensorView> tensors;
    json used = json::object();
    for (uint32_t left = random() % 9; left > 0; --left) {
      TensorView t;
      t.name = random_text(random);
      if (t.name == "__metadata__" || !used.emplace(t.name, 1).second) continue;
      const auto& [dtype, bits] = kBits[random() % kBits.size()];
      t.dtype = dtype;
      int64_t total = bits;
      for (uint32_t rank = random() % 5; rank > 0; --rank) {
        t.shape.push_back(static_cast<int64_t>(random() % 6));
        total *= t.shape.back();
      }
      if (total % 8 != 0) {
        t.shape.push_back(4);  // elements of 4 or 6 bits fill whole bytes
        total *= 4;
      }
      t.bytes = std::span(memory).subspan(random() % 8, static_cast<size_t>(total / 8));
      tensors.push_back(std::move(t));
    }
    Metadata metadata;
    for (uint32_t left = random() % 4; left > 0; --left)
      metadata[random_text(random)] = random_text(random);
    std::string file;
    const SafetensorsParts parts = safetensors_parts(tensors, metadata);
    for (const auto part : parts.all())
      file.append(reinterpret_cast<const char*>(part.data()), part.size());
    write_record(file);
    write_record(described(tensors, metadata).dump());
  }
}

}  // namespace
}  // namespace diffuse

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments == std::vector<std::string>{"judge"}) {
    diffuse::judge();
  } else if (arguments.size() == 3 && arguments[0] == "write") {
    diffuse::write(static_cast<uint32_t>(std::stoul(arguments[1])), std::stoi(arguments[2]));
  } else {
    std::cerr << "usage: safetensors_peer judge | write SEED COUNT\n";
    return 2;
  }
  return 0;
}
