// SPDX-License-Identifier: MIT
#include "config/yaml.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include "base/files.h"
#include "config/document.h"
#include "config/scalar.h"
#include "config/suggest.h"
#include "config/values.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

std::string did_you_mean(const std::string& name) {
  return name.empty() ? std::string() : "did you mean '" + name + "'?";
}

/// What a node is, for a message about what it should have been.
std::string described(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "nothing";
    case Node::Kind::sequence:
      return "a list";
    case Node::Kind::map:
      return "a map";
    default:
      return (node.quoted ? "the text '" : "'") + excerpt(node.text) + "'";
  }
}

/// A key of the config as a suggestion knows it.
struct KnownKey {
  std::string full;
  std::string leaf;
  std::vector<std::string> aliases;
};

void collect_keys(Fields& fields, const std::string& prefix, std::vector<KnownKey>& out) {
  for (Field& field : fields.list()) {
    const std::string full = joined(prefix, field.key);
    out.push_back({full, field.key, field.aliases});
    if (auto* section = std::get_if<SectionField>(&field.value)) {
      Fields inner;
      section->fields(inner);
      collect_keys(inner, full, out);
    } else if (auto* choice = std::get_if<ChoiceField>(&field.value)) {
      for (const RowInfo& row : choice->rows) {
        Fields options;
        choice->row_fields(row.name, options);
        collect_keys(options, full, out);
      }
    }
  }
}

class Loader {
 public:
  Loader() {
    Fields fields;
    config_.fields(fields);
    collect_keys(fields, "", known_);
  }

  void read_file(std::string_view text, const std::string& name, const fs::path& base) {
    file_ = report_.add_source(name, std::string(text), false);
    base_ = base;
    Node root;
    const bool parsed = parse_document(report_, file_, 0, root);
    unsure_everywhere_ = report_.errors() > 0;
    if (!parsed || root.kind == Node::Kind::null) return;
    if (root.kind != Node::Kind::map) {
      unsure_everywhere_ = true;
      if (root.kind != Node::Kind::invalid)
        report_.error(root.place, "a config is a map of keys and values, got " + described(root));
      return;
    }
    Fields fields;
    config_.fields(fields);
    apply_map(root, fields, "", nullptr);
  }

  void apply_override(const Override& override) {
    const size_t source = report_.add_source(override.origin, override.text, true);
    const std::string text = report_.text(source);  // without a byte order mark
    const size_t equals = text.find('=');
    if (text.find('\n') != std::string::npos || equals == std::string::npos || equals == 0) {
      report_.error({source, 0, 0, text.size()},
                    "an override is KEY=VALUE on one line",
                    "e.g. optim.lr=1.0e-4");
      return;
    }
    const std::string path = text.substr(0, equals);
    const size_t before = report_.errors();
    Node value;
    if (parse_document(report_, source, equals + 1, value)) {
      std::error_code removed;
      base_ = fs::current_path(removed);
      if (removed) base_ = ".";  // only a relative path needs it, and says so
      Fields fields;
      config_.fields(fields);
      apply_path(path, 0, source, fields, "", value);
    }
    if (report_.errors() > before) be_unsure_of(path);
  }

  LoadedConfig finish() {
    Fields fields;
    config_.fields(fields);
    check_required(fields, "");
    check_rules();
    if (report_.errors() > 0) throw ConfigError(report_.error_text());
    std::map<std::string, std::string> origins;
    for (const auto& [key, place] : places_) origins[key] = report_.where(place);
    LoadedConfig out;
    out.config = std::move(config_);
    out.warnings = report_.warning_texts();
    out.origin = [origins = std::move(origins)](const std::string& key) {
      const auto found = origins.find(key);
      return found == origins.end() ? std::string("default") : found->second;
    };
    return out;
  }

 private:
  using Value = Field::Value;

  static Field* find(Fields& fields, std::string_view key) {
    for (Field& field : fields.list())
      if (field.key == key) return &field;
    return nullptr;
  }

