// SPDX-License-Identifier: MIT
#include "config/schema.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "config/values.h"

namespace diffuse {
namespace {

using Json = nlohmann::ordered_json;

Json object_schema(const Fields& fields);

void add_bounds(const Field& field, Json& out) {
  const auto number = [](double v) {
    return v == std::floor(v) && std::abs(v) < 1e15 ? Json(static_cast<int64_t>(v)) : Json(v);
  };
  if (std::isfinite(field.min))
    out[field.open_min ? "exclusiveMinimum" : "minimum"] = number(field.min);
  if (std::isfinite(field.max))
    out[field.open_max ? "exclusiveMaximum" : "maximum"] = number(field.max);
}

Json bounded(const char* type, const Field& field) {
  Json out{{"type", type}};
  add_bounds(field, out);
  return out;
}

template <class T>
Json list_schema(const char* type, const Field& field, const std::vector<T>& value) {
  Json list{{"type", "array"}, {"items", bounded(type, field)}};
  if (field.min_items > 0) list["minItems"] = field.min_items;
  if (field.max_items != std::numeric_limits<size_t>::max()) list["maxItems"] = field.max_items;
  Json out = list;
  if (field.scalar_ok) out = Json{{"oneOf", Json::array({bounded(type, field), list})}};
  out["default"] = value;
  return out;
}

Json choice_schema(const ChoiceField& choice) {
  Json names = Json::array();
  Json forms = Json::array();
  Json helps = Json::array();
  for (const RowInfo& row : choice.rows) {
    names.push_back(row.name);
    helps.push_back(row.help + (row.reference.empty() ? "" : " (" + row.reference + ")"));
  }
  forms.push_back({{"type", "string"}, {"enum", names}, {"enumDescriptions", helps}});
  for (size_t i = 0; i < choice.rows.size(); ++i) {
    const RowInfo& row = choice.rows[i];
    Fields options;
    choice.row_fields(row.name, options);
    const Json of_options = object_schema(options);
    Json form{{"type", "object"}, {"description", helps[i]}};
    form["properties"] = Json{{"type", {{"const", row.name}}}};
    form["properties"].update(of_options["properties"]);
    Json required = Json::array();
    // A map without `type` sets options of the row that is the default.
    if (row.name != choice.get()) required.push_back("type");
    if (of_options.contains("required"))
      for (const Json& name : of_options["required"]) required.push_back(name);
    if (!required.empty()) form["required"] = required;
    form["additionalProperties"] = false;
    forms.push_back(form);
  }
  return {{"oneOf", forms}, {"default", choice.get()}};
}

/// Whether an object's schema does not accept an empty object.
bool demands_something(const Json& schema) {
  return schema.contains("required") || schema.contains("allOf");
}

Json field_schema(const Field& field) {
  Json out = std::visit(
      Overloaded{
          [](bool* v) {
            return Json{{"type", "boolean"}, {"default", *v}};
          },
          [&](int64_t* v) {
            Json s = bounded("integer", field);
            s["default"] = *v;
            return s;
          },
          [&](double* v) {
            Json s = bounded("number", field);
            s["default"] = *v;
            return s;
          },
          [&](std::string* v) {
            Json s{{"type", "string"}};
            if (field.required && field.unless_key.empty())
              s["minLength"] = 1;
            else
              s["default"] = *v;
            return s;
          },
          [&](std::vector<int64_t>* v) { return list_schema("integer", field, *v); },
          [&](std::vector<double>* v) { return list_schema("number", field, *v); },
          [&](std::optional<int64_t>* v) {
            Json s{{"oneOf", Json::array({Json{{"const", "auto"}}, bounded("integer", field)})}};
            s["default"] = *v ? Json(**v) : Json("auto");
            return s;
          },
          [](const EnumField& e) {
            return Json{{"type", "string"}, {"enum", e.names}, {"default", e.get()}};
          },
          [](const ChoiceField& choice) { return choice_schema(choice); },
          [](const SectionField& section) {
            Fields inner;
            section.fields(inner);
            Json s = object_schema(inner);
            // `optim:` with every line commented out; not where something has to be set.
            if (!demands_something(s)) s["type"] = Json::array({"object", "null"});
            return s;
          }},
      field.value);
  out["description"] = field.help;
  return out;
}

Json object_schema(const Fields& fields) {
  Json properties = Json::object();
  Json required = Json::array();
  Json alternatives = Json::array();
  for (const Field& field : fields.list()) {
    properties[field.key] = field_schema(field);
    if (!field.unless_key.empty())
      alternatives.push_back(
          {{"anyOf",
            Json::array({Json{{"properties", {{field.unless_key, {{"const", field.unless_value}}}}},
                              {"required", Json::array({field.unless_key})}},
                         Json{{"properties", {{field.key, {{"minLength", 1}}}}},
                              {"required", Json::array({field.key})}}})}});
    else if (field.required || demands_something(properties[field.key]))
      required.push_back(field.key);
  }
  Json out{{"type", "object"}, {"properties", properties}};
  if (!required.empty()) out["required"] = required;
  if (!alternatives.empty()) out["allOf"] = alternatives;
  out["additionalProperties"] = false;
  return out;
}

void collect(const Fields& fields, const std::string& prefix, std::vector<KeyHelp>& out) {
  for (const Field& field : fields.list()) {
    const std::string key = joined(prefix, field.key);
    if (const auto* section = std::get_if<SectionField>(&field.value)) {
      Fields inner;
      section->fields(inner);
      collect(inner, key, out);
      continue;
    }
    std::string help = field.help;
    if (const std::string bounds = bounds_text(field); !bounds.empty()) help += " (" + bounds + ")";
    out.push_back({key, type_text(field), value_text(field), help});
    const auto* choice = std::get_if<ChoiceField>(&field.value);
    if (choice == nullptr) continue;
    std::vector<KeyHelp> options;
    for (const RowInfo& row : choice->rows) {
      Fields of_row;
      choice->row_fields(row.name, of_row);
      std::vector<KeyHelp> some;
      collect(of_row, key, some);
      for (KeyHelp& option : some) {
        option.help = "with " + row.name + ": " + option.help;
        options.push_back(std::move(option));
      }
    }
    for (KeyHelp& option : options) {  // several rows may have an option of one name
      KeyHelp* same = nullptr;
      for (KeyHelp& known : out)
        if (known.key == option.key) same = &known;
      if (same == nullptr) {
        out.push_back(std::move(option));
      } else {
        if (same->value != option.value) same->value += " or " + option.value;
        same->help += "; " + option.help;
      }
    }
  }
}

}  // namespace

std::string config_schema() {
  Config config;
  Fields fields;
  config.fields(fields);
  Json out{
      {"$schema", "http://json-schema.org/draft-07/schema#"},
      {"title", "diffuse config"},
      {"description",
       "What a run of diffuse is made from. Every key has a default but those that are required."}};
  out.update(object_schema(fields));
  return out.dump(2) + "\n";
}

std::vector<KeyHelp> config_keys() {
  Config config;
  Fields fields;
  config.fields(fields);
  std::vector<KeyHelp> out;
  collect(fields, "", out);
  return out;
}

}  // namespace diffuse
