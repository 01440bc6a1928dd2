#include "harness/driver/duet/duet_state.h"

#include <fmt/format.h>

#include <set>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

constexpr const char* kSchema = "1.1.0";
constexpr const char* kSide[] = {"a", "b"};

json side_json(const DuetSide& side) {
  return {{"bin", side.bin_dir}, {"set", side.set}, {"env", side.environment}};
}

DuetSide side_of(const json& j) {
  return {.bin_dir = j.at("bin"), .set = j.at("set"), .environment = j.at("env")};
}

json look_json(const DuetLook& l) {
  return {{"look", l.look},   {"of", l.of},         {"pairs", l.pairs}, {"spent_s", l.spent_s},
          {"alpha", l.alpha}, {"counts", l.counts}, {"stop", l.stop},   {"exit_code", l.code}};
}

DuetLook look_of(const json& j) {
  return {.look = j.at("look"),
          .of = j.at("of"),
          .pairs = j.at("pairs"),
          .spent_s = j.at("spent_s"),
          .alpha = j.at("alpha"),
          .counts = j.at("counts"),
          .stop = j.at("stop"),
          .code = j.at("exit_code")};
}

json turn_json(const DuetTurn& t) {
  json j = {{"pair", t.pair}, {"group", t.group}, {"first", kSide[t.first]}};
  if (t.broken) j["broken"] = true;
  return j;
}

DuetTurn turn_of(const json& j) {
  return {.pair = j.at("pair"),
          .group = j.at("group"),
          .first = j.at("first") == kSide[1] ? 1 : 0,
          .broken = j.value("broken", false)};
}

}  // namespace

std::vector<std::string> DuetState::axes() const {
  std::set<std::string> names;
  for (const DuetSide& side : sides) {
    for (const auto& [name, value] : side.set) names.insert(name);
  }
  return {names.begin(), names.end()};
}

void write_duet(const fs::path& folder, const DuetState& s) {
  json turns = json::array(), taken = json::array(), left = json::object();
  for (const DuetTurn& t : s.turns) turns.push_back(turn_json(t));
  for (const DuetLook& l : s.taken) taken.push_back(look_json(l));
  for (const auto& [id, gone] : s.left) left[id] = {{"look", gone.look}, {"verdict", gone.verdict}};
  const json j = {{"schema", kSchema},
                  {"seed", s.seed},
                  {"budget_s", s.budget_s},
                  {"looks", s.looks},
                  {"sample", s.sample},
                  {"filter", s.filter},
                  {"choices", s.own_choices ? "own" : "shared"},
                  {"rules", {{"sweep", s.sweep_from}, {"policy", s.policy_from}}},
                  {"sides", {{"a", side_json(s.sides[0])}, {"b", side_json(s.sides[1])}}},
                  {"axes", s.axes()},
                  {"groups", s.groups},
                  {"members", s.members},
                  {"cases", s.cases},
                  {"plan", s.plan},
                  {"pairs", s.pairs},
                  {"spent_s", s.spent_s},
                  {"taken", taken},
                  {"left", left},
                  {"order", turns},
                  {"end", s.end.empty() ? json() : json(s.end)}};
  write_file_atomic(folder / "duet.json", j.dump(1) + "\n");
}

DuetState read_duet(const fs::path& folder) {
  const fs::path file = folder / "duet.json";
  try {
    const json j = parse_json(read_file(file));
    const std::string schema = j.at("schema");
    if (!schema.starts_with("1.")) {
      throw UsageError(fmt::format("schema {} is not supported: this program reads version 1.x.y", schema));
    }
    DuetState s;
    s.seed = j.at("seed");
    s.budget_s = j.at("budget_s");
    s.looks = j.at("looks");
    s.sample = j.at("sample");
    s.filter = j.at("filter");
    s.own_choices = j.at("choices") == "own";
    if (j.contains("rules")) {
      s.sweep_from = j.at("rules").at("sweep");
      s.policy_from = j.at("rules").at("policy");
    }
    s.sides[0] = side_of(j.at("sides").at("a"));
    s.sides[1] = side_of(j.at("sides").at("b"));
    s.groups = j.at("groups").get<std::vector<std::string>>();
    s.cases = j.value("cases", 1);
    s.plan = j.at("plan").get<std::vector<int>>();
    s.pairs = j.at("pairs");
    s.spent_s = j.at("spent_s");
    for (const json& l : j.at("taken")) s.taken.push_back(look_of(l));
    // Duets of before cases could leave lack it.
    const json left = j.value("left", json::object());
    for (const auto& [id, gone] : left.items()) {
      s.left[id] = {.look = gone.at("look"), .verdict = gone.at("verdict")};
    }
    for (const json& t : j.at("order")) s.turns.push_back(turn_of(t));
    if (j.at("end").is_string()) s.end = j.at("end");
    return s;
  } catch (const json::exception& e) {
    throw UsageError(fmt::format("{}: not a duet: {}", file.string(), e.what()));
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", file.string(), e.what()));
  } catch (const IoError& e) {
    throw UsageError(e.what());
  }
}

}  // namespace tandem
