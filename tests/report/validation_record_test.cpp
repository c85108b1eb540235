// SPDX-License-Identifier: MIT
#include "report/validation_record.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/temp_folder.h"

namespace diffuse {
namespace {

constexpr const char* kRecord =
    R"({"step":800,"weights":"ema","images":2,"fingerprint":"0123456789abcdef","seed":4,)"
    R"("unit":"bits/dim","levels":[{"logsnr":-5.9,"t":812,"mse_eps":[0.5,null],"loss":[1,2]},)"
    R"({"logsnr":-6.2,"t":820,"mse_eps":[1,2],"loss":[1,2]},)"
    R"({"logsnr":0.4,"t":400,"mse_eps":[3,4],"loss":[1,2]}],)"
    R"("bits":{"prior":[0,0.5],"rest":[3,4],"decoder":[0.25,0.5],"total":[3.25,5]}})";

TEST(ValidationRecord, IsRead) {
  const TempFolder folder;
  std::ofstream(folder / "v.json") << kRecord;
  const ValidationRecord record = read_validation(folder / "v.json");
  EXPECT_EQ(record.step, 800);
  EXPECT_EQ(record.weights, "ema");
  EXPECT_EQ(record.fingerprint, "0123456789abcdef");
  EXPECT_EQ(record.unit, "bits/dim");
  EXPECT_EQ(record.seed, 4);
  ASSERT_EQ(record.levels.size(), 3u);
  EXPECT_EQ(record.levels[0].mse_eps[0], 0.5);
  EXPECT_TRUE(std::isnan(record.levels[0].mse_eps[1]));
  ASSERT_TRUE(record.bits);
  EXPECT_EQ(record.bits->total, (std::vector<double>{3.25, 5}));

  const auto levels = nominal_levels(record);  // -6.2 is farther from -6 than -5.9
  ASSERT_EQ(levels.size(), 2u);
  EXPECT_EQ(levels.at(-6)->logsnr, -5.9);
  EXPECT_EQ(levels.at(0)->logsnr, 0.4);
}

TEST(ValidationRecord, OneThatIsDamagedIsNamed) {
  const TempFolder folder;
  const auto path = folder / "v.json";
  const std::string record = kRecord;
  std::string shorter = record, other = record;
  shorter.replace(shorter.find("[3,4],\"loss\""), 5, "[3]");
  other.replace(other.find("\"seed\":4"), 8, "\"seed\":\"x\"");
  std::vector<std::string> bad{record.substr(0, 100), shorter, other, "[]"};
  // Numbers that no 64-bit integer is, and lists that a recursive copy would not survive.
  for (const char* number : {"1e300", "2.5", "18446744073709551615", "-1", "null"}) {
    bad.push_back(record);
    bad.back().replace(record.find("\"images\":2"), 10, std::string("\"images\":") + number);
  }
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  bad.push_back(record);
  bad.back().replace(record.find("[{\"logsnr"), 1, "[" + deep + ",");
  for (const std::string& text : bad) {
    std::ofstream(path, std::ios::trunc) << text;
    try {
      read_validation(path);
      ADD_FAILURE() << text.substr(0, 1000);
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Exit::run_folder);
      EXPECT_NE(std::string(e.what()).find(path.string()), std::string::npos) << e.what();
    }
  }
}

TEST(ValidationRecord, AreListedByStep) {
  const TempFolder folder;
  EXPECT_TRUE(list_validations(folder.path()).empty());
  std::filesystem::create_directory(folder / "validation");
  for (const char* name : {"step-000001000.json", "step-000000200.json", "step-x.json", "a.csv"})
    std::ofstream(folder / "validation" / name) << "";
  const auto found = list_validations(folder.path());
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found.begin()->first, 200);
  EXPECT_EQ(found.rbegin()->second.filename(), "step-000001000.json");
}

}  // namespace
}  // namespace diffuse
