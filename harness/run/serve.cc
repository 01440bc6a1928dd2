// What a worker process does with its cases, one line of JSON each.
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <ostream>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/run/worker.h"

namespace tandem {
namespace {

/// With the status that validate() would find.
nlohmann::json supported_line(Worker& worker, const Case& c) {
  nlohmann::json line = {{"id", case_id(c)}, {"status", "ok"}, {"reason", nullptr}};
  const auto refuse = [&](Status status, const Error& e) {
    line["status"] = status_name(status);
    line["reason"] = e.what();
  };
  try {
    worker.check_supported(c);
  } catch (const ImpossibleCase& e) {
    refuse(Status::kSkipped, e);
  } catch (const OutOfMemory& e) {
    refuse(Status::kOom, e);
  } catch (const Error& e) {
    refuse(Status::kError, e);
  }
  return line;
}

}  // namespace

void serve_cases(Worker& worker, const std::string& cases_path, ServeMode mode, std::ostream& out,
                 ProfilePass pass) {
  std::ifstream in(cases_path);
  if (!in) throw UsageError(fmt::format("--cases: cannot read '{}'", cases_path));
  const std::string text(std::istreambuf_iterator<char>(in), {});
  nlohmann::json cases;
  try {
    cases = parse_json(text);
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("--cases: '{}': {}", cases_path, e.what()));
  }
  if (!cases.is_array())
    throw UsageError(fmt::format("--cases: '{}' must hold a JSON array of cases", cases_path));
  const bool timed = mode == ServeMode::kMeasure;
  const auto validations = timed ? worker.read_validations() : std::map<std::string, Validation>{};
  auto line_of = [&](const Case& c) -> nlohmann::json {
    switch (mode) {
      case ServeMode::kSupported:
        return supported_line(worker, c);
      case ServeMode::kValidate:
        return validation_to_json(worker.validate_case(c));
      case ServeMode::kProfileSupported:
        return profile_supported(c, pass);
      case ServeMode::kProfile:
        return worker.profile_case(c, pass);
      case ServeMode::kMeasure:
        break;
    }
    const auto found = validations.find(case_id(c));
    Validation missing;
    missing.reason = "not validated: no line of validation.jsonl has this case";
    return record_to_json(worker.measure_case(c, found == validations.end() ? missing : found->second));
  };
  std::vector<Case> all;
  for (const auto& j : cases) all.push_back(case_from_json(j));
  if (timed) worker.expect(all);
  for (const Case& c : all) {
    out << line_of(c).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
    // The driver starts another process, and its launcher other ranks, for the cases that are left.
    if (worker.beyond_use()) throw Error(*worker.beyond_use());
  }
}

}  // namespace tandem