  /// What a person who wrote `key` in section `prefix` most likely wanted.
  std::string suggestion(const std::string& key,
                         const Fields& fields,
                         const std::string& prefix) const {
    std::vector<Suggestion> here, there;
    for (const Field& field : fields.list()) here.push_back({field.key, field.key});
    for (const Field& field : fields.list())
      for (const std::string& alias : field.aliases) here.push_back({alias, field.key});
    for (const KnownKey& known : known_) {
      if (known.full == joined(prefix, known.leaf)) continue;
      there.push_back({known.leaf, known.full});
      there.push_back({known.full, known.full});
    }
    for (const KnownKey& known : known_)
      for (const std::string& alias : known.aliases)
        if (known.full != joined(prefix, known.leaf)) there.push_back({alias, known.full});
    for (const auto& pick : {same_name(key, here), same_name(key, there), closest_name(key, here)})
      if (!pick.empty()) return pick;
    // Nearly any short word resembles one of the many names in use elsewhere.
    return key.size() < 6 ? std::string() : closest_name(key, there);
  }

  void unknown_key(const Place& place,
                   const std::string& key,
                   const Fields& fields,
                   const std::string& prefix,
                   const ChoiceField* choice) {
    if (choice == nullptr) {
      const auto dotted = std::find_if(known_.begin(), known_.end(), [&](const KnownKey& k) {
        return prefix.empty() && k.full == key;
      });
      if (dotted != known_.end()) {
        report_.error(place,
                      "'" + key + "' is written with dots only on the command line",
                      "write '" + dotted->leaf + ":' below '" +
                          key.substr(0, key.size() - dotted->leaf.size() - 1) + ":'");
        return;
      }
      report_.error(place,
                    "unknown key '" + excerpt(joined(prefix, key)) + "'",
                    did_you_mean(suggestion(key, fields, prefix)));
      return;
    }
    std::vector<std::string> options, rows_with_it;
    std::vector<Suggestion> here;
    for (const Field& field : fields.list()) {
      options.push_back(field.key);
      here.push_back({field.key, {}});
      for (const std::string& alias : field.aliases) here.push_back({alias, field.key});
    }
    for (const RowInfo& row : choice->rows) {
      Fields of_row;
      choice->row_fields(row.name, of_row);
      if (find(of_row, key) != nullptr) rows_with_it.push_back(row.name);
    }
    std::string hint = did_you_mean(closest_name(key, here));
    if (!rows_with_it.empty()) hint = "it is an option of " + list_of(rows_with_it);
    const std::string axis = prefix.substr(prefix.rfind('.') + 1);
    report_.error(place,
                  axis + " '" + choice->get() + "' has no option '" + excerpt(key) + "'" +
                      (options.empty() ? " (it has none)" : "; its options: " + list_of(options)),
                  hint);
  }

  /// `choice` is set when the map holds the options of an axis.
  void apply_map(const Node& map,
                 Fields& fields,
                 const std::string& prefix,
                 const ChoiceField* choice) {
    for (size_t i = 0; i < map.keys.size(); ++i) {
      const Node& key = map.keys[i];
      const size_t before = report_.errors();
      if (choice != nullptr && key.text == "type") continue;  // done already
      if (Field* field = find(fields, key.text))
        apply(*field, map.items[i], joined(prefix, field->key), key.place);
      else
        unknown_key(key.place, key.text, fields, prefix, choice);
      if (prefix.empty() && report_.errors() > before) be_unsure_of(key.text);
    }
  }

  /// Notes that something under this key is wrong. A section that nobody knows may be any.
  void be_unsure_of(const std::string& key) {
    const std::string section = key.substr(0, key.find('.'));
    Fields fields;
    config_.fields(fields);
    if (find(fields, section) == nullptr) unsure_everywhere_ = true;
    unsure_.insert(section);
  }

