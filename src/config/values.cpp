// SPDX-License-Identifier: MIT
#include "config/values.h"

#include <cmath>

#include "base/text.h"
#include "config/scalar.h"

namespace diffuse {
namespace {

std::string alternatives(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : "|") + name;
  return out;
}

}  // namespace

std::string joined(const std::string& prefix, const std::string& key) {
  return prefix.empty() ? key : prefix + "." + key;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

std::string value_text(const Field& field) {
  const auto list = [&](const auto& values, const auto& format) {
    if (field.scalar_ok && values.size() == 1) return format(values[0]);
    std::vector<std::string> texts;
    for (const auto v : values) texts.push_back(format(v));
    std::string out = "[";  // appended: GCC 12 warns wrongly of "[" + ...
    out += list_of(texts);
    out += "]";
    return out;
  };
  const auto integer = [](int64_t v) { return std::to_string(v); };
  return std::visit(Overloaded{[](bool* v) -> std::string { return *v ? "true" : "false"; },
                               [&](int64_t* v) { return integer(*v); },
                               [](double* v) { return format_double(*v); },
                               [](std::string* v) { return format_string(*v); },
                               [&](std::vector<int64_t>* v) { return list(*v, integer); },
                               [&](std::vector<double>* v) { return list(*v, format_double); },
                               [&](std::optional<int64_t>* v) -> std::string {
                                 return *v ? integer(**v) : "auto";
                               },
                               [](const EnumField& e) { return e.get(); },
                               [](const ChoiceField& c) { return c.get(); },
                               [](const SectionField&) { return std::string(); }},
                    field.value);
}

std::string type_text(const Field& field) {
  return std::visit(
      Overloaded{[](bool*) -> std::string { return "true|false"; },
                 [](int64_t*) -> std::string { return "integer"; },
                 [](double*) -> std::string { return "number"; },
                 [&](std::string*) -> std::string { return field.is_path ? "path" : "text"; },
                 [](std::vector<int64_t>*) -> std::string { return "list of integers"; },
                 [](std::vector<double>*) -> std::string { return "list of numbers"; },
                 [](std::optional<int64_t>*) -> std::string { return "integer|auto"; },
                 [](const EnumField& e) { return alternatives(e.names); },
                 [](const ChoiceField& c) {
                   std::vector<std::string> names;
                   for (const RowInfo& row : c.rows) names.push_back(row.name);
                   return alternatives(names);
                 },
                 [](const SectionField&) -> std::string { return "section"; }},
      field.value);
}

std::string bounds_text(const Field& field) {
  if (field.min == field.max) return shortest(field.min);
  std::string out;
  if (std::isfinite(field.min)) {
    out += field.open_min ? "> " : ">= ";
    out += shortest(field.min);
  }
  if (std::isfinite(field.max)) {
    if (!out.empty()) out += " and ";
    out += field.open_max ? "< " : "<= ";
    out += shortest(field.max);
  }
  return out;
}

std::string item_count_text(const Field& field) {
  const std::string low = std::to_string(field.min_items);
  if (field.min_items == field.max_items) return low;
  if (field.max_items == std::numeric_limits<size_t>::max()) return "at least " + low;
  return low + " to " + std::to_string(field.max_items);
}

SubFields sub_fields(const Field& field) {
  SubFields out;
  if (const auto* section = std::get_if<SectionField>(&field.value)) {
    out.has = true;
    section->fields(out.fields);
  } else if (const auto* choice = std::get_if<ChoiceField>(&field.value)) {
    out.has = true;
    choice->fields(out.fields);
  }
  return out;
}

}  // namespace diffuse
