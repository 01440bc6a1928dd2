// A suite binary for the driver's tests: speaks the worker protocol, measures nothing, fails as it is told.
//
// TANDEM_FAKE_FAULTS: "BATCH:FAULT,..." for the cases of that batch. TANDEM_FAKE_SLEEP_MS: time a case takes;
// TANDEM_FAKE_CHECK_SLEEP_MS: its check.
// TANDEM_FAKE_LOG: file to which each timed case appends "ID WORKER ATTEMPT PID FOLDER", FOLDER being the last part of --out.
// TANDEM_FAKE_CHECK_LOG: file to which each checked case appends its batch.
// TANDEM_FAKE_FACTOR: every time is so many times as long. TANDEM_FAKE_SLOW_PHASE: in a trace, that phase alone is. TANDEM_FAKE_CHOICES: the validation pass keeps a file of choices.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "harness/base/sha256.h"
#include "harness/driver/session/ceilings_store.h"

namespace {

using nlohmann::json;

struct Flags {
  std::map<std::string, std::string> values;
  std::set<std::string> switches;
};

Flags parse(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool has_value = i + 1 < argc && std::string(argv[i + 1]).rfind("--", 0) != 0;
    if (has_value) {
      flags.values[word] = argv[++i];
    } else {
      flags.switches.insert(word);
    }
  }
  return flags;
}

std::string fault_of(const json& c) {
  const char* text = std::getenv("TANDEM_FAKE_FAULTS");
  std::istringstream faults(text != nullptr ? text : "");
  for (std::string item; std::getline(faults, item, ',');) {
    const size_t colon = item.find(':');
    if (std::stoi(item.substr(0, colon)) == c["batch"].get<int>()) return item.substr(colon + 1);
  }
  return "";
}

void sleep_as(const char* variable) {
  const char* ms = std::getenv(variable);
  std::this_thread::sleep_for(std::chrono::milliseconds(ms != nullptr ? std::atoi(ms) : 0));
}

void log_case(const std::string& line, const char* variable = "TANDEM_FAKE_LOG") {
  const char* path = std::getenv(variable);
  if (path == nullptr) return;
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  const std::string text = line + "\n";
  [[maybe_unused]] const ssize_t n = ::write(fd, text.data(), text.size());
  ::close(fd);
}

[[noreturn]] void hang() {
  for (;;) ::pause();
}

[[noreturn]] void crash() {
  std::signal(SIGSEGV, SIG_DFL);  // a sanitizer would make an exit code of it
  std::raise(SIGSEGV);
  std::abort();
}

void print(const json& line) {
  std::cout << line.dump() << std::endl;
}

/// The line of the listing.
json supported(const json& c) {
  const std::string fault = fault_of(c);
  json line = {{"id", c["id"]}, {"status", "ok"}, {"reason", nullptr}};
  const auto refuse = [&](const char* status, const char* reason) {
    line["status"] = status;
    line["reason"] = reason;
  };
  if (fault == "unsupported") refuse("skipped", "precision: not for this engine");
  if (fault == "too-large") refuse("oom", "out of memory: 7 bytes asked of GPU memory");
  if (fault == "broken") refuse("error", "model: the file is damaged");
  if (fault == "number-id") line["id"] = 3;
  if (fault == "list-id") line["id"] = {"x"};
  return line;
}

void talk_on_stdout() {
  std::cout << "[warning] a library talks on stdout\n{\"id\": 3}\nnull\n";
}

void validate(const json& c, const Flags& flags) {
  const std::string fault = fault_of(c);
  const std::string choices = flags.values.at("--out") + "/gemm-choices.json";
  if (std::getenv("TANDEM_FAKE_CHOICES") != nullptr && !std::filesystem::exists(choices)) {
    std::ofstream(choices) << json{{"searched_by", ::getpid()}};
  }
  sleep_as("TANDEM_FAKE_CHECK_SLEEP_MS");
  log_case(c["batch"].dump(), "TANDEM_FAKE_CHECK_LOG");
  if (fault == "validate-segv") crash();
  if (fault == "validate-hang") hang();
  json line = {{"id", c["id"]},
               {"status", "ok"},
               {"reason", nullptr},
               {"check", {{"reference", "fake"}, {"error", 0.001}, {"tolerance", 0.01}, {"digest", "d"}}}};
  if (fault == "invalid") {
    line["status"] = "invalid";
    line["reason"] = "row 3 is wrong";
  }
  if (fault == "unsupported" || fault == "too-large" || fault == "broken") {
    line = supported(c);
    line["check"] = nullptr;
  }
  if (fault == "validate-garbage") line["status"] = "splendid";
  print(line);
}

