// JSON from outside: files, and what other programs print, may hold anything.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

namespace tandem {

/// Parses one JSON value. Throws UsageError for text that is not JSON, that nests deeper than 64 (printing a value
/// recurses), or whose outermost object has a key twice.
nlohmann::json parse_json(std::string_view text);

/// As parse_json; where that throws, a discarded value: no object, no array, equal to nothing. For lines of other programs,
/// which are told apart from talk by what they hold.
nlohmann::json parse_json_or_discard(std::string_view text);

/// A value as a message can carry it: ASCII, cut after about a hundred characters.
std::string shown(const nlohmann::json& value);

}  // namespace tandem
