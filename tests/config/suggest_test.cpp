// SPDX-License-Identifier: MIT
#include "config/suggest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "config/load.h"
#include "config/schema.h"

namespace diffuse {
namespace {

TEST(Suggest, Distance) {
  EXPECT_EQ(edit_distance("", "", 3), 0u);
  EXPECT_EQ(edit_distance("schedule", "schedule", 3), 0u);
  EXPECT_EQ(edit_distance("scheduel", "schedule", 3), 1u);  // a swap of neighbours is one edit
  EXPECT_EQ(edit_distance("kitten", "sitting", 3), 3u);
  EXPECT_EQ(edit_distance("ab", "abcdef", 3), 4u);  // beyond the limit
  EXPECT_EQ(edit_distance("", "abc", 3), 3u);
}

TEST(Suggest, Names) {
  const std::vector<Suggestion> names{
      {"epsilon", ""}, {"velocity", ""}, {"x0", ""}, {"lr_rate", "lr"}};
  EXPECT_EQ(closest_name("epsilo", names), "epsilon");
  EXPECT_EQ(closest_name("v", names), "velocity");  // the only one that starts so
  EXPECT_EQ(closest_name("Epsilon", names), "epsilon");
  EXPECT_EQ(closest_name("lr-rat", names), "lr");
  EXPECT_EQ(closest_name("zzz", names), "");
  EXPECT_EQ(closest_name("", names), "");
  EXPECT_EQ(closest_name(std::string(100000, 'e'), names), "");
  EXPECT_EQ(same_name("LR-Rate", names), "lr");
  EXPECT_EQ(same_name("epsilo", names), "");
}

/// Every text that is one edit away from `word`; `letters` are those that get in by mistake.
std::set<std::string> typos(const std::string& word, const std::string& letters) {
  std::set<std::string> out;
  for (size_t i = 0; i < word.size(); ++i) {
    out.insert(word.substr(0, i) + word.substr(i + 1));
    for (const char c : letters) out.insert(word.substr(0, i) + c + word.substr(i + 1));
    if (i + 1 < word.size()) {
      std::string swapped = word;
      std::swap(swapped[i], swapped[i + 1]);
      out.insert(swapped);
    }
  }
  for (size_t i = 0; i <= word.size(); ++i)
    for (const char c : letters) out.insert(word.substr(0, i) + c + word.substr(i));
  out.erase(word);
  return out;
}

/// The override that selects the row of an axis whose option `key` is; none for another key.
std::vector<std::string> row_of(const KeyHelp& key) {
  const size_t dot = key.key.rfind('.');
  if (dot == std::string::npos || key.key.find('.') == dot) return {};
  static constexpr std::string_view kWith = "with ";  // the help says: "with cosine: ..."
  const std::string row = key.help.substr(kWith.size(), key.help.find(':') - kWith.size());
  return {key.key.substr(0, dot) + "=" + row};
}

/// The suggestion for each override, in order; "" for none. Each must be an error.
std::vector<std::string> suggestions(const std::vector<std::string>& set, size_t skip) {
  const std::string report = test::errors(test::kMinimal, set);
  std::vector<std::string> out;
  for (size_t i = skip; i < set.size(); ++i) {
    const std::string name = "--set[" + std::to_string(i + 1) + "]:";
    const size_t begin = report.find(name);
    if (begin == std::string::npos) {
      out.emplace_back("(no error)");
      continue;
    }
    const size_t end = std::min(report.find("--set[", begin + 1), report.size());
    const std::string part = report.substr(begin, end - begin);
    static constexpr std::string_view kAsk = "did you mean '";
    const size_t at = part.find(kAsk);
    out.push_back(
        at == std::string::npos
            ? ""
            : part.substr(at + kAsk.size(), part.find('\'', at + kAsk.size()) - at - kAsk.size()));
  }
  return out;
}

TEST(Suggest, EverySlipOfEveryKeyFindsTheKey) {
  std::vector<KeyHelp> all_keys = config_keys();
  std::set<std::string> keys;
  for (const KeyHelp& key : all_keys) keys.insert(key.key);
  std::set<std::string> sections;
  for (const std::string& key : keys)
    if (const size_t dot = key.find('.'); dot != std::string::npos)
      sections.insert(key.substr(0, dot));
  for (const std::string& section : sections) all_keys.push_back({section, "", "", ""});
  keys.merge(sections);
  size_t all = 0, right = 0;
  std::string wrong;
  for (const KeyHelp& key : all_keys) {
    const size_t dot = key.key.rfind('.');
    const std::string leaf = key.key.substr(dot + 1);
    if (leaf.size() < 4) continue;
    const std::string before = key.key.substr(0, dot == std::string::npos ? 0 : dot + 1);
    // The options of an axis are those of its row.
    std::vector<std::string> set = row_of(key);
    const size_t skip = set.size();
    std::vector<std::string> tried;
    const auto ask = [&] {
      const std::vector<std::string> got = suggestions(set, skip);
      for (size_t i = 0; i < tried.size(); ++i) {
        ++all;
        if (got[i] == leaf)
          ++right;
        else
          wrong += before + tried[i] + " (" + got[i] + ") ";
      }
      set.resize(skip);
      tried.clear();
    };
    for (const std::string& typo : typos(leaf, "abcdefghijklmnopqrstuvwxyz_")) {
      if (keys.contains(before + typo)) continue;  // another key's name
      set.push_back(before + typo + "=1");
      tried.push_back(typo);
      if (tried.size() == 20) ask();  // as many errors as a report shows
    }
    ask();
  }
  EXPECT_GT(all, 50'000u);
  EXPECT_GE(static_cast<double>(right), 0.99 * static_cast<double>(all)) << wrong;
  RecordProperty("typos", std::to_string(all));
  RecordProperty("found", std::to_string(right));
}

}  // namespace
}  // namespace diffuse
