// A validator for the part of JSON Schema (draft 2020-12) that record.schema.json, environment.schema.json and
// profile.schema.json use, so that the committed schema itself is what readers and writers are held to.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace tandem {

/// What is wrong with `value`, "case.batch: 0 is under the minimum of 1", or nothing. Throws Error for a
/// schema with a keyword that is not understood: nothing is passed unchecked.
std::optional<std::string> schema_error(const nlohmann::json& schema, const nlohmann::json& value);

/// The committed schemas, compiled in.
const nlohmann::json& record_schema();
const nlohmann::json& environment_schema();
const nlohmann::json& profile_schema();

/// "field: " of the first NaN or infinity in it, which JSON cannot say; or nothing.
std::optional<std::string> nonfinite_field(const nlohmann::json& value);

}  // namespace tandem
