// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

// A struct with options lists its fields once, in `void fields(Fields& f)`. That one list serves
// the YAML parser, --set, the defaults, the JSON schema, the help and the resolved config
// (src/config).

namespace diffuse {

class Fields;

/// One row of an axis (schedule, target, ...) as the config sees it.
struct RowInfo {
  std::string name;
  std::string help;
  std::string reference;  // paper and place
};

/// An enumeration, read and written by name.
struct EnumField {
  std::vector<std::string> names;
  std::function<std::string()> get;
  std::function<void(const std::string&)> set;  // only with one of `names`
};

/// An axis: `{type: name, option: value, ...}` or just `name`. See base/choice.h.
struct ChoiceField {
  std::vector<RowInfo> rows;
  std::function<std::string()> get;
  std::function<void(const std::string&)> select;  // resets the options to the row's defaults
  std::function<void(Fields&)> fields;             // the options of the selected row
  std::function<void(const std::string&, Fields&)>
      row_fields;  // default options of any row; for the schema
};

/// A group of fields under one key.
struct SectionField {
  std::function<void(Fields&)> fields;
};

struct Field {
  using Value = std::variant<bool*,
                             int64_t*,
                             double*,
                             std::string*,
                             std::vector<int64_t>*,
                             std::vector<double>*,
                             std::optional<int64_t>*,  // none is written `auto`
                             EnumField,
                             ChoiceField,
                             SectionField>;
  std::string key;
  std::string help;
  Value value;

  double min =
      -std::numeric_limits<double>::infinity();  // bounds of numbers, and of each list element
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;  // min itself is not allowed
  bool open_max = false;
  size_t min_items = 0;  // bounds of a list's length
  size_t max_items = std::numeric_limits<size_t>::max();
  bool scalar_ok = false;  // a list that may be written as one scalar: `size: 32` is [32]
  bool is_path = false;    // a relative path is relative to the config file's folder
  bool required = false;   // has no usable default
  // Not required after all while the field `unless_key` beside it has the value `unless_value`.
  std::string unless_key, unless_value;
  bool affects_result = true;  // false: may differ on resume (logging, paths, devices, limits)
  std::vector<std::string> aliases;  // names that other tools use, for "did you mean"

  Field& at_least(double v) { return min = v, *this; }
  Field& above(double v) { return min = v, open_min = true, *this; }
  Field& at_most(double v) { return max = v, *this; }
  Field& below(double v) { return max = v, open_max = true, *this; }
  Field& items(size_t low, size_t high) { return min_items = low, max_items = high, *this; }
  Field& or_scalar() { return scalar_ok = true, *this; }
  Field& path() { return is_path = true, *this; }
  Field& must_be_set() { return required = true, *this; }
  Field& must_be_set_unless(std::string key_beside, std::string its_value) {
    unless_key = std::move(key_beside);
    unless_value = std::move(its_value);
    return required = true, *this;
  }
  Field& free_on_resume() { return affects_result = false, *this; }
  Field& also_called(std::vector<std::string> names) { return aliases = std::move(names), *this; }
};

/// Collects the fields of a struct, in order. The pointers stay valid as long as the struct does.
class Fields {
 public:
  template <class T>
  Field& operator()(T& value, std::string_view key, std::string_view help) {
    return add(key, help, Field::Value(&value));
  }

  /// An enum class with its names in one list.
  template <class E>
  Field& one_of(E& value,
                std::string_view key,
                std::vector<std::pair<E, std::string>> table,
                std::string_view help) {
    EnumField field;
    for (const auto& [e, name] : table) field.names.push_back(name);
    field.get = [&value, table] {
      for (const auto& [e, name] : table)
        if (e == value) return name;
      return std::string();
    };
    field.set = [&value, table](const std::string& wanted) {
      for (const auto& [e, name] : table)
        if (name == wanted) value = e;
    };
    return add(key, help, Field::Value(std::move(field)));
  }

  /// A struct with its own fields(Fields&).
  template <class S>
  Field& section(S& value, std::string_view key, std::string_view help) {
    return add(key, help, Field::Value(SectionField{[&value](Fields& f) { value.fields(f); }}));
  }

  /// An axis: a Choice (base/choice.h).
  template <class C>
  Field& choice(C& value, std::string_view key, std::string_view help) {
    return add(key, help, Field::Value(value.field()));
  }

  std::vector<Field>& list() { return list_; }
  const std::vector<Field>& list() const { return list_; }

 private:
  Field& add(std::string_view key, std::string_view help, Field::Value value) {
    Field field;
    field.key = key;
    field.help = help;
    field.value = std::move(value);
    list_.push_back(std::move(field));
    return list_.back();
  }
  std::vector<Field> list_;
};

}  // namespace diffuse
