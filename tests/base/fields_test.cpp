// SPDX-License-Identifier: MIT
#include "base/fields.h"

#include <gtest/gtest.h>

#include "base/choice.h"

namespace diffuse {
namespace {

enum class Colour { red, green };

struct Inner {
  int64_t depth = 3;
  void fields(Fields& f) { f(depth, "depth", "how deep").at_least(1).at_most(9); }
};

struct Outer {
  bool on = true;
  double rate = 0.5;
  std::vector<int64_t> sizes{1, 2};
  std::optional<int64_t> batch;
  Colour colour = Colour::green;
  Inner inner;
  void fields(Fields& f) {
    f(on, "on", "whether");
    f(rate, "rate", "how fast").above(0).below(1).also_called({"speed"});
    f(sizes, "sizes", "how large").items(1, 4).or_scalar().free_on_resume();
    f(batch, "batch", "how many").must_be_set().path();
    f.one_of(colour, "colour", {{Colour::red, "red"}, {Colour::green, "green"}}, "which");
    f.section(inner, "inner", "more");
  }
};

TEST(Fields, ListWhatTheStructHas) {
  Outer outer;
  Fields f;
  outer.fields(f);
  std::vector<std::string> keys;
  for (const Field& field : f.list()) keys.push_back(field.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"on", "rate", "sizes", "batch", "colour", "inner"}));
  EXPECT_EQ(f.list()[1].help, "how fast");

  *std::get<double*>(f.list()[1].value) = 0.25;
  EXPECT_EQ(outer.rate, 0.25);
  *std::get<std::optional<int64_t>*>(f.list()[3].value) = 4;
  EXPECT_EQ(outer.batch, 4);
}

TEST(Fields, CarryTheirRules) {
  Outer outer;
  Fields f;
  outer.fields(f);
  const Field &on = f.list()[0], &rate = f.list()[1], &sizes = f.list()[2], &batch = f.list()[3];
  EXPECT_EQ(on.min, -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(on.affects_result && !on.required && !on.is_path && !on.scalar_ok);
  EXPECT_TRUE(rate.min == 0 && rate.open_min && rate.max == 1 && rate.open_max);
  EXPECT_EQ(rate.aliases, std::vector<std::string>{"speed"});
  EXPECT_TRUE(sizes.min_items == 1 && sizes.max_items == 4 && sizes.scalar_ok &&
              !sizes.affects_result);
  EXPECT_TRUE(batch.required && batch.is_path);
}

TEST(Fields, EnumsGoByName) {
  Outer outer;
  Fields f;
  outer.fields(f);
  const auto& colour = std::get<EnumField>(f.list()[4].value);
  EXPECT_EQ(colour.names, (std::vector<std::string>{"red", "green"}));
  EXPECT_EQ(colour.get(), "green");
  colour.set("red");
  EXPECT_EQ(outer.colour, Colour::red);
}

TEST(Fields, SectionsNest) {
  Outer outer;
  Fields f, nested;
  outer.fields(f);
  std::get<SectionField>(f.list()[5].value).fields(nested);
  ASSERT_EQ(nested.list().size(), 1u);
  EXPECT_TRUE(nested.list()[0].min == 1 && nested.list()[0].max == 9 && !nested.list()[0].open_min);
  *std::get<int64_t*>(nested.list()[0].value) = 7;
  EXPECT_EQ(outer.inner.depth, 7);
}

struct Constant {
  double value = 2;
  void fields(Fields& f) { f(value, "value", "the result"); }
  double operator()(double) const { return value; }
};
struct Scaled {
  double factor = 3;
  void fields(Fields& f) { f(factor, "factor", "times this"); }
  double operator()(double x) const { return factor * x; }
};

using Rule = Choice<double(double)>;
const Rule::Table& rules() {
  static const Rule::Table table{Rule::row<Constant>("constant", "always the same", "folklore"),
                                 Rule::row<Scaled>("scaled", "linear", "folklore 2")};
  return table;
}

TEST(Choice, CallsTheSelectedRow) {
  Rule rule(rules(), "scaled");
  EXPECT_EQ(rule.name(), "scaled");
  EXPECT_EQ(rule.row().reference, "folklore 2");
  EXPECT_EQ(rule(5), 15);
  ASSERT_NE(rule.options<Scaled>(), nullptr);
  EXPECT_EQ(rule.options<Constant>(), nullptr);
  rule.options<Scaled>()->factor = -1;
  EXPECT_EQ(rule(5), -5);
  rule.select("constant");
  EXPECT_EQ(rule(5), 2);
  rule.select("scaled");
  EXPECT_EQ(rule(5), 15) << "selecting resets the options";
  EXPECT_THROW(rule.select("other"), std::logic_error);
  EXPECT_THROW(Rule(rules(), ""), std::logic_error);
}

TEST(Choice, IsAValue) {
  Rule a(rules(), "scaled");
  Rule b = a;
  b.options<Scaled>()->factor = 10;
  EXPECT_EQ(a(1), 3);
  EXPECT_EQ(b(1), 10);
  a = b;
  EXPECT_EQ(a(1), 10);
}

TEST(Choice, IsAFieldWithRows) {
  struct Options {
    Rule rule{rules(), "constant"};
    void fields(Fields& f) { f.choice(rule, "rule", "which rule"); }
  } options;
  Fields f;
  options.fields(f);
  const auto& field = std::get<ChoiceField>(f.list()[0].value);
  ASSERT_EQ(field.rows.size(), 2u);
  EXPECT_EQ(field.rows[1].name, "scaled");
  EXPECT_EQ(field.rows[1].help, "linear");
  EXPECT_EQ(field.get(), "constant");
  field.select("scaled");
  EXPECT_EQ(options.rule.name(), "scaled");

  Fields selected;
  field.fields(selected);
  ASSERT_EQ(selected.list().size(), 1u);
  *std::get<double*>(selected.list()[0].value) = 8;
  EXPECT_EQ(options.rule(1), 8);

  Fields others;
  field.row_fields("constant", others);
  ASSERT_EQ(others.list().size(), 1u);
  EXPECT_EQ(others.list()[0].key, "value");
}

}  // namespace
}  // namespace diffuse
