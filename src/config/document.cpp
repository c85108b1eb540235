// SPDX-License-Identifier: MIT
#include "config/document.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <sstream>
#include <unordered_map>
#include <utility>

namespace diffuse {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxNodes = 10'000;
constexpr size_t kMaxShown = 20;

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

/// The lines without their breaks; they point into `text`.
std::vector<std::string_view> split_lines(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    if (!out.back().empty() && out.back().back() == '\r') out.back().remove_suffix(1);
    begin = end + 1;
  }
  return out;
}

/// Length in bytes of the scalar that `rest` of its line starts with.
size_t scalar_width(std::string_view rest, const std::string& value, bool quoted) {
  if (rest.empty()) return 1;
  if (!quoted || (rest[0] != '"' && rest[0] != '\''))
    return std::max<size_t>(1, std::min(value.size(), rest.size()));
  for (size_t i = 1; i < rest.size(); ++i) {
    if (rest[0] == '"' && rest[i] == '\\') {
      ++i;
    } else if (rest[i] == rest[0]) {
      if (rest[0] == '\'' && i + 1 < rest.size() && rest[i + 1] == '\'') {
        ++i;  // '' is an escaped quote
      } else {
        return i + 1;
      }
    }
  }
  return rest.size();
}

/// Thrown to leave yaml-cpp's parser; the report has the reason.
struct Stop {};

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(
      Report& report, size_t source, std::string_view parsed, size_t column_offset, Node& root)
      : report_(report),
        source_(source),
        lines_(split_lines(parsed)),
        offset_(column_offset),
        root_(root) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 1) return;
    report_.error(place(mark, 1),
                  "a second document begins here; a config is one document",
                  "remove the '---'");
    throw Stop{};
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(leaf(Node::Kind::null, mark, 1), "", anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    report_.error(place(mark, 1), "aliases (*name) are not supported", "write the value again");
    add(leaf(Node::Kind::invalid, mark, 1), "", 0);
  }

  void OnScalar(const YAML::Mark& mark,
                const std::string& tag,
                YAML::anchor_t anchor,
                const std::string& value) override {
    Node node = leaf(Node::Kind::scalar, mark, 1);
    node.quoted = tag == "!";
    node.text = value;
    node.place.width = scalar_width(from(node.place), value, node.quoted);
    add(std::move(node), tag, anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark,
                       const std::string& tag,
                       YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(leaf(Node::Kind::sequence, mark, 1), tag, anchor);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark,
                  const std::string& tag,
                  YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(leaf(Node::Kind::map, mark, 1), tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    Node node;
    bool has_key = false;
    Node key;
    std::unordered_map<std::string, size_t> lines;  // of the keys so far
  };

  Place place(const YAML::Mark& mark, size_t width) const {
    if (mark.line < 0) return {source_, 0, offset_, 1};
    return {source_,
            static_cast<size_t>(mark.line),
            static_cast<size_t>(mark.column) + (mark.line == 0 ? offset_ : 0),
            width};
  }

  /// The rest of the line from a place on.
  std::string_view from(const Place& at) const {
    if (at.line >= lines_.size()) return {};
    const std::string_view line = lines_[at.line];
    return line.substr(std::min(line.size(), at.column - (at.line == 0 ? offset_ : 0)));
  }

  Node leaf(Node::Kind kind, const YAML::Mark& mark, size_t width) {
    if (++nodes_ > kMaxNodes) {
      report_.error(place(mark, 1),
                    "more than " + std::to_string(kMaxNodes) + " values; this is no config");
      throw Stop{};
    }
    Node node;
    node.kind = kind;
    node.place = place(mark, width);
    return node;
  }

  void refuse_properties(Node& node, const std::string& tag, YAML::anchor_t anchor) {
    // yaml-cpp gives "!" to quoted scalars, too: only the text tells an explicit non-specific tag.
    const bool tagged =
        from(node.place).starts_with('!') || !(tag.empty() || tag == "?" || tag == "!");
    if (!tagged && anchor == 0) return;
    if (tagged)
      report_.error(node.place, "tags (!type) are not supported", "remove the tag");
    else
      report_.error(node.place,
                    "anchors (&name) are not supported",
                    "write the value out where it is needed");
    node.kind = Node::Kind::invalid;
  }

  void add(Node node, const std::string& tag, YAML::anchor_t anchor) {
    refuse_properties(node, tag, anchor);
    attach(std::move(node));
  }

  void attach(Node node) {
    if (report_.full()) throw Stop{};
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& top = stack_.back();
    if (top.node.kind != Node::Kind::map) {
      top.node.items.push_back(std::move(node));
    } else if (!top.has_key) {
      top.key = std::move(node);
      top.has_key = true;
    } else {
      top.has_key = false;
      if (accept_key(top)) {
        top.node.keys.push_back(std::move(top.key));
        top.node.items.push_back(std::move(node));
      }
    }
  }

  bool accept_key(Frame& frame) {
    const Node& key = frame.key;
    if (key.kind == Node::Kind::invalid) return false;
    if (key.kind != Node::Kind::scalar) {
      report_.error(key.place, "a key must be a name");
      return false;
    }
    if (key.text == "<<" && !key.quoted) {
      report_.error(key.place, "merge keys (<<) are not supported", "write the values out");
      return false;
    }
    const auto [first, is_new] = frame.lines.emplace(key.text, key.place.line);
    if (!is_new)
      report_.error(key.place,
                    "'" + excerpt(key.text) + "' is here a second time; the first is on line " +
                        std::to_string(first->second + 1),
                    "keep one of them");
    return is_new;
  }

  void open(Node node, const std::string& tag, YAML::anchor_t anchor) {
    if (stack_.size() >= kMaxDepth) {
      report_.error(
          node.place,
          "nested deeper than " + std::to_string(kMaxDepth) + " levels; this is no config");
      throw Stop{};
    }
    Frame frame;
    const Node::Kind kind = node.kind;
    refuse_properties(node, tag, anchor);
    node.kind = kind;  // its parts are still read, for their own errors
    frame.node = std::move(node);
    stack_.push_back(std::move(frame));
  }

  void close() {
    Node node = std::move(stack_.back().node);
    stack_.pop_back();
    attach(std::move(node));
  }

  Report& report_;
  size_t source_;
  std::vector<std::string_view> lines_;  // of what is parsed
  size_t offset_;                        // columns of the source before it
  Node& root_;
  std::vector<Frame> stack_;
  size_t nodes_ = 0;
  size_t documents_ = 0;
};

Place place_of_offset(std::string_view text, size_t source, size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const size_t newline = before.rfind('\n');
  return {source,
          static_cast<size_t>(std::count(before.begin(), before.end(), '\n')),
          newline == std::string_view::npos ? offset : offset - newline - 1,
          1};
}

bool check_bytes(Report& report, size_t source) {
  const std::string& text = report.text(source);
  if (text.size() > kMaxConfigBytes) {
    report.error({source}, too_large_text(text.size()));
    return false;
  }
  std::string why;
  const size_t bad = find_unprintable(text, why);
  if (bad == std::string_view::npos) return true;
  report.error(place_of_offset(text, source, bad),
               why,
               report.is_override(source) ? "" : "save the file as UTF-8 text");
  return false;
}

}  // namespace