  /// Whether a rule about `key` reads nothing that is already reported as wrong: else it would
  /// judge a default that nobody asked for.
  bool is_sure(const std::string& key) const {
    // Sections whose rules compare their values with one another's.
    static const std::vector<std::set<std::string>> together{
        {"data", "model"}, {"train", "optim"}, {"sample", "diffusion"}};
    const std::string section = key.substr(0, key.find('.'));
    if (unsure_everywhere_ || unsure_.contains(section)) return false;
    return std::none_of(together.begin(), together.end(), [&](const std::set<std::string>& group) {
      return group.contains(section) &&
             std::any_of(group.begin(), group.end(), [&](const std::string& other) {
               return unsure_.contains(other);
             });
    });
  }

  void apply_path(const std::string& path,
                  size_t begin,
                  size_t source,
                  Fields& fields,
                  const std::string& prefix,
                  const Node& value,
                  ChoiceField* choice = nullptr) {
    const size_t dot = path.find('.', begin);
    const std::string key = path.substr(begin, dot == std::string::npos ? dot : dot - begin);
    const Place place{source, 0, begin, std::max<size_t>(1, key.size())};
    if (choice != nullptr && key == "type" && dot == std::string::npos) {
      select(*choice, value, prefix, place);
      return;
    }
    Field* field = find(fields, key);
    if (field == nullptr) {
      unknown_key(place, key, fields, prefix, choice);
      return;
    }
    const std::string full = joined(prefix, key);
    if (dot == std::string::npos) {
      apply(*field, value, full, place);
      return;
    }
    Fields inner;
    if (auto* section = std::get_if<SectionField>(&field->value)) {
      section->fields(inner);
      apply_path(path, dot + 1, source, inner, full, value);
    } else if (auto* axis = std::get_if<ChoiceField>(&field->value)) {
      axis->fields(inner);
      apply_path(path, dot + 1, source, inner, full, value, axis);
    } else {
      report_.error(
          place, "'" + full + "' is a value: it has no keys of its own", "write " + full + "=...");
    }
  }

  void wrong(const Node& node,
             const Place& key,
             const std::string& message,
             const std::string& hint = {}) {
    if (node.kind == Node::Kind::invalid) return;
    report_.error(node.kind == Node::Kind::null ? key : node.place, message, hint);
  }

  void apply(Field& field, const Node& node, const std::string& key, const Place& place) {
    places_[key] = node.kind == Node::Kind::null ? place : node.place;
    if (std::holds_alternative<SectionField>(field.value)) places_[key] = place;
    std::visit(
        Overloaded{
            [&](bool* out) { read_bool(node, key, place, *out); },
            [&](int64_t* out) { read_int(field, node, key, place, "an integer", *out); },
            [&](double* out) { read_double(field, node, key, place, *out); },
            [&](std::string* out) { read_string(field, node, key, place, *out); },
            [&](std::vector<int64_t>* out) {
              read_list(field, node, key, place, *out, [&](const Node& item, int64_t& v) {
                return read_int(field, item, key, place, "a list of integers", v);
              });
            },
            [&](std::vector<double>* out) {
              read_list(field, node, key, place, *out, [&](const Node& item, double& v) {
                return read_double(field, item, key, place, v);
              });
            },
            [&](std::optional<int64_t>* out) {
              if (node.kind == Node::Kind::scalar && node.text == "auto") {
                out->reset();
                return;
              }
              int64_t number = 0;
              if (read_int(field, node, key, place, "an integer or auto", number)) *out = number;
            },
            [&](EnumField& e) {
              if (node.kind == Node::Kind::scalar &&
                  std::find(e.names.begin(), e.names.end(), node.text) != e.names.end()) {
                e.set(node.text);
                return;
              }
              std::vector<Suggestion> names;
              for (const std::string& name : e.names) names.push_back({name, {}});
              wrong(node,
                    place,
                    "'" + key + "' must be one of " + list_of(e.names) + ", got " + described(node),
                    node.kind == Node::Kind::scalar ? did_you_mean(closest_name(node.text, names))
                                                    : "");
            },
            [&](ChoiceField& choice) { read_choice(choice, node, key, place); },
            [&](SectionField& section) {
              if (node.kind == Node::Kind::null) return;  // `optim:` with every line commented out
              if (node.kind != Node::Kind::map) {
                wrong(node,
                      place,
                      "'" + key + "' is a section: it needs keys below it, got " + described(node));
                return;
              }
              Fields inner;
              section.fields(inner);
              apply_map(node, inner, key, nullptr);
            }},
        field.value);
  }

