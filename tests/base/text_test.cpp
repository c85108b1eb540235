// SPDX-License-Identifier: MIT
#include "base/text.h"

#include <gtest/gtest.h>

namespace diffuse {
namespace {

TEST(Text, ZeroPadded) {
  EXPECT_EQ(zero_padded(0, 3), "000");
  EXPECT_EQ(zero_padded(12, 6), "000012");
  EXPECT_EQ(zero_padded(1234, 3), "1234");
}

TEST(Text, Numbers) {
  EXPECT_EQ(shortest(0.1), "0.1");
  EXPECT_EQ(shortest(1e-320), "1e-320");
  EXPECT_EQ(significant(0.0012345, 3), "0.00123");
  EXPECT_EQ(significant(4.03599e-5, 3), "4.04e-05");
  EXPECT_EQ(significant(9999, 4), "9999");
  EXPECT_EQ(padded("ab", 4), "  ab");
  EXPECT_EQ(padded("abcd", 2), "abcd");
}

TEST(Text, FixedAndPadded) {
  EXPECT_EQ(fixed(3.14159, 3), "3.142");
  EXPECT_EQ(fixed(-0.5, 2), "-0.50");
  EXPECT_EQ(fixed(1e300, 0).size(), 301u);
  EXPECT_EQ(characters("\xc3\xbc b"), 3u);  // u with two dots
  EXPECT_EQ(padded("\xc3\xbc", 3), "  \xc3\xbc");
  EXPECT_EQ(padded("wide", 2), "wide");
}

TEST(Text, UtcNowIsAnIsoTime) {
  const std::string now = utc_now();
  ASSERT_EQ(now.size(), 20u);
  for (size_t i = 0; i < now.size(); ++i) {
    const char form = "dddd-dd-ddTdd:dd:ddZ"[i];
    EXPECT_TRUE(form == 'd' ? now[i] >= '0' && now[i] <= '9' : now[i] == form) << now;
  }
  EXPECT_GT(now, "2025");
}

TEST(Text, FolderNames) {
  for (const char* name : {"run", "a b", "lr=1e-4", "\xc3\xbc", "x.y"})
    EXPECT_TRUE(is_folder_name(name)) << name;
  for (const char* name : {"", ".", "..", ".hidden", "a/b", "/", "a\nb", "\x7f"})
    EXPECT_FALSE(is_folder_name(name)) << name;
}

TEST(Text, HexHasSixteenDigits) {
  EXPECT_EQ(hex(0), "0000000000000000");
  EXPECT_EQ(hex(0x1a2b), "0000000000001a2b");
  EXPECT_EQ(hex(UINT64_MAX), "ffffffffffffffff");
}

TEST(Text, CountsInTheRightNumber) {
  EXPECT_EQ(counted(0, "time"), "0 times");
  EXPECT_EQ(counted(1, "time"), "1 time");
  EXPECT_EQ(counted(2, "class", "classes"), "2 classes");
}

}  // namespace
}  // namespace diffuse