/// Did an earlier run make the check of the case?
bool remembered(const json& c, const Flags& flags) {
  std::ifstream in(flags.values.at("--out") + "/validation.jsonl");
  bool last = false;
  for (std::string text; std::getline(in, text);) {
    const json line = json::parse(text);
    if (line["id"] == c["id"] && line["check"].is_object())
      last = !line["check"].value("remembered_from", json()).is_null();
  }
  return last;
}

json samples_of(const json& c, const Flags& flags, std::vector<float> samples) {
  const std::string file =
      fmt::format("samples/{}-{}.f32", c["id"].get<std::string>(), flags.values.at("--worker"));
  const std::string bytes(reinterpret_cast<const char*>(samples.data()), samples.size() * sizeof(float));
  std::ofstream out(flags.values.at("--out") + "/" + file, std::ios::binary);
  out << bytes;
  out.close();
  if (!out) {
    std::cerr << "cannot write " << file << '\n';
    std::exit(1);
  }
  return {{"file", file}, {"n", samples.size()}, {"sha256", tandem::sha256_hex(bytes)}};
}

void measure(const json& c, const Flags& flags) {
  const std::string fault = fault_of(c);
  const std::string attempt = flags.values.at("--attempt");
  log_case(fmt::format("{} {} {} {} {}", c["id"].get<std::string>(), flags.values.at("--worker"), attempt,
                       ::getpid(), std::filesystem::path(flags.values.at("--out")).filename().string()));
  std::cerr << "measuring batch " << c["batch"] << '\n';
  sleep_as("TANDEM_FAKE_SLEEP_MS");
  if (fault == "segv" || (fault == "flaky" && attempt == "1")) crash();
  if (fault == "hang" || (fault == "hang-later" && flags.values.at("--worker") != "0")) hang();
  if (fault == "exit") std::exit(3);
  if (fault == "quit") std::exit(0);
  if (fault == "oom-exit") ::raise(SIGKILL);
  if (fault == "grandchild" && ::fork() == 0) hang();
  if (fault == "garbage") talk_on_stdout();
  if (fault == "no-line") {
    std::cout << "\x01\xff not json\n";
    return;
  }
  json line = {{"id", c["id"]}, {"status", "ok"}};
  if (fault == "oom" || fault == "poison") {
    line["status"] = fault == "oom" ? "oom" : "error";
    line["reason"] = fault == "oom" ? "out of memory: 5 bytes asked of GPU memory" : "a sticky error";
    print(line);
    if (fault == "poison") std::exit(1);
    return;
  }
  if (fault == "stale" && remembered(c, flags)) {
    print({{"id", c["id"]}, {"status", "invalid"}, {"reason", "the output after timing is another"}});
    return;
  }
  const char* factor = std::getenv("TANDEM_FAKE_FACTOR");
  const float base = 100.0f * c["batch"].get<float>() * (factor != nullptr ? std::stof(factor) : 1.0f);
  line["samples"] = samples_of(c, flags, {base, base + 1, base + 2, base + 3, base + 4, base + 5, base + 6});
  if (fault == "nan") line["samples"] = samples_of(c, flags, {base, std::stof("nan")});
  if (fault == "wrong-hash") line["samples"]["sha256"] = std::string(64, '0');
  if (fault == "no-samples") line.erase("samples");
  if (fault == "escape") line["samples"]["file"] = "samples/../../x";
  if (fault == "bad-record") line["wall_s"] = "long";
  print(line);
}