  void read_bool(const Node& node, const std::string& key, const Place& place, bool& out) {
    const auto value = node.kind == Node::Kind::scalar ? parse_bool(node.text) : std::nullopt;
    if (value && !node.quoted) {
      out = *value;
      return;
    }
    std::string hint;
    if (node.kind == Node::Kind::scalar) {
      if (value) hint = "remove the quotes";
      for (const char* word : {"yes", "on", "y", "1"})
        if (!same_name(node.text, {{word, {}}}).empty()) hint = "write true";
      for (const char* word : {"no", "off", "n", "0"})
        if (!same_name(node.text, {{word, {}}}).empty()) hint = "write false";
      if (hint.empty()) hint = did_you_mean(closest_name(node.text, {{"true", {}}, {"false", {}}}));
    }
    wrong(node, place, "'" + key + "' must be true or false, got " + described(node), hint);
  }

  bool within(const Field& field, const Node& node, const std::string& key, double value) {
    const bool low = field.open_min ? value > field.min : value >= field.min;
    const bool high = field.open_max ? value < field.max : value <= field.max;
    if (low && high) return true;
    report_.error(node.place,
                  "'" + key + "' must be " + bounds_text(field) + ", got " + excerpt(node.text));
    return false;
  }

  bool read_int(const Field& field,
                const Node& node,
                const std::string& key,
                const Place& place,
                const std::string& wanted,
                int64_t& out) {
    const bool plain = node.kind == Node::Kind::scalar && !node.quoted;
    int64_t value = 0;
    const Parsed parsed = plain ? parse_int(node.text, value) : Parsed::not_a_number;
    if (parsed == Parsed::ok) {
      // The bounds are doubles: exact for every bound in use.
      if (!within(field, node, key, static_cast<double>(value))) return false;
      out = value;
      return true;
    }
    if (parsed == Parsed::out_of_range) {
      wrong(node, place, "'" + key + "' is too large for 64 bits: " + excerpt(node.text));
      return false;
    }
    wrong(node,
          place,
          "'" + key + "' must be " + wanted + ", got " + described(node),
          number_hint(field, node));
    return false;
  }

  bool read_double(const Field& field,
                   const Node& node,
                   const std::string& key,
                   const Place& place,
                   double& out) {
    const bool plain = node.kind == Node::Kind::scalar && !node.quoted;
    double value = 0;
    const Parsed parsed = plain ? parse_double(node.text, value) : Parsed::not_a_number;
    if (parsed == Parsed::out_of_range || (parsed == Parsed::ok && !std::isfinite(value))) {
      wrong(node, place, "'" + key + "' must be a finite number, got " + excerpt(node.text));
      return false;
    }
    if (parsed == Parsed::ok) {
      if (!within(field, node, key, value)) return false;
      out = value;
      return true;
    }
    wrong(node,
          place,
          "'" + key + "' must be a number, got " + described(node),
          number_hint(field, node));
    return false;
  }

  /// For text that is nearly a number.
  static std::string number_hint(const Field& field, const Node& node) {
    if (node.kind == Node::Kind::null &&
        std::holds_alternative<std::optional<int64_t>*>(field.value))
      return "write auto";
    if (node.kind != Node::Kind::scalar) return {};
    double value = 0;
    if (node.quoted && parse_double(node.text, value) == Parsed::ok) return "remove the quotes";
    std::string bare;
    for (const char c : node.text)
      if (c != '_' && c != ',' && c != ' ' && c != '\'') bare += c;
    if (bare != node.text && parse_double(bare, value) == Parsed::ok)
      return "write " + (node.text.find(',') == std::string::npos ? bare : "it without commas");
    return {};
  }

