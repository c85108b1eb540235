// SPDX-License-Identifier: MIT
#include "report/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <clocale>
#include <cmath>
#include <csignal>
#include <limits>

#include "base/error.h"
#include "support/forked.h"
#include "support/temp_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Metrics, LinesAreExactlyThis) {
  const TempFolder folder;
  {
    MetricsWriter writer(folder / "m", 0);
    writer.write({1, {{"loss", 0.1}, {"lr", 2e-4}, {"img_s", 512}, {"zero", 0}}});
    writer.write({2, {{"loss", kNan}, {"a", kInfinity}, {"b", -kInfinity}, {"quote\"", 1e300}}});
    writer.write({3, {}});
  }
  EXPECT_EQ(slurp(folder / "m"),
            "{\"step\":1,\"loss\":0.1,\"lr\":2e-04,\"img_s\":512,\"zero\":0}\n"
            "{\"step\":2,\"loss\":null,\"a\":null,\"b\":null,\"quote\\\"\":1e+300}\n"
            "{\"step\":3}\n");
}

TEST(Metrics, NumbersReadBackAsTheSameDoubles) {
  const TempFolder folder;
  const std::vector<double> values{0.1,
                                   1.0 / 3,
                                   5e-324,
                                   1.7976931348623157e308,
                                   -2.5,
                                   1e-7,
                                   123456789.125,
                                   0.1 + 0.2,
                                   4503599627370497.5,
                                   9007199254740993.0};
  {
    MetricsWriter writer(folder / "m", 0);
    for (size_t i = 0; i < values.size(); ++i)
      writer.write({static_cast<int64_t>(i), {{"v", values[i]}, {"n", kNan}}});
  }
  const auto rows = read_metrics(folder / "m");
  ASSERT_EQ(rows.size(), values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(rows[i].step, static_cast<int64_t>(i));
    ASSERT_EQ(rows[i].values.size(), 2u);
    EXPECT_EQ(rows[i].values[0].first, "v");
    EXPECT_EQ(rows[i].values[0].second, values[i]);
    EXPECT_TRUE(std::isnan(rows[i].values[1].second));
  }
}

TEST(Metrics, DoNotDependOnTheLocale) {
  const TempFolder folder;
  const bool comma = std::setlocale(LC_ALL, "de_DE.UTF-8") != nullptr;
  { MetricsWriter(folder / "m", 0).write({1, {{"v", 0.5}}}); }
  const auto rows = read_metrics(folder / "m");
  std::setlocale(LC_ALL, "C");
  EXPECT_EQ(slurp(folder / "m"), "{\"step\":1,\"v\":0.5}\n") << comma;
  EXPECT_EQ(rows.at(0).values.at(0).second, 0.5);
}

TEST(Metrics, ResumeCutsLaterRowsAndTornLines) {
  const TempFolder folder;
  const std::string two = "{\"step\":10,\"loss\":1.50}\n{\"step\":20,\"loss\":1e0}\n";
  spill(folder / "m", two + "{\"step\":30,\"loss\":0.5}\n{\"step\":40,\"lo");
  { MetricsWriter(folder / "m", 20).write({30, {{"loss", 0.25}}}); }
  EXPECT_EQ(slurp(folder / "m"), two + "{\"step\":30,\"loss\":0.25}\n");

  spill(folder / "m", two);
  struct stat before {
  }, after{};
  ASSERT_EQ(::stat((folder / "m").c_str(), &before), 0);
  { MetricsWriter(folder / "m", 20); }
  ASSERT_EQ(::stat((folder / "m").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino) << "nothing was to be cut";
  { MetricsWriter(folder / "m", -1); }
  EXPECT_EQ(slurp(folder / "m"), "");
}

TEST(Metrics, GoingBackNeedsNoRoom) {
  const TempFolder folder;
  const std::string one = "{\"step\":10,\"loss\":1.50}\n", two = "{\"step\":20,\"loss\":1e0}\n",
                    junk = "{\"st\n";
  const struct {
    std::string before, after;
  } rows[] = {
      {one + two + "{\"step\":30,\"loss\":0.5}\n{\"step\":40,\"lo", one + two},
      {one + two + junk, one + two},
      // Where lines before the last would have to move, they stay: better than losing any.
      {one + junk + two + "{\"step\":30}\n", one + junk + two},
  };
  for (const auto& row : rows) {
    spill(folder / "m", row.before);
    const pid_t child = fork_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      testing::internal::CaptureStderr();
      const rlimit limit{1, RLIM_INFINITY}, none{RLIM_INFINITY, RLIM_INFINITY};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      { MetricsWriter(folder / "m", 20); }
      ::setrlimit(RLIMIT_FSIZE, &none);
      testing::internal::GetCapturedStderr();
      return 0;
    });
    EXPECT_EQ(wait_for(child), 0);
    EXPECT_EQ(slurp(folder / "m"), row.after);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
    // Where there is room again, they go.
    testing::internal::CaptureStderr();
    { MetricsWriter(folder / "m", 20); }
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_EQ(slurp(folder / "m"), one + two);
  }
}

