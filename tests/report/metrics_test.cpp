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

TEST(Metrics, AFullDiskWarnsOnceAndTearsNoLine) {
  const TempFolder folder;
  const pid_t child = fork_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    testing::internal::CaptureStderr();
    MetricsWriter writer(folder / "m", 0);
    const rlimit limit{50, RLIM_INFINITY}, none{RLIM_INFINITY, RLIM_INFINITY};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (int64_t step = 1; step <= 5; ++step) writer.write({step, {{"loss", 0.5}}});
    ::setrlimit(RLIMIT_FSIZE, &none);
    writer.write({6, {{"loss", 0.5}}});
    const std::string said = testing::internal::GetCapturedStderr();
    return static_cast<int>(std::count(said.begin(), said.end(), '\n'));
  });
  // The limit holds for what is written to stderr, too, where that is a file: at most that line is
  // lost.
  EXPECT_LE(wait_for(child), 1);
  EXPECT_EQ(slurp(folder / "m"),
            "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.5}\n{\"step\":6,\"loss\":0.5}\n");
}

}  // namespace
}  // namespace diffuse
