#include "harness/record/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include "harness/base/error.h"
#include "harness/sweep/pattern.h"
#include "schemas.h"  // generated: the texts of the committed schemas

namespace tandem {
namespace {

using nlohmann::json;

/// A long value is cut: messages go into one line of a record.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

bool has_type(const json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  if (type == "integer") {
    return value.is_number_integer() ||
           (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
  }
  throw Error(fmt::format("schema: unknown type '{}'", type));
}

bool matches(const std::string& expression, const std::string& text) {
  thread_local std::map<std::string, std::unique_ptr<Pattern>> compiled;
  std::unique_ptr<Pattern>& pattern = compiled[expression];
  if (!pattern) pattern = std::make_unique<Pattern>(expression);
  return pattern->in(text);
}

class Validator {
 public:
  explicit Validator(const json& root) : root_(root) {}

  std::optional<std::string> check(const json& schema, const json& value, const std::string& at) const {
    for (const auto& [keyword, rule] : schema.items()) {
      if (auto error = keyword == "additionalProperties" ? check_additional(schema, value, at)
                                                         : check_keyword(keyword, rule, value, at)) {
        return error;
      }
    }
    return std::nullopt;
  }

 private:
  using Result = std::optional<std::string>;

  static Result wrong(const std::string& at, const std::string& why) {
    return fmt::format("{}: {}", at.empty() ? "(top)" : at, why);
  }

  Result check_keyword(const std::string& keyword, const json& rule, const json& value,
                       const std::string& at) const {
    static const std::set<std::string> kSilent = {"$schema", "$id", "$defs", "title", "description"};
    if (kSilent.contains(keyword)) return std::nullopt;
    if (keyword == "$ref") return check_ref(rule.get<std::string>(), value, at);
    if (keyword == "type") return check_type(rule, value, at);
    if (keyword == "enum") {
      if (std::find(rule.begin(), rule.end(), value) != rule.end()) return std::nullopt;
      return wrong(at, fmt::format("{} is not one of {}", shown(value), rule.dump()));
    }
    if (keyword == "required" || keyword == "properties") return check_object(keyword, rule, value, at);
    if (keyword == "items" || keyword == "minItems" || keyword == "maxItems") {
      return check_array(keyword, rule, value, at);
    } else if (keyword == "pattern") {
      if (!value.is_string() || matches(rule.get<std::string>(), value.get<std::string>()))
        return std::nullopt;
      return wrong(at, fmt::format("{} does not match {}", shown(value), rule.get<std::string>()));
    } else if (keyword == "minimum") {
      if (!value.is_number() || value.get<double>() >= rule.get<double>()) return std::nullopt;
      return wrong(at, fmt::format("{} is under the minimum of {}", shown(value), rule.dump()));
    } else if (keyword == "maximum") {
      if (!value.is_number() || value.get<double>() <= rule.get<double>()) return std::nullopt;
      return wrong(at, fmt::format("{} is over the maximum of {}", shown(value), rule.dump()));
    } else if (keyword == "exclusiveMinimum") {
      if (!value.is_number() || value.get<double>() > rule.get<double>()) return std::nullopt;
      return wrong(at, fmt::format("{} is not more than {}", shown(value), rule.dump()));
    }
    throw Error(fmt::format("schema: keyword '{}' is not understood", keyword));
  }

  static Result check_additional(const json& schema, const json& value, const std::string& at) {
    const json& rule = schema.at("additionalProperties");
    if (!rule.is_boolean()) throw Error("schema: additionalProperties is understood as true or false only");
    if (rule.get<bool>() || !value.is_object()) return std::nullopt;
    const json known = schema.value("properties", json::object());
    for (const auto& [name, item] : value.items()) {
      if (!known.contains(name)) return wrong(at.empty() ? name : at + "." + name, "is not a known field");
    }
    return std::nullopt;
  }

  Result check_ref(const std::string& ref, const json& value, const std::string& at) const {
    if (!ref.starts_with("#/")) throw Error(fmt::format("schema: $ref '{}' is not understood", ref));
    return check(root_.at(json::json_pointer(ref.substr(1))), value, at);
  }

  static Result check_type(const json& rule, const json& value, const std::string& at) {
    const json types = rule.is_array() ? rule : json::array({rule});
    for (const auto& type : types) {
      if (has_type(value, type.get<std::string>())) return std::nullopt;
    }
    return wrong(at, fmt::format("{} is not of type {}", shown(value), rule.dump()));
  }

  Result check_object(const std::string& keyword, const json& rule, const json& value,
                      const std::string& at) const {
    if (!value.is_object()) return std::nullopt;
    if (keyword == "required") {
      for (const auto& name : rule) {
        const auto field = name.get<std::string>();
        if (!value.contains(field)) return wrong(at.empty() ? field : at + "." + field, "missing");
      }
      return std::nullopt;
    }
    for (const auto& [name, schema] : rule.items()) {
      const auto it = value.find(name);
      if (it == value.end()) continue;
      if (auto error = check(schema, *it, at.empty() ? name : at + "." + name)) return error;
    }
    return std::nullopt;
  }

  Result check_array(const std::string& keyword, const json& rule, const json& value,
                     const std::string& at) const {
    if (!value.is_array()) return std::nullopt;
    if (keyword == "minItems" || keyword == "maxItems") {
      const auto limit = rule.get<size_t>();
      if (keyword == "minItems" ? value.size() >= limit : value.size() <= limit) return std::nullopt;
      return wrong(at, fmt::format("{} items, {} is {}", value.size(), keyword, limit));
    }
    for (size_t i = 0; i < value.size(); ++i) {
      if (auto error = check(rule, value[i], fmt::format("{}[{}]", at, i))) return error;
    }
    return std::nullopt;
  }

  const json& root_;
};

}  // namespace

std::optional<std::string> schema_error(const json& schema, const json& value) {
  return Validator(schema).check(schema, value, "");
}

const json& record_schema() {
  static const json schema = json::parse(kRecordSchemaText);
  return schema;
}

const json& profile_schema() {
  static const json schema = json::parse(kProfileSchemaText);
  return schema;
}

const json& environment_schema() {
  static const json schema = json::parse(kEnvironmentSchemaText);
  return schema;
}

std::optional<std::string> nonfinite_field(const json& value) {
  if (value.is_number_float()) {
    return std::isfinite(value.get<double>()) ? std::nullopt : std::optional<std::string>("");
  }
  if (!value.is_structured()) return std::nullopt;
  for (const auto& [key, item] : value.items()) {
    if (const auto inner = nonfinite_field(item)) return inner->empty() ? key : key + "." + *inner;
  }
  return std::nullopt;
}

}  // namespace tandem
