// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "report/table.h"

// A page in one file: everything that it shows is in it, nothing runs and nothing is fetched. Dark
// and light follow the reader's system; on paper it is black on white.

namespace diffuse {

std::string html_heading(std::string_view text);
std::string html_list(const std::vector<std::string>& lines);
std::string html_table(const Table& table);

/// `svg` as plot_svg writes it, within the page. At most one a page: two would share their ids.
std::string html_plot(std::string_view svg);

struct Picture {
  std::string title, caption;
  std::string file;  // the bytes of a PNG or SVG; empty: there is none
};
/// Side by side as far as the page is wide.
std::string html_pictures(const std::vector<Picture>& pictures);

/// The whole document around `body`, which the functions above made.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace diffuse
