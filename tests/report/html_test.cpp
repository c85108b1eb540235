// SPDX-License-Identifier: MIT
#include "report/html.h"

#include <gtest/gtest.h>

#include "report/markup.h"
#include "report/plot.h"
#include "report/table.h"

namespace diffuse {
namespace {

TEST(Markup, EscapesAndReplaces) {
  EXPECT_EQ(escape_markup("<b a=\"1\">&\x01\xff ü"), "&lt;b a=&quot;1&quot;&gt;&amp;?? ü");
}

TEST(Markup, Base64) {
  // RFC 4648, sec. 10.
  const std::pair<const char*, const char*> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"}};
  for (const auto& [bytes, text] : vectors) EXPECT_EQ(base64(bytes), text);
  EXPECT_EQ(base64("\xff\xfe\xfd"), "//79");
}

const Table kTable{.title = "runs",
                   .head = {"run", "loss"},
                   .rows = {{"ü", "0.5"}, {"a\x1b<b>", "12.25"}},
                   .left = 1,
                   .notes = {"a note"}};

TEST(Table, IsAligned) {
  EXPECT_EQ(table_text(kTable),
            "runs\n"
            "  run        loss\n"
            "  ü           0.5\n"
            "  a\\x1b<b>  12.25\n"
            "  a note\n");
}

TEST(Table, NotesAreWrapped) {
  Table table{.title = "t", .head = {"a"}, .rows = {}, .left = 1, .notes = {""}};
  for (int i = 0; i < 40; ++i) table.notes[0] += "word" + std::to_string(i) + " ";
  const std::string text = table_text(table);
  size_t lines = 0;
  for (size_t begin = 0; begin < text.size(); ++lines) {
    const size_t end = text.find('\n', begin);
    EXPECT_LE(end - begin, 98u);
    begin = end + 1;
  }
  EXPECT_EQ(lines, 5u);  // 270 characters of words in three lines
}

TEST(Table, CsvFields) {
  EXPECT_EQ(csv_field("plain text"), "plain text");
  EXPECT_EQ(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
  EXPECT_EQ(csv_field("two\nlines"), "\"two\nlines\"");
}

TEST(Html, NothingIsMarkupAndNothingIsFetched) {
  const std::string page = html_page(
      "<i>&",
      html_table(kTable) + html_list({"<u>"}) + html_heading("<h>") +
          html_pictures({{.title = "\"x\"", .caption = "<c>", .file = "PNG"},
                         {.title = "points", .caption = "-", .file = "<svg"},
                         {.title = "none", .caption = "-", .file = ""}}) +
          html_plot(plot_svg(
              {{.title = "<p>", .x_label = "", .y_label = "", .log_y = false, .series = {}}})));
  EXPECT_TRUE(page.starts_with("<!DOCTYPE html>"));
  for (const char* raw : {"<i>", "<u>", "<h>", "<c>", "<p>", "<b>", "http:", "https:", "<script"})
    EXPECT_EQ(page.find(raw), std::string::npos) << raw;
  for (const char* part : {"<title>&lt;i&gt;&amp;</title>",
                           "<td class=\"name\">ü</td><td>0.5</td>",
                           "alt=\"samples of &quot;x&quot;\" src=\"data:image/png;base64,UE5H\"",
                           "alt=\"samples of points\" src=\"data:image/svg+xml;base64,PHN2Zw==\"",
                           "no samples yet",
                           "<svg width="})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

}  // namespace
}  // namespace diffuse
