// SPDX-License-Identifier: MIT
#include <string_view>

#include "config/values.h"
#include "config/yaml.h"

namespace diffuse {
namespace {

using Origin = std::function<std::string(const std::string&)>;

class Writer {
 public:
  Writer(bool comments, const Origin& origin) : comments_(comments), origin_(origin) {}

  void write(const Fields& fields, const std::string& prefix, size_t depth) {
    for (const Field& field : fields.list()) {
      const std::string key = joined(prefix, field.key);
      const bool section = std::holds_alternative<SectionField>(field.value);
      if (section && depth == 0 && !out_.empty()) out_ += "\n";
      help(field, depth);
      const SubFields inner = sub_fields(field);
      if (section) {
        line(depth, field.key + ":", "");
        write(inner.fields, key, depth + 1);
      } else if (inner.has && !inner.fields.list().empty()) {  // an axis whose row has options
        line(depth, field.key + ":", "");
        line(depth + 1, "type: " + value_text(field), key);
        write(inner.fields, key, depth + 1);
      } else {
        line(depth, field.key + ": " + value_text(field), key);
      }
    }
  }

  const std::string& text() const { return out_; }

 private:
  static constexpr size_t kWidth = 96;

  void help(const Field& field, size_t depth) {
    if (!comments_) return;
    std::string words = field.help;
    if (const auto* choice = std::get_if<ChoiceField>(&field.value)) {
      words += ":";
      for (const RowInfo& row : choice->rows)
        words += " " + row.name + " (" + row.help +
                 (row.reference.empty() ? "" : "; " + row.reference) + "),";
      words.back() = '.';
    } else if (std::holds_alternative<EnumField>(field.value)) {
      words += " (" + type_text(field) + ")";
    }
    const std::string lead(2 * depth, ' ');
    std::string row;
    const auto flush = [&] {
      out_ += lead;
      out_ += '#';
      out_ += row;
      out_ += '\n';
      row.clear();
    };
    for (size_t begin = 0; begin < words.size();) {
      const size_t end = std::min(words.find(' ', begin), words.size());
      if (!row.empty() && lead.size() + row.size() + 2 + (end - begin) > kWidth) flush();
      row += ' ';
      row.append(words, begin, end - begin);
      begin = end + 1;
    }
    flush();
  }

  void line(size_t depth, const std::string& text, const std::string& key) {
    std::string row = std::string(2 * depth, ' ') + text;
    if (comments_ && origin_ && !key.empty()) {
      row += "  # ";
      for (const char c : origin_(key)) row += c == '\n' ? '?' : c;  // a comment is one line
    }
    out_ += row + "\n";
  }

  bool comments_;
  const Origin& origin_;
  std::string out_;
};

void compare(const Fields& a,
             const Fields& b,
             const std::string& prefix,
             bool result_only,
             std::vector<std::string>& out) {
  for (size_t i = 0; i < a.list().size(); ++i) {
    const Field& left = a.list()[i];
    const Field& right = b.list()[i];
    if (result_only && !left.affects_result) continue;
    const std::string key = joined(prefix, left.key);
    const std::string old_value = value_text(left);
    const std::string new_value = value_text(right);
    if (old_value != new_value) {
      out.push_back(key + ": " + old_value + " -> " + new_value);
      continue;  // the options of two different rows cannot be compared
    }
    const SubFields inner = sub_fields(left);
    if (inner.has) compare(inner.fields, sub_fields(right).fields, key, result_only, out);
  }
}

void collect(const Fields& fields, const std::string& prefix, std::vector<ConfigValue>& out) {
  for (const Field& field : fields.list()) {
    const std::string key = joined(prefix, field.key);
    if (!std::holds_alternative<SectionField>(field.value))
      out.push_back({key, value_text(field), field.affects_result});
    if (const SubFields inner = sub_fields(field); inner.has) collect(inner.fields, key, out);
  }
}

}  // namespace

std::vector<ConfigValue> config_values(const Config& config) {
  Config copy = config;
  Fields fields;
  copy.fields(fields);
  std::vector<ConfigValue> out;
  collect(fields, "", out);
  return out;
}

std::string write_config(const Config& config, bool comments, const Origin& origin) {
  Config copy = config;  // fields() hands out pointers that one could write through
  Fields fields;
  copy.fields(fields);
  Writer writer(comments, origin);
  writer.write(fields, "", 0);
  return writer.text();
}

std::vector<std::string> config_differences(const Config& a,
                                            const Config& b,
                                            bool affects_result_only) {
  Config left = a, right = b;
  Fields left_fields, right_fields;
  left.fields(left_fields);
  right.fields(right_fields);
  std::vector<std::string> out;
  compare(left_fields, right_fields, "", affects_result_only, out);
  return out;
}

}  // namespace diffuse