/// A trace of one replay: five phases of a kernel each.
json fake_trace(const json& c, const std::string& pass) {
  const char* text = std::getenv("TANDEM_FAKE_FACTOR");
  const char* slow = std::getenv("TANDEM_FAKE_SLOW_PHASE");
  const double factor = text != nullptr ? std::stod(text) : 1;
  const char* phases[] = {"self.qkv", "self.attention", "ffn.up", "ffn.down", "head"};
  json rows = {{"kind", json::array()}}, names, list;
  int64_t at = 0;
  const double whole_ns = 1e5 * c["batch"].get<double>();
  for (int i = 0; i < 5; ++i) {
    double ns = whole_ns / 5;
    if (slow == nullptr) ns *= factor;
    if (slow != nullptr && std::string(slow) == phases[i]) ns += (factor - 1) * whole_ns;
    const auto duration = static_cast<int64_t>(ns);
    names.push_back(fmt::format("kernel_{}(int)", i));
    list.push_back({{"side", "decoder"}, {"phase", phases[i]}, {"layer", -1}});
    rows["kind"].push_back("kernel");
    for (const auto& [column, value] : std::map<std::string, int64_t>{{"name", i},
                                                                      {"phase", i},
                                                                      {"start", at},
                                                                      {"duration", duration},
                                                                      {"stream", 1},
                                                                      {"bytes", 0},
                                                                      {"graph_node", i + 1},
                                                                      {"correlation", 1}})
      rows[column].push_back(value);
    at += duration;
  }
  return {{"format", "tandem-trace"},
          {"schema", "1.0.0"},
          {"id", c["id"]},
          {"name", "fake"},
          {"pass", pass},
          {"names", names},
          {"phases", list},
          {"activities", rows},
          {"dropped", 0},
          {"untimed", 0},
          {"missing", 0},
          {"cost", json::array()},
          {"replays", {{{"start", 0}, {"end", at}, {"event_us", static_cast<double>(at) * 1e-3}}}}};
}

void profile(const json& c, const Flags& flags) {
  const std::string pass = flags.values.at("--profile");
  const std::string fault = fault_of(c);
  log_case(fmt::format("profile {} {}", pass, ::getpid()));
  if (fault == pass + "-segv") crash();
  json line = {{"id", c["id"]}, {"status", "ok"}, {"reason", nullptr}};
  if (fault == pass + "-incomplete") {
    line["status"] = "incomplete";
    line["reason"] = "7 records dropped";
  }
  if (pass == "counters") line = {{"id", c["id"]}, {"status", "unavailable"}, {"reason", "no permission"}};
  if (pass == "node" || pass == "graph") {
    const double us = 110.0 * c["batch"].get<double>();
    line.update(
        {{"busy_us", us - 1}, {"gaps_us", 1}, {"event_us", us}, {"traced_us", us}, {"slowdown", 0.02}});
    line["gpu_busy_attributed"] = pass == "node" ? json(0.9975) : json();
    const std::string file = fmt::format("traces/{}-{}.json", c["id"].get<std::string>(), pass);
    std::filesystem::create_directories(flags.values.at("--out") + "/traces");
    std::ofstream(flags.values.at("--out") + "/" + file) << fake_trace(c, pass);
    line["trace"] = file;
  }
  if (fault == pass + "-foreign") line["busy_us"] = "long";
  print(line);
}

int by_hand(const Flags& flags) {
  const double us = 100.0 * std::stod(flags.values.at("--batch")) + 3;
  print({{"benchmarks", {{{"name", "x"}, {"real_time", us}}}}, {"failures", json::array()}});
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Flags flags = parse(argc, argv);
  if (flags.switches.contains("--benchmark_format=json")) return by_hand(flags);
  if (flags.switches.contains("--measure-ceilings")) {
    log_case("ceilings");
    json tflops;
    for (const char* p : {"fp32", "tf32", "fp16", "bf16", "fp8", "int8", "w8a16", "w4a16"})
      tflops[p] = 1.0;  // no fake time beats its floor
    print({{"machine", tandem::machine_label(std::nullopt)},
           {"measured_at", "2026-01-31T12:00:00Z"},
           {"read_gbs", 1000.0},
           {"copy_gbs", 800.0},
           {"l2_gbs", nullptr},
           {"empty_node_us", nullptr},
           {"burst_tflops", tflops},
           {"sustained_tflops", tflops}});
    return 0;
  }
  std::ifstream in(flags.values.at("--cases"));
  for (const json& c : json::parse(in)) {
    if (flags.switches.contains("--supported")) {
      if (fault_of(c) == "garbage") talk_on_stdout();
      print(supported(c));
    } else if (flags.values.contains("--profile")) {
      profile(c, flags);
    } else if (flags.switches.contains("--validate")) {
      validate(c, flags);
    } else {
      measure(c, flags);
    }
  }
  return 0;
}