std::string too_large_text(size_t bytes) {
  return "larger than 1 MiB (" + std::to_string(bytes) + " bytes); this is no config";
}

size_t find_unprintable(std::string_view text, std::string& why) {
  char buffer[64];
  for (size_t i = 0; i < text.size();) {
    const auto at = [&](size_t k) {
      return i + k < text.size() ? static_cast<uint32_t>(static_cast<unsigned char>(text[i + k]))
                                 : 0u;
    };
    const uint32_t first = at(0);
    const size_t length = first < 0x80             ? 1
                          : (first & 0xE0) == 0xC0 ? 2
                          : (first & 0xF0) == 0xE0 ? 3
                          : (first & 0xF8) == 0xF0 ? 4
                                                   : 0;
    uint32_t code = length == 1 ? first : length == 0 ? 0 : first & (0xFFu >> (length + 1));
    bool valid = length != 0;
    for (size_t k = 1; k < length; ++k) {
      valid = valid && (at(k) & 0xC0) == 0x80;
      code = (code << 6) | (at(k) & 0x3F);
    }
    static constexpr uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (!valid || code < smallest[length] || code > 0x10FFFF ||
        (code >= 0xD800 && code <= 0xDFFF)) {
      std::snprintf(buffer, sizeof(buffer), "not UTF-8: byte 0x%02X", first);
      why = buffer;
      return i;
    }
    const bool lone_return = code == '\r' && at(1) != '\n';
    const bool control = (code < 0x20 && code != '\t' && code != '\n' && code != '\r') ||
                         lone_return || (code >= 0x7F && code < 0xA0 && code != 0x85) ||
                         code == 0xFFFE || code == 0xFFFF;
    if (control) {
      std::snprintf(buffer, sizeof(buffer), "control character U+%04X", code);
      why = buffer;
      return i;
    }
    i += length;
  }
  return std::string_view::npos;
}

std::string excerpt(std::string_view text) {
  constexpr size_t kLongest = 60;
  std::string out;
  size_t characters = 0;
  for (const char c : text) {
    if (!is_continuation(c) && ++characters > kLongest) return out + "...";
    out += c == '\n' || c == '\r' || c == '\t' ? ' ' : c;
  }
  return out;
}

size_t Report::add_source(std::string name, std::string text, bool is_override) {
  for (char& c : name)  // a name comes from the user, and goes to a terminal
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);  // byte order mark
  sources_.push_back({std::move(name), std::move(text), is_override});
  return sources_.size() - 1;
}

void Report::error(const Place& place, std::string message, std::string hint) {
  errors_.push_back({place, std::move(message), std::move(hint)});
}