// Where a cut failed, rows of an abandoned branch are before those of the next one.
TEST(Metrics, OfRowsOfTheSameStepTheLastStays) {
  const TempFolder folder;
  const auto row = [](int64_t step, const char* branch) {
    return "{\"step\":" + std::to_string(step) + ",\"" + branch + "\":1}\n";
  };
  const std::string ten = row(10, "a");
  const struct {
    std::string before;
    int64_t last_step;
    std::string after;
  } cases[] = {
      {ten + row(20, "a") + row(30, "a") + row(20, "b") + row(30, "b") + row(40, "b"),
       30,
       ten + row(20, "b") + row(30, "b")},
      // The abandoned branch came further, or had other steps.
      {ten + row(20, "a") + row(30, "a") + row(20, "b"), 30, ten + row(20, "b")},
      {ten + row(20, "a") + row(30, "a") + row(15, "b") + row(25, "b"),
       25,
       ten + row(15, "b") + row(25, "b")},
      // Two of them.
      {ten + row(20, "a") + row(30, "a") + row(20, "b") + row(20, "c") + row(30, "c"),
       30,
       ten + row(20, "c") + row(30, "c")},
      {ten + row(10, "b"), 20, row(10, "b")},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.before);
    spill(folder / "m", c.before);
    std::string read;
    for (const MetricRow& r : read_metrics(folder / "m"))
      if (r.step <= c.last_step) read += row(r.step, r.values.at(0).first.c_str());
    EXPECT_EQ(read, c.after);
    { MetricsWriter(folder / "m", c.last_step); }
    EXPECT_EQ(slurp(folder / "m"), c.after);
  }
}

TEST(Metrics, GoingBackKeepsWhatAFullDiskHeldBack) {
  const TempFolder folder;
  // Two rows are in the file, or all that are to be kept, or none of them.
  for (const int64_t last_step : {int64_t{4}, int64_t{2}, int64_t{1}})
    for (const bool full_for_longer : {false, true}) {
      spill(folder / "m", "");
      const pid_t child = fork_child([&] {
        std::signal(SIGXFSZ, SIG_IGN);
        testing::internal::CaptureStderr();
        const rlimit limit{25, RLIM_INFINITY}, none{RLIM_INFINITY, RLIM_INFINITY};
        MetricsWriter writer(folder / "m", 0);
        ::setrlimit(RLIMIT_FSIZE, &limit);
        for (int64_t step = 1; step <= 6; ++step) writer.write({step, {}});
        if (slurp(folder / "m") != "{\"step\":1}\n{\"step\":2}\n") return 50;
        writer.go_back(last_step);
        if (!full_for_longer) ::setrlimit(RLIMIT_FSIZE, &none);
        writer.write({last_step + 1, {{"again", 1}}});
        ::setrlimit(RLIMIT_FSIZE, &none);
        testing::internal::GetCapturedStderr();
        return 0;
      });
      EXPECT_EQ(wait_for(child), 0);
      std::string all;
      for (int64_t step = 1; step <= last_step; ++step)
        all += "{\"step\":" + std::to_string(step) + "}\n";
      all += "{\"step\":" + std::to_string(last_step + 1) + ",\"again\":1}\n";
      EXPECT_EQ(slurp(folder / "m"), all) << last_step << full_for_longer;
    }
}

TEST(Metrics, ReaderPassesOverWhatIsNoRow) {
  const TempFolder folder;
  spill(folder / "m",
        "{\"step\":1,\"loss\":1,\"note\":\"text\",\"on\":true}\n" + std::string(20, '\0') +
            "\n[1]\n{\"loss\":1}\n{\"step\":2.5}\n{\"step\":2}\n{\"step\":3");
  testing::internal::CaptureStderr();
  const auto rows = read_metrics(folder / "m");
  const std::string said = testing::internal::GetCapturedStderr();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].values.size(), 1u);
  EXPECT_EQ(rows[1].step, 2);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 4) << said;
  EXPECT_NE(said.find(":2: "), std::string::npos) << said;
}

