// SPDX-License-Identifier: MIT
#include "config/schema.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "config/load.h"

namespace diffuse {
namespace {

using Json = nlohmann::json;

/// The keywords of JSON schema draft-07 that the schema uses; any other is an error of the test.
bool valid(const Json& schema, const Json& value) {
  for (const auto& [keyword, rule] : schema.items()) {
    if (keyword == "$schema" || keyword == "title" || keyword == "description" ||
        keyword == "default" || keyword == "enumDescriptions")
      continue;
    if (keyword == "type") {
      const Json types = rule.is_array() ? rule : Json::array({rule});
      bool any = false;
      for (const Json& type : types)
        any = any || (type == "object" && value.is_object()) ||
              (type == "array" && value.is_array()) || (type == "string" && value.is_string()) ||
              (type == "boolean" && value.is_boolean()) || (type == "null" && value.is_null()) ||
              (type == "number" && value.is_number()) ||
              (type == "integer" && value.is_number_integer());
      if (!any) return false;
    } else if (keyword == "enum") {
      if (std::find(rule.begin(), rule.end(), value) == rule.end()) return false;
    } else if (keyword == "const") {
      if (value != rule) return false;
    } else if (keyword == "oneOf") {
      if (std::count_if(rule.begin(), rule.end(), [&](const Json& s) { return valid(s, value); }) !=
          1)
        return false;
    } else if (keyword == "anyOf") {
      if (std::none_of(rule.begin(), rule.end(), [&](const Json& s) { return valid(s, value); }))
        return false;
    } else if (keyword == "allOf") {
      if (!std::all_of(rule.begin(), rule.end(), [&](const Json& s) { return valid(s, value); }))
        return false;
    } else if (keyword == "properties") {
      if (!value.is_object()) continue;
      for (const auto& [key, sub] : rule.items())
        if (value.contains(key) && !valid(sub, value[key])) return false;
    } else if (keyword == "additionalProperties") {
      EXPECT_EQ(rule, Json(false));
      if (!value.is_object()) continue;
      for (const auto& item : value.items())
        if (!schema["properties"].contains(item.key())) return false;
    } else if (keyword == "required") {
      if (!value.is_object()) continue;
      for (const Json& key : rule)
        if (!value.contains(key)) return false;
    } else if (keyword == "minimum") {
      if (value.is_number() && value < rule) return false;
    } else if (keyword == "maximum") {
      if (value.is_number() && value > rule) return false;
    } else if (keyword == "exclusiveMinimum") {
      if (value.is_number() && value <= rule) return false;
    } else if (keyword == "exclusiveMaximum") {
      if (value.is_number() && value >= rule) return false;
    } else if (keyword == "minLength") {
      if (value.is_string() && value.get<std::string>().size() < rule.get<size_t>()) return false;
    } else if (keyword == "items") {
      if (value.is_array() &&
          !std::all_of(value.begin(), value.end(), [&](const Json& v) { return valid(rule, v); }))
        return false;
    } else if (keyword == "minItems") {
      if (value.is_array() && value.size() < rule.get<size_t>()) return false;
    } else if (keyword == "maxItems") {
      if (value.is_array() && value.size() > rule.get<size_t>()) return false;
    } else {
      ADD_FAILURE() << "keyword of the schema that the test does not know: " << keyword;
    }
  }
  return true;
}

const Json& schema() {
  static const Json parsed = Json::parse(config_schema());
  return parsed;
}

/// JSON is YAML, so the parser reads the very text that the schema judges.
void expect_agreement(const std::string& json, bool good) {
  EXPECT_EQ(valid(schema(), Json::parse(json)), good) << json;
  EXPECT_EQ(test::errors(json).empty(), good) << json << "\n" << test::errors(json);
}

TEST(Schema, IsDraft07WithHelpAndDefaults) {
  EXPECT_EQ(schema()["$schema"], "http://json-schema.org/draft-07/schema#");
  EXPECT_EQ(schema()["additionalProperties"], false);
  const Json& lr = schema()["properties"]["optim"]["properties"]["lr"];
  EXPECT_EQ(lr["type"], "number");
  EXPECT_EQ(lr["default"], 2e-4);
  EXPECT_EQ(lr["exclusiveMinimum"], 0);
  EXPECT_EQ(lr["description"], "learning rate of AdamW");
}

TEST(Schema, AgreesWithTheParser) {
  const auto with = [](const std::string& rest) {
    return R"({"data": {"path": "/p"}, )" + rest + "}";
  };
  for (const char* good : {R"("version": 1)",
                           R"("optim": {"lr": 0.001, "betas": [0.9, 0.99]})",
                           R"("optim": null)",
                           R"("train": {"micro_batch": "auto"})",
                           R"("train": {"micro_batch": 4})",
                           R"("diffusion": {"schedule": "cosine"})",
                           R"("diffusion": {"schedule": {"type": "cosine", "s": 0.01}})",
                           R"("diffusion": {"schedule": {"beta_end": 0.01}})",
                           R"("diffusion": {"schedule": {}})",
                           R"("model": {"attention_at": 16})",
                           R"("model": {"attention_at": []})",
                           R"("model": {"downsample": "resnet", "zero_init": false})"})
    expect_agreement(with(good), true);
  for (const char* bad : {R"("version": 2)",
                          R"("optim": {"lr": 0})",
                          R"("optim": {"lr": "fast"})",
                          R"("optim": {"betas": [0.9]})",
                          R"("optim": {"betas": [0.9, 1]})",
                          R"("optm": {})",
                          R"("optim": {"learning_rate": 1})",
                          R"("train": {"micro_batch": 0})",
                          R"("train": {"micro_batch": "all"})",
                          R"("train": {"steps": 1.5})",
                          R"("diffusion": {"schedule": "cosin"})",
                          R"("diffusion": {"schedule": {"type": "linear", "s": 1}})",
                          R"("diffusion": {"schedule": {"s": 0.01}})",
                          R"("diffusion": {"schedule": {"type": "table"}})",
                          R"("data": {"path": "/p", "size": [1, 2, 3]})",
                          R"("data": {"path": ""})",
                          R"("data": {"path": "/p", "flip": "yes"})",
                          R"("data": {"path": "/p", "cache": null})",
                          R"("run": 3)"})
    expect_agreement(
        std::string(bad).starts_with("\"data\"") ? std::string("{") + bad + "}" : with(bad), false);
  for (const char* good :
       {R"({"data": {"source": "points"}})",
        R"({"data": {"source": "points", "path": ""}})",
        R"({"data": {"source": "points", "points": "gaussian"}})",
        R"({"data": {"source": "points", "points": {"type": "mixture", "modes": 5}}})",
        R"({"data": {"source": "images", "path": "/p"}, "mlp": null})"})
    expect_agreement(good, true);
  for (const char* bad : {R"({"data": {"source": "images"}})",
                          R"({"data": {"source": "images", "path": ""}})",
                          R"({"data": {"source": "dots"}})",
                          R"({"data": {"points": "moons"}})",
                          R"({"data": {"source": "points", "points": {"modes": 5}}})",
                          R"({"data": {"source": "points"}, "mlp": {"layers": 0}})"})
    expect_agreement(bad, false);
  expect_agreement("{}", false);
  expect_agreement(R"({"data": {}})", false);
}

TEST(Schema, EveryKeyAndBoundAgrees) {
  for (const KeyHelp& key : config_keys()) {
    const size_t dot = key.key.find('.');
    if (dot == std::string::npos || key.key.find('.', dot + 1) != std::string::npos) continue;
    const std::string section = key.key.substr(0, dot), leaf = key.key.substr(dot + 1);
    const Json& field = schema()["properties"][section]["properties"].at(leaf);
    EXPECT_FALSE(key.help.empty()) << key.key;
    for (const auto& [bound, wrong] : {std::pair{"minimum", -1.0},
                                       {"maximum", 1.0},
                                       {"exclusiveMinimum", 0.0},
                                       {"exclusiveMaximum", 0.0}}) {
      if (!field.contains(bound)) continue;
      Json value = field[bound];
      if (wrong != 0)
        value = field["type"] == "integer"
                    ? Json(value.get<int64_t>() + static_cast<int64_t>(wrong))
                    : Json(value.get<double>() + wrong);
      EXPECT_FALSE(valid(field, value)) << key.key << " " << value;
      EXPECT_NE(test::errors(test::kMinimal, {key.key + "=" + value.dump()})
                    .find("'" + key.key + "' must be "),
                std::string::npos)
          << key.key << "=" << value << "\n"
          << test::errors(test::kMinimal, {key.key + "=" + value.dump()});
    }
    if (key.key == "data.path") continue;
    // The default, as it is printed, is what the schema says it is.
    EXPECT_TRUE(valid(field, field.at("default"))) << key.key;
    EXPECT_EQ(test::errors(test::kMinimal, {key.key + "=" + key.value}), "")
        << key.key << "=" << key.value;
  }
}

}  // namespace
}  // namespace diffuse
