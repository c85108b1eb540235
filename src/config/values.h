// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "base/fields.h"

// Fields as text: what the writer, the differences, the schema, the help and messages share.

namespace diffuse {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>  // GCC deduces this by itself, clang before 17 does not
Overloaded(Ts...)->Overloaded<Ts...>;

/// "optim" and "lr" -> "optim.lr".
std::string joined(const std::string& prefix, const std::string& key);

/// "a, b, c".
std::string list_of(const std::vector<std::string>& names);

/// The field's value as YAML; of an axis its row's name; of a section nothing.
std::string value_text(const Field& field);

/// "integer", "number", "true|false", "text", "list of integers", "integer|auto",
/// "linear|cosine|...".
std::string type_text(const Field& field);

/// "> 0 and <= 10", "1", "" without bounds.
std::string bounds_text(const Field& field);

/// "2", "1 to 8", "at least 1": how many items a list has.
std::string item_count_text(const Field& field);

/// The fields of a section or of an axis's selected row; null for a value.
struct SubFields {
  bool has = false;
  Fields fields;
};
SubFields sub_fields(const Field& field);

}  // namespace diffuse
