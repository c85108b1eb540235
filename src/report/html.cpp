// SPDX-License-Identifier: MIT
#include "report/html.h"

#include "report/markup.h"

namespace diffuse {
namespace {

// The plot's own colours are for white paper: in the dark it is inverted, and its hues turned back.
constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5c6066;--rule:#d9dbde;--band:#f5f6f7;--page:#fff}
@media screen and (prefers-color-scheme:dark){
:root{--ink:#e4e6e8;--soft:#9a9ea4;--rule:#3a3d42;--band:#202226;--page:#16181b}
.plot svg{filter:invert(.91) hue-rotate(180deg)}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1.25rem 4rem;max-width:72rem;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0 1.25rem;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.25rem 0 .5rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:600;font-size:.86em}
th.name,td.name{text-align:left}
td.name{white-space:normal}
tbody tr:hover{background:var(--band)}
ul{padding-left:1.2rem;margin:.5rem 0}
.note{color:var(--soft);font-size:.9em;margin:.4rem 0}
.plot svg{display:block;max-width:100%;height:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1.25rem}
figure{margin:0;max-width:34rem}
figure img{display:block;width:100%;height:auto;image-rendering:pixelated;border:1px solid var(--rule)}
figcaption{overflow-wrap:anywhere;margin-top:.4rem}
figcaption span{display:block;color:var(--soft);font-size:.9em}
.none{display:flex;align-items:center;justify-content:center;aspect-ratio:1;border:1px dashed var(--rule);
color:var(--soft)}
@media print{body{max-width:none;padding:0;font-size:10pt}.wide{overflow:visible}
h2{break-after:avoid}tr,figure{break-inside:avoid}td,th{padding-right:.6rem;white-space:normal}}
)";

std::string cell(const char* tag, bool name, std::string_view text) {
  const std::string element(tag);
  return "<" + element + (name ? " class=\"name\">" : ">") + escape_markup(text) + "</" + element +
         ">";
}

}  // namespace

std::string html_heading(std::string_view text) { return "<h2>" + escape_markup(text) + "</h2>\n"; }

std::string html_list(const std::vector<std::string>& lines) {
  if (lines.empty()) return {};
  std::string out = "<ul>\n";
  for (const std::string& line : lines) out += "<li>" + escape_markup(line) + "</li>\n";
  return out + "</ul>\n";
}

std::string html_table(const Table& table) {
  std::string out = html_heading(table.title) + "<div class=\"wide\"><table>\n<thead><tr>";
  for (size_t c = 0; c < table.head.size(); ++c) out += cell("th", c < table.left, table.head[c]);
  out += "</tr></thead>\n<tbody>\n";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) out += cell("td", c < table.left, row[c]);
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
  for (const std::string& note : table.notes)
    out += "<p class=\"note\">" + escape_markup(note) + "</p>\n";
  return out;
}

std::string html_plot(std::string_view svg) {
  // HTML knows the element; the name of its namespace would be the page's only address.
  constexpr std::string_view kNamespace = " xmlns=\"http://www.w3.org/2000/svg\"";
  std::string inner(svg);
  if (const size_t at = inner.find(kNamespace); at != std::string::npos)
    inner.erase(at, kNamespace.size());
  return "<div class=\"plot\">\n" + inner + "</div>\n";
}

std::string html_pictures(const std::vector<Picture>& pictures) {
  std::string out = "<div class=\"pictures\">\n";
  for (const Picture& picture : pictures) {
    const std::string title = escape_markup(picture.title);
    out += "<figure>";
    if (picture.file.empty())
      out += "<div class=\"none\">no samples yet</div>";
    else
      out += "<img alt=\"samples of " + title + "\" src=\"data:image/" +
             (picture.file.starts_with("<") ? "svg+xml" : "png") + ";base64," +
             base64(picture.file) + "\">";
    out += "<figcaption>" + title + "<span>" + escape_markup(picture.caption) +
           "</span></figcaption></figure>\n";
  }
  return out + "</div>\n";
}

std::string html_page(std::string_view title, std::string_view body) {
  const std::string name = escape_markup(title);
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
      "style-src 'unsafe-inline'\">\n<title>" +
      name + "</title>\n<style>";
  out.append(kStyle).append("</style>\n</head>\n<body>\n<h1>").append(name).append("</h1>\n");
  return out.append(body) + "</body>\n</html>\n";
}

}  // namespace diffuse
