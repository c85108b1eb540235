// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

// The tree of a YAML document with the place of every node, and the errors found on the way. Built
// from yaml-cpp's events, so that nothing is expanded, merged or guessed before it has been
// checked.

namespace diffuse {

constexpr size_t kMaxConfigBytes = size_t{1} << 20;

/// A span of one line of a source. Line and column count from 0, in bytes.
struct Place {
  static constexpr size_t none = static_cast<size_t>(-1);
  size_t source = 0;
  size_t line = none;  // none: the source as a whole, 1:1 in messages
  size_t column = 0;
  size_t width = 1;
};

struct Node {
  enum class Kind { invalid, null, scalar, sequence, map };  // invalid: an error has been reported
  Kind kind = Kind::null;
  bool quoted = false;
  std::string text;         // of a scalar
  std::vector<Node> keys;   // of a map: scalars, one for each of `items`
  std::vector<Node> items;  // of a sequence or map
  Place place;
};

/// Collects errors and warnings with their places and lays them out.
class Report {
 public:
  /// A file, or one override (its text is then a single line without a line number in messages).
  size_t add_source(std::string name, std::string text, bool is_override);
  void error(const Place& place, std::string message, std::string hint = {});
  void warning(const Place& place, std::string message, std::string hint = {});

  size_t errors() const { return errors_.size(); }
  bool full() const { return errors_.size() >= 1000; }  // not worth reading on
  /// The first 20 errors and their number.
  std::string error_text() const;
  std::vector<std::string> warning_texts() const;
  const std::string& text(size_t source) const { return sources_[source].text; }
  /// "config.yaml:12" or "--set[1]".
  std::string where(const Place& place) const;
  bool is_override(size_t source) const { return sources_[source].is_override; }

 private:
  struct Source {
    std::string name, text;
    bool is_override = false;
  };
  struct Entry {
    Place place;
    std::string message, hint;
  };
  std::string lay_out(const Entry& entry, const char* kind) const;
  std::string_view line(const Place& place) const;
  std::vector<Source> sources_;
  std::vector<Entry> errors_, warnings_;
};

/// Parses one source of the report (its text, or for an override what follows `skip` bytes of it).
/// Errors go to the report; false when the tree is of no use.
bool parse_document(Report& report, size_t source, size_t skip, Node& root);

/// What is said of a config of more than kMaxConfigBytes.
std::string too_large_text(size_t bytes);

/// Offset of the first byte that is not valid UTF-8 or starts a character that YAML does not allow;
/// npos when there is none. `why` is then the reason.
size_t find_unprintable(std::string_view text, std::string& why);

/// `text` for a message: at most 60 characters, no line breaks.
std::string excerpt(std::string_view text);

}  // namespace diffuse
