// SPDX-License-Identifier: MIT
#include "config/scalar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace diffuse {
namespace {

int64_t read_int(const char* text) {
  int64_t value = 0;
  EXPECT_EQ(parse_int(text, value), Parsed::ok) << text;
  return value;
}

double read_double(const char* text) {
  double value = 0;
  EXPECT_EQ(parse_double(text, value), Parsed::ok) << text;
  return value;
}

// YAML 1.2.2, section 10.3.2: the core schema's regular expressions.
TEST(Scalar, CoreSchemaNumbers) {
  EXPECT_EQ(read_int("0"), 0);
  EXPECT_EQ(read_int("-12"), -12);
  EXPECT_EQ(read_int("+12"), 12);
  EXPECT_EQ(read_int("012"), 12);  // decimal in YAML 1.2
  EXPECT_EQ(read_int("0o17"), 15);
  EXPECT_EQ(read_int("0x1F"), 31);
  EXPECT_EQ(read_int("1e5"), 100000);
  EXPECT_EQ(read_int("2.0"), 2);
  EXPECT_EQ(read_int("9223372036854775807"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(read_int("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(read_double("1e-4"), 1e-4);
  EXPECT_EQ(read_double("1.0e-4"), 1e-4);
  EXPECT_EQ(read_double("+.5"), 0.5);
  EXPECT_EQ(read_double("-5."), -5.0);
  EXPECT_EQ(read_double("1E+2"), 100.0);
  EXPECT_EQ(read_double("7"), 7.0);
  EXPECT_TRUE(std::isinf(read_double("-.inf")));
  EXPECT_TRUE(std::isnan(read_double(".nan")));
}

TEST(Scalar, RefusesWhatIsNoNumber) {
  int64_t i = 0;
  double d = 0;
  for (const char* text : {"",    "+",        "-",   ".",    "e5",   "1e",  "1e+",  "1_000", "1,5",
                           "0x",  "0xG",      "0o8", "0x-1", "0o-1", "--1", "+-1",  "1 2",   "inf",
                           "nan", "infinity", "0b1", "1f",   " 1",   "1 ",  "true", "12:30"}) {
    EXPECT_EQ(parse_int(text, i), Parsed::not_a_number) << text;
    if (std::strncmp(text, "0x", 2) != 0) {
      EXPECT_EQ(parse_double(text, d), Parsed::not_a_number) << text;
    }
  }
  EXPECT_EQ(parse_int("1.5", i), Parsed::not_a_number);
  EXPECT_EQ(parse_int("9223372036854775808", i), Parsed::out_of_range);
  EXPECT_EQ(parse_int("1e19", i), Parsed::out_of_range);
  EXPECT_EQ(parse_int("0xFFFFFFFFFFFFFFFFF", i), Parsed::out_of_range);
  EXPECT_EQ(parse_double("1e999", d), Parsed::out_of_range);
  EXPECT_EQ(parse_double("-1e9999", d), Parsed::out_of_range);
}

TEST(Scalar, WhatIsTooSmallIsZeroOrNearIt) {
  double d = 1;
  EXPECT_EQ(parse_double("1e-999", d), Parsed::ok);
  EXPECT_EQ(d, 0);
  EXPECT_EQ(parse_double("3e-310", d), Parsed::ok);
  EXPECT_EQ(d, 3e-310);
  int64_t i = 1;
  EXPECT_EQ(parse_int("1e-999", i), Parsed::ok);
  EXPECT_EQ(i, 0);
}

TEST(Scalar, Bools) {
  EXPECT_EQ(parse_bool("true"), true);
  EXPECT_EQ(parse_bool("FALSE"), false);
  for (const char* text : {"yes", "no", "on", "off", "y", "n", "tRUE", "1", "0", ""})
    EXPECT_FALSE(parse_bool(text).has_value()) << text;
}

TEST(Scalar, DoublesReadBackAndStayFloats) {
  std::mt19937_64 random(1);
  std::vector<double> values{
      0.0, -0.0, 1.0, 2e-4, 1e-8, 5e-324, 1.7976931348623157e308, 1e22, 123456789.0, 0.1};
  for (int i = 0; i < 20000; ++i) {
    const uint64_t bits = random();
    double value = 0;
    std::memcpy(&value, &bits, sizeof(value));
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    const std::string text = format_double(value);
    double back = 0;
    ASSERT_EQ(parse_double(text, back), Parsed::ok) << text;
    EXPECT_EQ(std::memcmp(&back, &value, sizeof(value)), 0) << text;
    // PyYAML's (YAML 1.1) float needs a point, and a sign in the exponent.
    EXPECT_NE(text.find('.'), std::string::npos) << text;
    const size_t e = text.find('e');
    if (e != std::string::npos) {
      EXPECT_TRUE(text[e + 1] == '+' || text[e + 1] == '-') << text;
    }
  }
  EXPECT_EQ(format_double(2e-4), "2.0e-4");
  EXPECT_EQ(format_double(0.02), "0.02");
  EXPECT_EQ(format_double(1), "1.0");
}

TEST(Scalar, TextIsQuotedWhereAReaderCouldMistakeIt) {
  EXPECT_EQ(format_string("runs"), "runs");
  EXPECT_EQ(format_string("/data/cifar-10/train.d"), "/data/cifar-10/train.d");
  EXPECT_EQ(format_string("auto"), "auto");
  for (const char* text :
       {"", "true", "No", "null", "12", "1e5", "-a", "a b", "a: b", "#", "~", "*a", "é", ".5"})
    EXPECT_EQ(format_string(text), "\"" + std::string(text) + "\"");
  EXPECT_EQ(format_string("a\"b\\c\n\t"), R"("a\"b\\c\n\t")");
}

}  // namespace
}  // namespace diffuse
