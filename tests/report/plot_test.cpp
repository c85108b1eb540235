// SPDX-License-Identifier: MIT
#include "report/plot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <clocale>
#include <cmath>
#include <limits>

#include "report/read_svg.h"

namespace diffuse {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// The coordinates of the first panel's strokes, which stand in a <g>; a text follows in the next
/// panel.
std::vector<std::pair<double, double>> stroke_points(const std::string& svg) {
  const size_t group = svg.find("<g transform");
  const std::string inner = svg.substr(group, svg.find("<text", group) - group);
  const std::string start = "<path d=\"";
  std::vector<std::pair<double, double>> out;
  for (size_t i = inner.find(start); i != std::string::npos; i = inner.find(start, i)) {
    i += start.size();
    while (inner[i] == 'M' || inner[i] == 'L') {
      const double x = number_at(inner, ++i);
      out.emplace_back(x, number_at(inner, ++i));
    }
  }
  return out;
}

TEST(Plot, PutsPointsWhereTheyBelong) {
  // x from 0 to 10 spans the plot of 762 pixels; y from 0 (with 5% above 4) those of 220.
  const std::string svg =
      plot_svg({{"Title", "x", "y", false, {{"s", {{0, 1}, {5, 2}, {10, 4}}}}}});
  const auto texts = texts_of(svg);
  for (const char* wanted : {"Title", "x", "y", "0", "2", "4", "10"})
    EXPECT_TRUE(has(texts, wanted)) << wanted;
  EXPECT_FALSE(has(texts, "s")) << "one series needs no legend";
  const auto points = stroke_points(svg);
  ASSERT_EQ(points.size(), 3u);
  const double top = 4 + 0.05 * 3;
  const std::vector<std::pair<double, double>> wanted{
      {0, 220 * (1 - 1 / top)}, {381, 220 * (1 - 2 / top)}, {762, 220 * (1 - 4 / top)}};
  for (size_t i = 0; i < 3; ++i) {  // coordinates are written to a tenth
    EXPECT_NEAR(points[i].first, wanted[i].first, 0.051);
    EXPECT_NEAR(points[i].second, wanted[i].second, 0.051);
  }
}

TEST(Plot, TicksAreRound) {
  const auto expect = [](double high, const std::string& x_tick, const std::string& y_tick) {
    const Series s{"s", {{0, 0}, {high, high}}};
    const auto texts = texts_of(plot_svg({{"", "", "", false, {s}}}));
    EXPECT_TRUE(has(texts, x_tick)) << x_tick;
    EXPECT_TRUE(has(texts, y_tick)) << y_tick;
  };
  expect(300000, "50k", "100k");
  expect(2000, "1.5k", "2.0k");
  expect(400, "350", "400");
  expect(3e6, "2.5M", "3M");
  expect(0.8, "0.7", "0.8");
  expect(2e-4, "1.5e-4", "5e-5");
}

TEST(Plot, LogAxesHavePowersOfTen) {
  const std::string svg =
      plot_svg({{"", "", "", true, {{"s", {{0, 1e-4}, {1, 1}, {2, 0}, {3, -1}, {4, 1e-2}}}}}});
  const auto texts = texts_of(svg);
  for (const char* wanted : {"1e-4", "0.001", "0.01", "0.1", "1"})
    EXPECT_TRUE(has(texts, wanted)) << wanted;
  const auto points = stroke_points(svg);
  ASSERT_EQ(points.size(), 2u) << "what is not positive has no place";
  EXPECT_EQ(count(svg, "<circle"), 1u);
  // Equal ratios are equal distances: 1e-2 lies in the middle of 1e-4 and 1.
  size_t place = svg.find("cy=\"") + 4;
  EXPECT_NEAR(number_at(svg, place), (points[0].second + points[1].second) / 2, 0.11);
}

TEST(Plot, GapsBreakLinesAndLonePointsAreDots) {
  const std::string svg =
      plot_svg({{"",
                 "",
                 "",
                 false,
                 {{"s", {{0, 1}, {1, 2}, {2, kNan}, {3, 1}, {4, INFINITY}, {5, 2}, {6, 3}}}}}});
  texts_of(svg);
  const std::string inner = svg.substr(svg.find("<g transform"));
  EXPECT_EQ(count(inner, "M"), 2u);
  EXPECT_EQ(count(inner, "L"), 2u);
  EXPECT_EQ(count(inner, "<circle"), 1u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
}

TEST(Plot, LegendsOnlyWhereThereIsAChoice) {
  std::vector<Series> many;
  for (int i = 0; i < 12; ++i)
    many.push_back({"series number " + std::to_string(i), {{0, i}, {1, i}}});
  const auto texts = texts_of(plot_svg({{"", "", "", false, many}}));
  for (const Series& s : many) EXPECT_TRUE(has(texts, s.name)) << s.name;
  const auto pale = texts_of(plot_svg(
      {{"", "", "", false, {{"raw", {{0, 0}, {1, 1}}, true}, {"line", {{0, 0}, {1, 1}}}}}}));
  EXPECT_FALSE(has(pale, "raw") || has(pale, "line"));
}

TEST(Plot, ThinsLongSeriesButKeepsTheirExtremes) {
  Series s{"s", {}};
  for (int i = 0; i < 100000; ++i) s.points.emplace_back(i, std::sin(i * 0.01));
  s.points[54321].second = 7;
  s.points[12345].second = -5;
  const auto points = stroke_points(plot_svg({{"", "", "", false, {s}}}));
  EXPECT_LE(points.size(), 2000u);
  EXPECT_GT(points.size(), 1000u);
  double least = 1e9, greatest = -1e9, last_x = -1;
  for (const auto& [x, y] : points) {
    least = std::min(least, y);
    greatest = std::max(greatest, y);
    EXPECT_GE(x, last_x);
    last_x = x;
  }
  // 7 and -5 with 5% on both sides: 12 of 13.2 units of 220 pixels lie between.
  EXPECT_NEAR(greatest - least, 220 * 12 / 13.2, 0.11);
}

TEST(Plot, StandsWhateverItIsGiven) {
  const std::vector<std::vector<std::pair<double, double>>> hostile{
      {},
      {{0, kNan}},
      {{kNan, 0}},
      {{0, 0}},
      {{5, 7}, {5, 7}},
      {{0, 1e308}, {1, -1e308}},
      {{0, 5e-324}, {1, 1e-300}},
      {{-1e15, 1e15}, {1e15, 1e15 + 1}},
      {{0, -3}, {1, -3}},
      {{0, 1e-30}, {1, 1e30}},
  };
  for (const auto& points : hostile)
    for (const bool log_y : {false, true}) {
      const std::string svg = plot_svg({{"t", "x", "y", log_y, {{"s", points}}}});
      EXPECT_NO_THROW(texts_of(svg));
      EXPECT_EQ(svg.find("nan"), std::string::npos);
      EXPECT_EQ(svg.find("inf"), std::string::npos);
      EXPECT_LT(svg.size(), 20000u);
    }
  EXPECT_NO_THROW(texts_of(plot_svg({})));
}

TEST(Plot, NamesAreText) {
  const std::string svg = plot_svg({{"<b> & \"c\" \x01 \xff \xed\xa0\x80 ä", "", "", false, {}}});
  EXPECT_TRUE(has(texts_of(svg), "&lt;b&gt; &amp; &quot;c&quot; ? ? ??? ä"));
}

TEST(Plot, EqualInputGivesEqualTextInAnyLocale) {
  const std::vector<Panel> panels{{"t", "x", "y", false, {{"s", {{0, 0.25}, {1.5, 0.75}}}}}};
  const std::string first = plot_svg(panels);
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  const std::string second = plot_svg(panels);
  std::setlocale(LC_ALL, "C");
  EXPECT_EQ(first, second);
}

TEST(Plot, TrainingShowsWhatWasMeasured) {
  std::vector<MetricRow> rows;
  for (int64_t step = 50; step <= 5000; step += 50)
    rows.push_back({step,
                    {{"loss", 1.0 / static_cast<double>(step)},
                     {"loss_raw", 1.0 / static_cast<double>(step)},
                     {"lr", 1e-4},
                     {"grad_norm", 0.5}}});
  const auto same = texts_of(plot_training(rows));
  for (const char* wanted : {"Loss", "Learning rate", "Gradient norm", "step", "5k"})
    EXPECT_TRUE(has(same, wanted)) << wanted;
  EXPECT_FALSE(has(same, "unweighted loss")) << "both losses are the same line";
  rows[3].values[1].second = 0.5;
  EXPECT_TRUE(has(texts_of(plot_training(rows)), "unweighted loss"));
  EXPECT_EQ(count(plot_training({}), "no data yet"), 3u);
  EXPECT_FALSE(has(same, "Held-out bound"));
  for (const size_t i : {2u, 5u})
    rows[i].values.insert(rows[i].values.end(),
                          {{"val_bits", 4.0},
                           {"val_rest[-3,0)", 1.0},
                           {"val_loss[1.5]", 0.2},
                           {"val_rest[0,3)", 2.0}});
  const auto measured = texts_of(plot_training(rows));
  for (const char* wanted :
       {"Held-out bound", "Held-out bound by log SNR", "Held-out loss at log SNR", "-3,0", "0,3"})
    EXPECT_TRUE(has(measured, wanted)) << wanted;
}

TEST(Plot, SmoothedLossIsTheMeanAround) {
  // 400 points: each smoothed one is the mean of 4 on both sides, so an alternating loss becomes
  // nearly flat (9 points: 5 of one kind, 4 of the other).
  std::vector<MetricRow> rows;
  for (int64_t step = 0; step < 400; ++step)
    rows.push_back({step, {{"loss", step % 2 == 0 ? 0.0 : 9.0}}});
  const auto points = stroke_points(plot_training(rows));
  ASSERT_EQ(points.size(), 800u);  // the pale line, then the smoothed one
  const double zero = points[0].second, nine = points[1].second;
  for (size_t i = 405; i < 795; ++i) {
    const double value = 9 * (points[i].second - zero) / (nine - zero);
    EXPECT_NEAR(value, i % 2 == 0 ? 4 : 5, 9 * 0.11 / (zero - nine));
  }
}

}  // namespace
}  // namespace diffuse
