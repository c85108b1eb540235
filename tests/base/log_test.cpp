// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

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

TEST(Log, AFifoIsRefused) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "log.txt").c_str(), 0666), 0);
  try {
    log::open_file((folder / "log.txt").string());
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::run_folder);
    EXPECT_NE(std::string(e.what()).find("is no file but a FIFO"), std::string::npos) << e.what();
  }
}

TEST(Log, AFullDiskIsToldOnce) {
  testing::internal::CaptureStderr();
  log::open_file("/dev/full");
  for (int i = 0; i < 5; ++i) log::warn("a");
  log::close_file();
  // The first that fails may be a message from before the file was opened.
  std::string said = testing::internal::GetCapturedStderr();
  const std::string told =
      "warning: cannot write /dev/full: No space left on device; the run goes on, and its messages "
      "are shown here alone\n";
  const size_t at = said.find(told);
  ASSERT_NE(at, std::string::npos) << said;
  said.erase(at, told.size());
  EXPECT_EQ(said, "warning: a\nwarning: a\nwarning: a\nwarning: a\nwarning: a\n");
}

TEST(Log, RareWarningsSayHowManyTheyAre) {
  testing::internal::CaptureStderr();
  log::RareWarning often(std::chrono::seconds(0)), seldom;
  for (int i = 0; i < 3; ++i) {
    often.warn("often");
    seldom.warn("seldom");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "warning: often\nwarning: seldom\nwarning: often\nwarning: often\n");
}

}  // namespace
}  // namespace diffuse