  void read_string(const Field& field,
                   const Node& node,
                   const std::string& key,
                   const Place& place,
                   std::string& out) {
    if (node.kind == Node::Kind::null) {
      const std::string word = node.place.source == file_ ? "\"\"" : "'\"\"'";
      wrong(node, place, "'" + key + "' has no value", "write " + word + " for empty text");
      return;
    }
    if (node.kind != Node::Kind::scalar) {
      wrong(node, place, "'" + key + "' must be text, got " + described(node));
      return;
    }
    std::string why;
    if (find_unprintable(node.text, why) != std::string::npos) {
      wrong(node, place, "'" + key + "' must not hold a " + why);
      return;
    }
    out = field.is_path && !node.text.empty() ? resolve(node, key) : node.text;
  }

  std::string resolve(const Node& node, const std::string& key) {
    fs::path path = node.text;
    const char* home = std::getenv("HOME");
    if (home != nullptr && node.text.starts_with("~/")) path = fs::path(home) / node.text.substr(2);
    if (path.is_absolute()) return path.string();
    std::error_code ignored;  // a working folder that is gone: what opens the file says so
    const fs::path whole = fs::absolute(base_, ignored) / path;
    // People often mean the folder that they are in; a file that says so from elsewhere must not
    // change.
    if (!report_.is_override(node.place.source) && !fs::exists(whole, ignored) &&
        fs::exists(path, ignored))
      report_.warning(
          node.place,
          "'" + key + "' is relative to the folder of this file, where it does not exist",
          "it exists relative to the current folder: write " +
              format_string(fs::absolute(path).string()));
    // `a/link/../b` is not `a/b` where link points elsewhere: dots are only removed where that is
    // harmless.
    const fs::path tidy = whole.lexically_normal();
    const bool same = fs::weakly_canonical(tidy, ignored) == fs::weakly_canonical(whole, ignored);
    std::string out = (same ? tidy : whole).string();
    if (out.size() > 1 && out.back() == '/') out.pop_back();
    return out;
  }

  template <class T, class Read>
  void read_list(const Field& field,
                 const Node& node,
                 const std::string& key,
                 const Place& place,
                 std::vector<T>& out,
                 const Read& read) {
    std::vector<T> values;
    if (node.kind == Node::Kind::scalar && field.scalar_ok) {
      T value{};
      if (read(node, value)) out = {value};
      return;
    }
    if (node.kind != Node::Kind::sequence) {
      wrong(node,
            place,
            "'" + key + "' must be a list of numbers, got " + described(node),
            "e.g. " + (out.empty() ? "[1, 2]" : value_text(field)));
      return;
    }
    bool good = true;
    for (const Node& item : node.items) {
      T value{};
      good = read(item, value) && good;
      values.push_back(value);
    }
    if (!good) return;
    if (values.size() < field.min_items || values.size() > field.max_items)
      wrong(node,
            place,
            "'" + key + "' must have " + item_count_text(field) +
                (field.max_items == 1 ? " number" : " numbers") + ", got " +
                std::to_string(values.size()));
    else
      out = std::move(values);
  }

  /// Selects the row that `node` names. The row's options get their defaults.
  bool select(ChoiceField& choice, const Node& node, const std::string& key, const Place& place) {
    std::vector<std::string> names;
    std::vector<Suggestion> candidates;
    for (const RowInfo& row : choice.rows) {
      names.push_back(row.name);
      candidates.push_back({row.name, {}});
    }
    if (node.kind == Node::Kind::scalar &&
        std::find(names.begin(), names.end(), node.text) != names.end()) {
      choice.select(node.text);
      std::erase_if(places_, [&](const auto& entry) { return entry.first.starts_with(key + "."); });
      places_[key] = node.place;
      return true;
    }
    wrong(node,
          place,
          "'" + key + "' must be one of " + list_of(names) + ", got " + described(node),
          node.kind == Node::Kind::scalar ? did_you_mean(closest_name(node.text, candidates)) : "");
    return false;
  }