void Report::warning(const Place& place, std::string message, std::string hint) {
  warnings_.push_back({place, std::move(message), std::move(hint)});
}

std::string_view Report::line(const Place& place) const {
  const std::vector<std::string_view> lines = split_lines(sources_[place.source].text);
  return place.line < lines.size() ? lines[place.line] : std::string_view();
}

std::string Report::where(const Place& place) const {
  const Source& source = sources_[place.source];
  if (source.is_override || place.line == Place::none) return source.name;
  return source.name + ":" + std::to_string(place.line + 1);
}

std::string Report::lay_out(const Entry& entry, const char* kind) const {
  const Place& place = entry.place;
  std::string out = where(place);
  if (place.line == Place::none)
    return out + (sources_[place.source].is_override ? ":1: " : ":1:1: ") + kind + ": " +
           entry.message + (entry.hint.empty() ? "" : "; " + entry.hint);

  std::string_view source = line(place);
  const size_t column = std::min(place.column, source.size());
  const size_t width = std::min(place.width, std::max<size_t>(1, source.size() - column));
  out += ":" + std::to_string(count_characters(source.substr(0, column)) + 1);
  out += std::string(": ") + kind + ": " + entry.message + "\n";

  // A window of a long line, cut between characters.
  constexpr size_t kBefore = 70, kAfter = 70;
  size_t begin = column > kBefore ? column - kBefore : 0;
  while (begin < column && is_continuation(source[begin])) ++begin;
  size_t end = std::min(source.size(), column + kAfter);
  while (end < source.size() && is_continuation(source[end])) ++end;
  const auto printable = [&](std::string_view text) {
    std::string shown(text);
    std::string why;
    for (size_t bad = find_unprintable(shown, why); bad != std::string::npos;
         bad = find_unprintable(shown, why))
      shown[bad] = '?';
    return shown;
  };
  const std::string before = printable(source.substr(begin, column - begin));
  const std::string after = printable(source.substr(column, end - column));
  const std::string left = begin > 0 ? "..." : "";
  const std::string right = end < source.size() ? "..." : "";

  std::string gutter, blank;
  if (!sources_[place.source].is_override) {
    gutter = std::to_string(place.line + 1);
    gutter = std::string(gutter.size() < 5 ? 5 - gutter.size() : 0, ' ') + gutter;
    blank = std::string(gutter.size(), ' ') + " | ";
    gutter += " | ";
  } else {
    gutter = blank = "  ";
  }
  out += gutter + left + before + after + right + "\n";
  out += blank + std::string(left.size(), ' ');
  for (const char c : before)  // a tab stays one, so that the caret stands right at any tab width
    if (!is_continuation(c)) out += c == '\t' ? '\t' : ' ';
  out += "^";
  const size_t marked = count_characters(source.substr(column, std::min(width, end - column)));
  if (marked > 1) out += std::string(marked - 1, '~');
  if (!entry.hint.empty()) out += " " + entry.hint;
  return out;
}

std::string Report::error_text() const {
  std::string out;
  for (size_t i = 0; i < std::min(errors_.size(), kMaxShown); ++i)
    out += lay_out(errors_[i], "error") + "\n";
  if (errors_.size() > kMaxShown)
    out += "and " + std::to_string(errors_.size() - kMaxShown) + " more\n";
  out += std::to_string(errors_.size()) + (errors_.size() == 1 ? " error" : " errors") +
         ". Nothing was started.";
  return out;
}

std::vector<std::string> Report::warning_texts() const {
  std::vector<std::string> out;
  for (const Entry& entry : warnings_) out.push_back(lay_out(entry, "warning"));
  return out;
}

bool parse_document(Report& report, size_t source, size_t skip, Node& root) {
  if (!check_bytes(report, source)) return false;
  const std::string text = report.text(source).substr(skip);
  root = Node{};
  root.place = {source, 0, skip, 1};
  const size_t errors = report.errors();
  TreeBuilder builder(report, source, text, skip, root);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Stop&) {
    return false;
  } catch (const YAML::Exception& e) {
    Place place{source, 0, skip, 1};
    if (e.mark.line >= 0)
      place = {source,
               static_cast<size_t>(e.mark.line),
               static_cast<size_t>(e.mark.column) + (e.mark.line == 0 ? skip : 0),
               1};
    std::string hint;
    const std::vector<std::string_view> lines = split_lines(report.text(source));
    const std::string_view line =
        place.line < lines.size() ? lines[place.line] : std::string_view();
    if (line.substr(0, line.find_first_not_of(" \t")).find('\t') != std::string_view::npos)
      hint = "indent with spaces, not tabs";
    if (e.msg.find("the referenced anchor is not defined") != std::string::npos)
      report.error(place, "aliases (*name) are not supported", "write the value again");
    else
      report.error(place, "not valid YAML: " + e.msg, hint);
    return false;
  }
  return report.errors() == errors || root.kind == Node::Kind::map;
}

}  // namespace diffuse
