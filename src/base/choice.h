// SPDX-License-Identifier: MIT
#pragma once

#include <any>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fields.h"

// One axis of the objective = one table of rows; a row = a small struct that is its own options and
// is callable. A Choice is a value: the selected row and a copy of its options.

namespace diffuse {

template <class Signature>
class Choice;

template <class R, class... Args>
class Choice<R(Args...)> {
 public:
  struct Row {
    std::string name;
    std::string help;
    std::string reference;
    std::any defaults;
    void (*fields)(std::any&, Fields&);
    R (*call)(const std::any&, Args...);
  };
  using Table = std::vector<Row>;

  /// A table row for the options struct S: `void fields(Fields&)` and `R operator()(Args...)
  /// const`.
  template <class S>
  static Row row(std::string name, std::string help, std::string reference) {
    return Row{std::move(name),
               std::move(help),
               std::move(reference),
               std::any(S{}),
               [](std::any& options, Fields& f) { std::any_cast<S&>(options).fields(f); },
               [](const std::any& options, Args... args) -> R {
                 return std::any_cast<const S&>(options)(args...);
               }};
  }

  /// `table` must outlive the choice (tables are function-local statics); `name` must be in it.
  Choice(const Table& table, std::string_view name) : table_(&table) { select(name); }

  void select(std::string_view name) {
    const Row* found = nullptr;
    for (const Row& r : *table_)
      if (r.name == name) found = &r;
    DIFFUSE_CHECK(found != nullptr);
    row_ = found;
    options_ = row_->defaults;
  }

  const std::string& name() const { return row_->name; }
  const Row& row() const { return *row_; }

  /// The options struct, when the selected row's is S; else null.
  template <class S>
  S* options() {
    return std::any_cast<S>(&options_);
  }
  template <class S>
  const S* options() const {
    return std::any_cast<S>(&options_);
  }

  R operator()(Args... args) const { return row_->call(options_, args...); }

  void fields(Fields& f) { row_->fields(options_, f); }

  ChoiceField field() {
    ChoiceField out;
    for (const Row& r : *table_) out.rows.push_back({r.name, r.help, r.reference});
    out.get = [this] { return name(); };
    out.select = [this](const std::string& wanted) { select(wanted); };
    out.fields = [this](Fields& f) { fields(f); };
    // The options live as long as the table's defaults: callers only read keys, help and defaults.
    out.row_fields = [this](const std::string& wanted, Fields& f) {
      for (const Row& r : *table_)
        if (r.name == wanted) r.fields(const_cast<std::any&>(r.defaults), f);
    };
    return out;
  }

 private:
  const Table* table_;
  const Row* row_ = nullptr;
  std::any options_;
};

}  // namespace diffuse
