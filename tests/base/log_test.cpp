// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

TEST(Log, PrefixesSayHowBadItIs) {
  testing::internal::CaptureStderr();
  log::debug("one");
  log::info("two {} %s");
  log::warn("three");
  log::error("four");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "two {} %s\nwarning: three\nerror: four\n");
}

TEST(Log, LevelsHideAndShow) {
  testing::internal::CaptureStderr();
  log::set_level(log::Level::error);
  log::warn("hidden");
  log::error("shown");
  log::set_level(log::Level::debug);
  log::debug("detail");
  log::set_level(log::Level::off);
  log::error("nothing");
  log::set_level(log::Level::info);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "error: shown\ndebug: detail\n");
}

TEST(Log, HooksEncloseEachShownMessage) {
  testing::internal::CaptureStderr();
  std::string order;
  log::set_line_hooks([&] { order += "<"; }, [&] { order += ">"; });
  log::info("x");
  log::debug("hidden");
  log::warn("y");
  log::set_line_hooks(nullptr, nullptr);
  log::info("z");
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(order, "<><>");
}

TEST(Log, TheFileGetsEverything) {
  const TempFolder folder;
  testing::internal::CaptureStderr();
  log::open_file((folder / "log.txt").string());
  log::debug("fine detail");
  log::warn("a warning");
  log::close_file();
  log::info("too late");
  testing::internal::GetCapturedStderr();
  const std::string text = slurp(folder / "log.txt");
  EXPECT_NE(text.find("debug fine detail\n"), std::string::npos) << text;
  EXPECT_NE(text.find("warning a warning\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("too late"), std::string::npos);
  try {
    log::open_file((folder / "log.txt" / "x").string());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::run_folder);
  }
}

}  // namespace
}  // namespace diffuse
