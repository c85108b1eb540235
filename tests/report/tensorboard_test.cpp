// SPDX-License-Identifier: MIT
#include "report/tensorboard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <stdexcept>

#include "base/error.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

// An independent reader of event files: TFRecord framing and the protobuf wire format.

/// CRC32C bit by bit in the plain (not reflected) form, polynomial 0x1EDC6F41, as RFC 3720 defines
/// it.
uint32_t plain_crc32c(const std::string& bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char byte : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const bool in = (static_cast<uint8_t>(byte) >> bit) & 1;
      const bool out = (crc >> 31) & 1;
      crc = (crc << 1) ^ (in != out ? 0x1EDC6F41u : 0u);
    }
  uint32_t reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= ((crc >> bit) & 1) << (31 - bit);
  return ~reversed;
}

template <class T>
T number_at(const std::string& bytes, size_t place) {
  T value;
  if (place + sizeof(T) > bytes.size()) throw std::runtime_error("cut short");
  std::memcpy(&value, bytes.data() + place, sizeof(T));
  return value;
}

std::vector<std::string> records_of(const std::string& file) {
  std::vector<std::string> out;
  const auto masked = [](const std::string& bytes) {
    const uint32_t crc = plain_crc32c(bytes);
    return static_cast<uint32_t>(((crc >> 15) | (crc << 17)) + 0xa282ead8ul);
  };
  for (size_t place = 0; place < file.size();) {
    const auto length = number_at<uint64_t>(file, place);
    EXPECT_EQ(number_at<uint32_t>(file, place + 8), masked(file.substr(place, 8)));
    out.push_back(file.substr(place + 12, length));
    EXPECT_EQ(number_at<uint32_t>(file, place + 12 + length), masked(out.back()));
    place += 16 + length;
  }
  return out;
}

struct Wire {
  int field = 0;
  int type = 0;
  uint64_t integer = 0;
  std::string bytes;
};

std::vector<Wire> message_of(const std::string& bytes) {
  std::vector<Wire> out;
  size_t place = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes.at(place++));
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (place < bytes.size()) {
    Wire w;
    const uint64_t key = varint();
    w.field = static_cast<int>(key >> 3);
    w.type = static_cast<int>(key & 7);
    size_t length = 0;
    switch (w.type) {
      case 0:
        w.integer = varint();
        break;
      case 1:
        length = 8;
        break;
      case 2:
        length = varint();
        break;
      case 5:
        length = 4;
        break;
      default:
        throw std::runtime_error("unknown wire type");
    }
    if (place + length > bytes.size()) throw std::runtime_error("cut short");
    w.bytes = bytes.substr(place, length);
    place += length;
    out.push_back(w);
  }
  return out;
}

const Wire& field(const std::vector<Wire>& message, int number) {
  for (const Wire& w : message)
    if (w.field == number) return w;
  throw std::runtime_error("no field " + std::to_string(number));
}

fs::path only_file(const fs::path& folder) {
  std::vector<fs::path> all;
  for (const auto& entry : fs::directory_iterator(folder)) all.push_back(entry.path());
  EXPECT_EQ(all.size(), 1u);
  return all.at(0);
}

TEST(TensorBoard, ChecksumOfTheTestIsTheStandardOne) {
  EXPECT_EQ(plain_crc32c("123456789"), 0xE3069283u);            // the usual check value
  EXPECT_EQ(plain_crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
}

TEST(TensorBoard, WritesVersionScalarsAndImages) {
  const TempFolder folder;
  const std::vector<uint8_t> png{0x89, 'P', 'N', 'G', 0, 0xFF};
  {
    TensorBoardWriter writer(folder / "tb");
    writer.scalars({300, {{"loss", 0.25}, {"nan", std::numeric_limits<double>::quiet_NaN()}}});
    writer.scalars({301, {}});
    writer.image(int64_t{1} << 40, "samples", png, 16, 300, 3);
  }
  const fs::path file = only_file(folder / "tb");
  const std::string name = file.filename().string(), pid = "." + std::to_string(::getpid());
  EXPECT_EQ(name.rfind("events.out.tfevents.", 0), 0u) << name;
  EXPECT_EQ(name.find_first_not_of("0123456789", 20), 30u) << name;  // ten digits until 2286
  EXPECT_EQ(name.substr(name.size() - pid.size()), pid) << name;
  const auto records = records_of(slurp(file));
  ASSERT_EQ(records.size(), 3u);

  const auto version = message_of(records[0]);
  EXPECT_EQ(field(version, 3).bytes, "brain.Event:2");
  const auto time = number_at<double>(field(version, 1).bytes, 0);
  EXPECT_GT(time, 1.7e9);  // seconds since 1970, not since the start

  const auto scalars = message_of(records[1]);
  EXPECT_EQ(field(scalars, 2).integer, 300u);
  const auto values = message_of(field(scalars, 5).bytes);
  ASSERT_EQ(values.size(), 2u);
  const auto loss = message_of(values[0].bytes);
  EXPECT_EQ(field(loss, 1).bytes, "loss");
  EXPECT_EQ(field(loss, 2).type, 5);
  EXPECT_EQ(number_at<float>(field(loss, 2).bytes, 0), 0.25f);
  EXPECT_TRUE(std::isnan(number_at<float>(field(message_of(values[1].bytes), 2).bytes, 0)));

  const auto picture = message_of(records[2]);
  EXPECT_EQ(field(picture, 2).integer, uint64_t{1} << 40);
  const auto value = message_of(field(message_of(field(picture, 5).bytes), 1).bytes);
  EXPECT_EQ(field(value, 1).bytes, "samples");
  const auto image = message_of(field(value, 4).bytes);
  EXPECT_EQ(field(image, 1).integer, 16u);
  EXPECT_EQ(field(image, 2).integer, 300u);
  EXPECT_EQ(field(image, 3).integer, 3u);
  EXPECT_EQ(field(image, 4).bytes, std::string(png.begin(), png.end()));
}

TEST(TensorBoard, AResumedRunSaysFromWhereItGoesOn) {
  const TempFolder folder;
  { TensorBoardWriter(folder.path(), 500); }
  const auto records = records_of(slurp(only_file(folder.path())));
  ASSERT_EQ(records.size(), 2u);
  const auto start = message_of(records[1]);
  EXPECT_EQ(field(start, 2).integer, 501u);
  EXPECT_EQ(field(message_of(field(start, 7).bytes), 1).integer, 1u);  // SessionLog.START
}

TEST(TensorBoard, FilesFollowEachOtherAlsoWhenTheClockWasSetBack) {
  const TempFolder folder;
  const std::string earlier = "events.out.tfevents.5000000000.host.1";  // of the year 2128
  spill(folder / earlier, "");
  spill(folder / "events.out.tfevents.notes", "");
  { TensorBoardWriter(folder.path()); }
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path()))
    names.insert(entry.path().filename().string());
  ASSERT_EQ(names.size(), 3u);
  const std::string written = *std::next(names.find(earlier));
  EXPECT_EQ(written.rfind("events.out.tfevents.5000000001.", 0), 0u) << written;
}

TEST(TensorBoard, SaysWhenItCannotBeMade) {
  const TempFolder folder;
  spill(folder / "file", "");
  try {
    const TensorBoardWriter writer(folder / "file");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::run_folder);
  }
}

}  // namespace
}  // namespace diffuse
