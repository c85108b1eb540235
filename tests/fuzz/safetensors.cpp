// SPDX-License-Identifier: MIT
#include "io/safetensors.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "input_file.h"
#include "targets.h"

namespace diffuse::fuzz {
namespace {

/// What a good file holds, written and read again, is the same.
void check_round_trip(const SafetensorsFile& file) {
  static const InputFile copy;
  std::vector<uint8_t> bytes;
  const SafetensorsParts parts = safetensors_parts(file.tensors(), file.metadata());
  for (const auto part : parts.all())
    for (const std::byte b : part) bytes.push_back(std::to_integer<uint8_t>(b));
  copy.write(bytes);
  const SafetensorsFile again(copy.path());
  DIFFUSE_CHECK(again.metadata() == file.metadata());
  DIFFUSE_CHECK(again.tensors().size() == file.tensors().size());
  for (const TensorView& t : file.tensors()) {
    const TensorView* const same = again.find(t.name);
    DIFFUSE_CHECK(same != nullptr && same->dtype == t.dtype && same->shape == t.shape);
    DIFFUSE_CHECK(std::ranges::equal(same->bytes, t.bytes));
  }
}

}  // namespace

void safetensors(Bytes input) {
  static const InputFile input_file;
  input_file.write(input);
  try {
    const SafetensorsFile file(input_file.path());
    const std::byte* at = nullptr;
    for (const TensorView& t : file.tensors()) {
      DIFFUSE_CHECK(at == nullptr || t.bytes.data() == at);  // no hole, no overlap
      at = t.bytes.data() + t.bytes.size();
      DIFFUSE_CHECK(file.find(t.name) == &t);
      DIFFUSE_CHECK(t.values() >= 0);
      DIFFUSE_CHECK((t.values() == 0) == t.bytes.empty());
    }
    check_round_trip(file);
  } catch (const Error& e) {
    const std::string_view message = e.what();
    DIFFUSE_CHECK(e.code == Exit::checkpoint);
    // Not any "pickle" in it: the name of a tensor may hold one.
    DIFFUSE_CHECK(message.starts_with("cannot use " + input_file.path()) ||
                  message.starts_with(input_file.path() + " is a pickle"));
    DIFFUSE_CHECK(message.size() < 1000);
    for (const char c : message) DIFFUSE_CHECK(static_cast<unsigned char>(c) >= 0x20 || c == '\n');
  }
}

}  // namespace diffuse::fuzz
