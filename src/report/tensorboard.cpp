// SPDX-License-Identifier: MIT
#include "report/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstring>
#include <string_view>

#include "base/error.h"

namespace diffuse {
namespace {

/// CRC32C (Castagnoli), reflected polynomial 0x82F63B78.
uint32_t crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<uint32_t, 256> out{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ ((c & 1) != 0 ? 0x82F63B78u : 0u);
      out[i] = c;
    }
    return out;
  }();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~crc;
}

/// TFRecord stores checksums rotated and offset, since a checksum over data with checksums is weak.
uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u; }

template <class T>
std::string raw(T value) {
  static_assert(std::endian::native == std::endian::little);
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

// Protobuf wire format: key = field number * 8 + wire type (0 varint, 1 64-bit, 2 bytes, 5 32-bit).
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out += static_cast<char>(value);
}
std::string integer(int field, int64_t value) {
  return varint(static_cast<uint64_t>(field) << 3) + varint(static_cast<uint64_t>(value));
}
std::string bytes(int field, std::string_view value) {
  std::string out = varint(static_cast<uint64_t>(field) << 3 | 2) + varint(value.size());
  return out.append(value);
}
std::string float64(int field, double value) {
  return varint(static_cast<uint64_t>(field) << 3 | 1) + raw(value);
}
std::string float32(int field, float value) {
  return varint(static_cast<uint64_t>(field) << 3 | 5) + raw(value);
}

double unix_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::filesystem::path new_file(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw Error(Exit::run_folder, "cannot create " + folder.string() + ": " + error.message());
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  for (char& c : host)
    if (c == '/') c = '_';
  // TensorBoard reads the files of a folder in the order of their names, also after the clock was
  // set back.
  constexpr std::string_view kPrefix = "events.out.tfevents.";
  auto time = static_cast<int64_t>(unix_time());
  for (std::filesystem::directory_iterator it(folder, error);
       !error && it != std::filesystem::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    int64_t other = 0;
    if (name.starts_with(kPrefix) &&
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), other).ec ==
            std::errc() &&
        other >= time && other < 9'999'999'999)
      time = other + 1;
  }
  std::string seconds = std::to_string(time);
  if (seconds.size() < 10) seconds.insert(0, 10 - seconds.size(), '0');
  return folder / (std::string(kPrefix) + seconds + "." + host + "." + std::to_string(::getpid()));
}

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
constexpr int kEventTime = 1, kEventStep = 2, kEventVersion = 3, kEventSummary = 5,
              kEventSessionLog = 7;
constexpr int kSessionStatus = 1, kSessionStart = 1;
constexpr int kSummaryValue = 1, kValueTag = 1, kValueSimple = 2, kValueImage = 4;
constexpr int kImageHeight = 1, kImageWidth = 2, kImageColorspace = 3, kImageEncoded = 4;

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder,
                                     std::optional<int64_t> last_step)
    : file_(new_file(folder)) {
  event(0, bytes(kEventVersion, "brain.Event:2"));
  if (last_step)
    event(*last_step + 1, bytes(kEventSessionLog, integer(kSessionStatus, kSessionStart)));
}

void TensorBoardWriter::event(int64_t step, const std::string& payload) {
  const std::string data = float64(kEventTime, unix_time()) + integer(kEventStep, step) + payload;
  const std::string length = raw(static_cast<uint64_t>(data.size()));
  file_.append(length + raw(masked_crc(length)) + data + raw(masked_crc(data)));
}

void TensorBoardWriter::scalars(const MetricRow& row) {
  if (row.values.empty()) return;
  std::string summary;
  for (const auto& [name, value] : row.values)
    summary += bytes(kSummaryValue,
                     bytes(kValueTag, name) + float32(kValueSimple, static_cast<float>(value)));
  event(row.step, bytes(kEventSummary, summary));
}

void TensorBoardWriter::image(int64_t step,
                              const std::string& tag,
                              std::span<const uint8_t> png,
                              int64_t height,
                              int64_t width,
                              int64_t channels) {
  const std::string_view encoded(reinterpret_cast<const char*>(png.data()), png.size());
  const std::string picture = integer(kImageHeight, height) + integer(kImageWidth, width) +
                              integer(kImageColorspace, channels) + bytes(kImageEncoded, encoded);
  event(step,
        bytes(kEventSummary,
              bytes(kSummaryValue, bytes(kValueTag, tag) + bytes(kValueImage, picture))));
}

}  // namespace diffuse