  void read_choice(ChoiceField& choice,
                   const Node& node,
                   const std::string& key,
                   const Place& place) {
    if (node.kind != Node::Kind::map) {
      select(choice, node, key, place);
      return;
    }
    for (size_t i = 0; i < node.keys.size(); ++i)
      if (node.keys[i].text == "type" && !select(choice, node.items[i], key, node.keys[i].place))
        return;
    Fields options;
    choice.fields(options);
    apply_map(node, options, key, &choice);
  }

  static bool is_required(const Field& field, Fields& beside) {
    if (!field.required || field.unless_key.empty()) return field.required;
    const Field* other = find(beside, field.unless_key);
    DIFFUSE_CHECK(other != nullptr);
    return value_text(*other) != field.unless_value;
  }

  void check_required(Fields& fields, const std::string& prefix) {
    for (Field& field : fields.list()) {
      const std::string key = joined(prefix, field.key);
      Fields inner;
      if (auto* section = std::get_if<SectionField>(&field.value)) {
        section->fields(inner);
        check_required(inner, key);
      } else if (auto* choice = std::get_if<ChoiceField>(&field.value)) {
        choice->fields(inner);
        check_required(inner, key);
      } else if (auto** text = std::get_if<std::string*>(&field.value);
                 text && (*text)->empty() && is_required(field, fields) && is_sure(key)) {
        const auto at = places_.find(places_.contains(key) ? key : prefix);
        report_.error(
            at == places_.end() ? Place{file_} : at->second,
            "'" + key + "' must be set: " + field.help,
            "e.g. --set " + key + "=" + (field.key == "path" ? "pictures" : "numbers.txt"));
        const bool of_axis = prefix.find('.') != std::string::npos;
        if (of_axis) be_unsure_of(key);  // its rules cannot be judged without the option
      }
    }
  }

  void check_rules() {
    for (const Finding& finding : check(config_)) {
      if (!is_sure(finding.key)) continue;
      const auto at = places_.find(finding.key);
      const bool known = at != places_.end();
      const Place place = known ? at->second : Place{file_};
      const std::string message =
          "'" + finding.key + "'" + (known ? ": " : " (default): ") + finding.message +
          (*finding.code == '\0' ? "" : std::string(" [") + finding.code + "]");
      if (finding.error)
        report_.error(place, message);
      else
        report_.warning(place, message);
    }
  }

  Report report_;
  Config config_;
  std::vector<KnownKey> known_;
  std::map<std::string, Place> places_;  // of the values that a file or an override set
  std::set<std::string> unsure_;         // sections with an error in them
  bool unsure_everywhere_ = false;
  size_t file_ = 0;
  fs::path base_;
};

}  // namespace

LoadedConfig load_config_text(std::string_view text,
                              const std::string& name,
                              const fs::path& base_folder,
                              const std::vector<Override>& overrides) {
  Loader loader;
  loader.read_file(text, name, base_folder);
  for (const Override& override : overrides) loader.apply_override(override);
  return loader.finish();
}

std::string read_config(const fs::path& file) {
  std::error_code ignored;
  if (const auto bytes = fs::file_size(file, ignored); !ignored && bytes > kMaxConfigBytes) {
    Report report;
    report.error({report.add_source(file.string(), "", false)}, too_large_text(bytes));
    throw ConfigError(report.error_text());
  }
  return read_file(file, Exit::config, kMaxConfigBytes);
}

LoadedConfig load_config(const fs::path& file, const std::vector<Override>& overrides) {
  return load_config_text(
      read_config(file), file.string(), fs::absolute(file).parent_path(), overrides);
}

}  // namespace diffuse
