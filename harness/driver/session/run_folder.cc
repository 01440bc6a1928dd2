#include "harness/driver/session/run_folder.h"

#include <fmt/format.h>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/driver/session/profiles.h"
#include "harness/record/benchmark_json.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace fs = std::filesystem;
namespace {

using nlohmann::json;

/// Is it something that a start may leave before environment.json is there?
bool is_leftover(const fs::path& entry) {
  const std::string name = entry.filename();
  if (name == ".work") return true;
  if (name == "samples" || name == "traces") return fs::is_directory(entry) && fs::is_empty(entry);
  // What a duet hands its second side before that side has begun.
  for (const std::string_view handed : {"validation.jsonl", "gemm-choices.json"}) {
    if (name == handed || (name.starts_with(handed) && name.ends_with(".tmp"))) return true;
  }
  return name.starts_with("environment.json.") && name.ends_with(".tmp");
}

json at_path(const json& j, const char* pointer) {
  const json::json_pointer p(pointer);
  return j.contains(p) ? j.at(p) : json();
}

}  // namespace

RunFolder::RunFolder(fs::path path, bool resume) : path_(std::move(path)) {
  if (path_.empty()) throw UsageError("--out: a folder is needed");
  if (fs::exists(path_) && !fs::is_directory(path_)) {
    throw UsageError(fmt::format("--out: {} is not a folder", path_.string()));
  }
  const fs::path file = path_ / "environment.json";
  if (resume && !fs::exists(path_))
    throw UsageError(fmt::format("--resume: {} does not exist", path_.string()));
  if (fs::exists(file)) {
    if (!resume) {
      throw UsageError(
          fmt::format("--out: {} holds a run already; add --resume to continue it, or give another folder",
                      path_.string()));
    }
    try {
      environment_ = parse_json(read_file(file));
    } catch (const UsageError& e) {
      throw UsageError(fmt::format("{}: {}", file.string(), e.what()));
    }
  } else if (fs::exists(path_)) {
    for (const auto& entry : fs::directory_iterator(path_)) {
      if (is_leftover(entry.path())) continue;
      throw UsageError(fmt::format("--out: {} is not empty and not a run: it holds '{}'", path_.string(),
                                   entry.path().filename().string()));
    }
  }
  std::error_code ec;
  fs::create_directories(path_ / "samples", ec);
  if (!ec) fs::create_directories(scratch(), ec);
  if (ec) throw IoError(fmt::format("cannot write {}: {}", path_.string(), ec.message()));
}

RunFolder::~RunFolder() {
  std::error_code ec;
  fs::remove_all(scratch(), ec);
}

void RunFolder::open(const json& environment) {
  if (environment_.is_null()) {
    environment_ = environment;
    write_file_atomic(path_ / "environment.json", environment.dump(1) + "\n");
  } else {
    check_same(environment);
  }
  const std::string records = path_ / "records.jsonl";
  writer_ = std::make_unique<RecordWriter>(records);
  for (const Record& r : read_records(records, nullptr)) remember(r);
  validation_log_ = std::make_unique<LineLog>((path_ / "validation.jsonl").string());
  for_each_line(validation_log_->path(), [&](int number, const std::string& text) {
    const json line = parse_json_or_discard(text);
    if (!line.is_object() || !line.contains("id") || !line.contains("binary")) {
      throw UsageError(fmt::format("{}:{}: not a validation", validation_log_->path(), number));
    }
    if (line.value("card", "") != card()) return;
    Validation v = validation_from_json(line);
    const std::pair key(v.id, line["binary"].get<std::string>());
    validations_.insert_or_assign(key, std::move(v));
  });
}

void RunFolder::check_same(const json& now) const {
  const std::pair<const char*, const char*> fields[] = {
      {"/sweep/sha256", "sweep"}, {"/engine", "engine"}, {"/cards", "card"}, {"/device", "device"}};
  for (const auto& [pointer, what] : fields) {
    json then_value = at_path(environment_, pointer), now_value = at_path(now, pointer);
    if (std::string_view(what) == "card") {
      // Identity only: a driver's counters may move between two starts.
      json ids[2] = {json::array(), json::array()};
      for (const json& c : then_value) ids[0].push_back(c.value("uuid", ""));
      for (const json& c : now_value) ids[1].push_back(c.value("uuid", ""));
      then_value = ids[0];
      now_value = ids[1];
    }
    if (then_value != now_value) {
      throw UsageError(fmt::format("--resume: {} was made with another {} ({}, now {}); start a new run",
                                   path_.string(), what, then_value.dump(), now_value.dump()));
    }
  }
  const json binaries = at_path(now, "/build/binaries");
  for (const auto& [name, hash] : binaries.items()) {
    const json before = at_path(environment_, ("/build/binaries/" + name).c_str());
    if (before != hash) {
      throw UsageError(fmt::format("--resume: {} was made with another build of {}; start a new run",
                                   path_.string(), name));
    }
  }
}

std::string RunFolder::card() const {
  const json device = at_path(environment_, "/device");
  return device.is_string() ? device.get<std::string>() : "cpu";
}

bool RunFolder::settled(const std::string& id, int worker) const {
  return failed_.contains(id) || done_.contains({id, worker});
}

void RunFolder::remember(const Record& r) {
  done_.insert({r.id, r.worker});
  if (r.status != Status::kOk) failed_.insert(r.id);
  records_.push_back(r);
}

void RunFolder::add(const Record& r) {
  writer_->append(r);
  remember(r);
}

const Validation* RunFolder::validation(const std::string& id, const std::string& binary_sha256) const {
  const auto it = validations_.find({id, binary_sha256});
  return it == validations_.end() ? nullptr : &it->second;
}

void RunFolder::add_validation(const Validation& v, const std::string& binary_sha256) {
  json line = validation_to_json(v);
  line["binary"] = binary_sha256;
  line["card"] = card();
  validation_log_->append(line.dump(-1, ' ', false, json::error_handler_t::replace));
  validations_.insert_or_assign({v.id, binary_sha256}, v);
}

void RunFolder::drop_validation(const std::string& id, const std::string& binary_sha256) {
  validations_.erase({id, binary_sha256});
}

void RunFolder::derive_benchmark_json() const {
  json derived = benchmark_json(environment_, records_);
  const auto attributed = read_attributed(path_);
  for (json& entry : derived["benchmarks"]) {
    const auto found = attributed.find(entry["tandem"]["id"].get<std::string>());
    if (found != attributed.end()) entry["gpu_busy_attributed"] = found->second;
  }
  write_file_atomic(path_ / "benchmark.json",
                    derived.dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace tandem