TEST(Metrics, MissingFilesAndFoldersAreErrors) {
  const TempFolder folder;
  EXPECT_THROW(read_metrics(folder / "m"), Error);
  EXPECT_THROW(MetricsWriter(folder / "x" / "m", 0), Error);
}

TEST(Metrics, ARemovedFileIsMadeAnew) {
  const TempFolder folder;
  MetricsWriter writer(folder / "m", 0);
  writer.write({1, {}});
  std::filesystem::remove(folder / "m");
  testing::internal::CaptureStderr();
  writer.write({2, {}});
  writer.write({3, {}});
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(slurp(folder / "m"), "{\"step\":2}\n{\"step\":3}\n");
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_NE(said.find("was removed"), std::string::npos) << said;
  // As editors do.
  spill(folder / "edited", "{\"step\":9}\n");
  std::filesystem::rename(folder / "edited", folder / "m");
  testing::internal::CaptureStderr();
  writer.write({10, {}});
  EXPECT_NE(testing::internal::GetCapturedStderr().find("was replaced"), std::string::npos);
  EXPECT_EQ(slurp(folder / "m"), "{\"step\":9}\n{\"step\":10}\n");
}

TEST(Metrics, AHardLinkedBackupStaysAsItIs) {
  const TempFolder folder;
  spill(folder / "m", "{\"step\":1}\n{\"step\":2}\n");
  std::filesystem::create_hard_link(folder / "m", folder / "backup");
  MetricsWriter(folder / "m", 1).write({3, {}});
  EXPECT_EQ(slurp(folder / "m"), "{\"step\":1}\n{\"step\":3}\n");
  EXPECT_EQ(slurp(folder / "backup"), "{\"step\":1}\n{\"step\":2}\n");
}

TEST(Metrics, AFileOfAbsurdSizeIsNotRead) {
  const TempFolder folder;
  spill(folder / "m", "");
  std::filesystem::resize_file(folder / "m", uintmax_t{2} << 40);
  try {
    read_metrics(folder / "m");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the limit is"), std::string::npos) << e.what();
  }
}

TEST(Metrics, AFullDiskWarnsOnceTearsNoLineAndLosesNone) {
  const TempFolder folder;
  const std::string line = "{\"step\":1,\"loss\":0.5}\n";
  const pid_t child = fork_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    testing::internal::CaptureStderr();
    MetricsWriter writer(folder / "m", 0);
    const rlimit limit{50, RLIM_INFINITY}, none{RLIM_INFINITY, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (int64_t step = 1; step <= 5; ++step) writer.write({step, {{"loss", 0.5}}});
    const size_t written = slurp(folder / "m").size();
    ::setrlimit(RLIMIT_FSIZE, &none);
    if (written != 2 * line.size()) return 50;  // two whole lines fit
    writer.write({6, {{"loss", 0.5}}});
    const std::string said = testing::internal::GetCapturedStderr();
    return static_cast<int>(std::count(said.begin(), said.end(), '\n'));
  });
  // The limit holds for what is written to stderr, too, where that is a file: at most that line is
  // lost.
  EXPECT_LE(wait_for(child), 1);
  std::string all;
  for (const char step : std::string("123456"))
    all += std::string("{\"step\":") + step + ",\"loss\":0.5}\n";
  EXPECT_EQ(slurp(folder / "m"), all);
}

TEST(Metrics, WhatAFullDiskKeptBackIsWrittenAtTheEnd) {
  const TempFolder folder;
  testing::internal::CaptureStderr();
  const pid_t child = fork_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1, RLIM_INFINITY}, none{RLIM_INFINITY, RLIM_INFINITY};
    MetricsWriter writer(folder / "m", 0);
    ::setrlimit(RLIMIT_FSIZE, &limit);
    writer.write({1, {}});
    ::setrlimit(RLIMIT_FSIZE, &none);
    return 0;
  });
  EXPECT_EQ(wait_for(child), 0);
  testing::internal::GetCapturedStderr();
  EXPECT_EQ(slurp(folder / "m"), "{\"step\":1}\n");
}

}  // namespace
}  // namespace diffuse
