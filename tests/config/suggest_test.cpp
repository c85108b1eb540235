// SPDX-License-Identifier: MIT
#include "config/suggest.h"

#include <gtest/gtest.h>

#include <set>

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

TEST(Suggest, EverySlipOfEveryKeyFindsTheKey) {
  size_t all = 0, right = 0;
  std::string wrong;
  for (const KeyHelp& key : config_keys()) {
    const size_t dot = key.key.rfind('.');
    const std::string leaf = key.key.substr(dot + 1);
    const std::string section = dot == std::string::npos ? "" : key.key.substr(0, dot);
    const bool option = section.find('.') != std::string::npos;
    if (leaf.size() < 4 || option) continue;
    for (const std::string& typo : typos(leaf, "aes_")) {
      const std::string full = section.empty() ? typo : section + "." + typo;
      const std::string report = test::errors(test::kMinimal, {full + "=1"});
      if (report.find("unknown key") == std::string::npos) continue;  // another key's name
      ++all;
      if (report.find("did you mean '" + leaf + "'?") != std::string::npos)
        ++right;
      else
        wrong += full + " ";
    }
  }
  ASSERT_GT(all, 5000u);
  EXPECT_GE(static_cast<double>(right), 0.99 * static_cast<double>(all)) << wrong;
}

}  // namespace
}  // namespace diffuse
