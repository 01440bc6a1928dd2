#include "harness/driver/duet/duet_args.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <vector>

#include "harness/base/error.h"
#include "harness/driver/commands/commands.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSide[] = {"a", "b"};

std::map<std::string, std::string> pairs_of(const std::string& flag, const std::vector<std::string>& given) {
  std::map<std::string, std::string> found;
  for (const std::string& text : given) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw UsageError(fmt::format("{}: '{}' is not allowed; NAME=VALUE", flag, text));
    }
    if (!found.emplace(text.substr(0, equals), text.substr(equals + 1)).second) {
      throw UsageError(fmt::format("{}: '{}' is given twice", flag, text.substr(0, equals)));
    }
  }
  return found;
}

}  // namespace

DuetState state_of(const DuetArgs& args) {
  DuetState s;
  s.seed = args.run.seed ? *args.run.seed : (uint64_t{std::random_device{}()} << 20) ^ std::random_device{}();
  s.budget_s = parse_budget_s(args.budget);
  s.looks = args.looks;
  s.sample = args.sample;
  s.filter = args.run.filter;
  s.own_choices = args.own_choices;
  for (int i = 0; i < 2; ++i) {
    const std::string flag = fmt::format("--{}", kSide[i]);
    s.sides[i].bin_dir =
        fs::absolute(args.bin[i].empty() ? args.run.bin_dir.string() : args.bin[i]).lexically_normal();
    s.sides[i].set = pairs_of(flag + "-set", args.set[i]);
    s.sides[i].environment = pairs_of(flag + "-env", args.environment[i]);
    s.sides[i].environment.emplace("TANDEM_SAMPLE_SECONDS", args.sample);
  }
  const bool nothing = args.bin[0].empty() && args.bin[1].empty() && args.set[0].empty() &&
                       args.set[1].empty() && args.environment[0].empty() && args.environment[1].empty();
  if (nothing) {
    throw UsageError(
        "nothing to compare: give two builds (--a DIR --b DIR) or two settings (--a-set, --b-set AXIS=VALUE; "
        "--a-env, "
        "--b-env NAME=VALUE)");
  }
  return s;
}

void check_same(const DuetState& kept, const DuetState& asked, const DuetArgs& args) {
  const auto refuse = [&](const std::string& what) {
    throw UsageError(
        fmt::format("--resume: {} was made with another {}; start a new duet", args.run.out, what));
  };
  if (args.run.seed && kept.seed != asked.seed) refuse("--seed");
  if (kept.looks > asked.looks) refuse("--looks");
  if (kept.sample != asked.sample) refuse("--sample");
  if (kept.filter != asked.filter) refuse("--filter");
  if (kept.own_choices != asked.own_choices) refuse("--own-choices");
  for (int i = 0; i < 2; ++i) {
    if (kept.sides[i].set != asked.sides[i].set) refuse(fmt::format("--{}-set", kSide[i]));
    if (kept.sides[i].environment != asked.sides[i].environment) refuse(fmt::format("--{}-env", kSide[i]));
  }
}

std::string resume_command(const DuetArgs& args) {
  std::vector<std::string> words = {own_command(), "duet"};
  if (!args.run.sweep.empty()) words.push_back(args.run.sweep);
  words.insert(words.end(), {"--out", args.run.out, "--resume"});
  for (int i = 0; i < 2; ++i) {
    const std::string flag = fmt::format("--{}", kSide[i]);
    if (!args.bin[i].empty()) words.insert(words.end(), {flag, args.bin[i]});
    for (const auto& text : args.set[i]) words.insert(words.end(), {flag + "-set", text});
    for (const auto& text : args.environment[i]) words.insert(words.end(), {flag + "-env", text});
  }
  const DuetArgs usual;
  if (args.budget != usual.budget) words.insert(words.end(), {"--budget", args.budget});
  if (args.looks != usual.looks) words.insert(words.end(), {"--looks", std::to_string(args.looks)});
  if (args.sample != usual.sample) words.insert(words.end(), {"--sample", args.sample});
  if (!args.policy.empty()) words.insert(words.end(), {"--policy", args.policy});
  if (!args.sweep.empty()) words.insert(words.end(), {"--sweep", args.sweep});
  if (args.own_choices) words.emplace_back("--own-choices");
  if (args.profile) words.emplace_back("--profile");
  if (args.run.engine != "auto") words.insert(words.end(), {"--engine", args.run.engine});
  for (const std::string& peer : args.run.peers) words.insert(words.end(), {"--peer", peer});
  if (!args.run.filter.empty()) words.insert(words.end(), {"--filter", args.run.filter});
  if (args.run.device != 0) words.insert(words.end(), {"--device", std::to_string(args.run.device)});
  return shell_command(words);
}

void check_sample(const std::string& text) {
  const size_t colon = text.find(':');
  char* end = nullptr;
  const double least = std::strtod(text.c_str(), &end);
  const bool first = colon != std::string::npos && end == text.c_str() + colon && colon > 0;
  const double most = first ? std::strtod(text.c_str() + colon + 1, &end) : 0;
  if (!first || *end != '\0' || !(least >= 0) || !(most >= least) || !(most > 0) || most > 3600) {
    throw UsageError(fmt::format("--sample: '{}' is not allowed; seconds MIN:MAX such as 0.1:0.5", text));
  }
}

double parse_budget_s(const std::string& text) {
  double total = 0;
  const char* at = text.c_str();
  bool good = !text.empty();
  while (good && *at != '\0') {
    char* end = nullptr;
    const double number = std::strtod(at, &end);
    good = end != at && number >= 0 && number < 1e6 && *at != '-' && *at != '+';
    const char unit = *end;
    total += number * (unit == 'h' ? 3600 : unit == 'm' ? 60 : 1);
    good = good && (unit == 'h' || unit == 'm' || unit == 's' || (unit == '\0' && at == text.c_str()));
    at = unit == '\0' ? end : end + 1;
  }
  if (!good || !(total > 0)) {
    throw UsageError(fmt::format("--budget: '{}' is not allowed; a time such as 8m, 90s or 1h30m", text));
  }
  return total;
}

}  // namespace tandem
