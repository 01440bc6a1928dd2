#include "harness/run/ranks/ranked_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "harness/base/error.h"
#include "harness/base/stats.h"
#include "harness/run/ranks/rank_facts.h"
#include "harness/run/ranks/wire.h"
#include "harness/run/validate.h"

namespace tandem {
namespace {

using nlohmann::json;

template <typename T>
std::optional<T> larger(const std::optional<T>& a, const std::optional<T>& b) {
  if (!a || !b) return a ? a : b;
  return std::max(*a, *b);
}

class RankedWorkload : public Workload, public RankedTimes {
 public:
  RankedWorkload(RankTeam& team, const RankGroup& group, const std::vector<RankRecord>& facts, int number,
                 std::unique_ptr<Workload> own)
      : team_(team),
        group_(group),
        facts_(facts),
        number_(number),
        own_(std::move(own)),
        times_(facts.size()),
        mean_mhz_(facts.size()) {}
  ~RankedWorkload() override {
    try {
      if (team_.usable()) team_.together({{"call", "drop"}, {"workload", number_}}, [] {});
    } catch (const std::exception&) {  // the next call of the team says so
    }
  }

  Repetition repeat() override {
    return times([this] { return own_->repeat(); }, "repeat").value();
  }
  std::optional<Repetition> repeat_eager() override {
    return times([this] { return own_->repeat_eager(); }, "repeat_eager");
  }
  std::vector<float> inter_token_us() override {
    std::vector<float> times;
    call("inter_token", [&] { times = own_->inter_token_us(); });
    return times;
  }
  std::optional<double> mark_clock() override {
    std::optional<double> mhz;
    const auto answers = call("mark_clock", [&] { mhz = own_->mark_clock(); });
    mean_mhz_[0].push_back(mhz);
    for (size_t i = 0; i < answers.size(); ++i)
      mean_mhz_[i + 1].push_back(optional_number(answers[i].at("mhz")));
    return mhz;
  }
  /// Of this rank alone: the others wait for the slowest.
  bool plant(double amount) override { return own_->plant(amount); }
  Output output() override {
    Output out;
    const auto answers = call("output", [&] { out = own_->output(); });
    digests_ = {digest(out)};
    for (const json& a : answers) digests_.push_back(a.at("digest").get<std::string>());
    return out;
  }
  int64_t peak_bytes() const override { return own_->peak_bytes(); }
  std::optional<int64_t> planned_bytes() const override { return own_->planned_bytes(); }
  std::vector<std::string> kernels() const override { return own_->kernels(); }
  std::vector<std::string> sparse_kernels() const override { return own_->sparse_kernels(); }
  std::optional<double> graph_build_us() const override { return own_->graph_build_us(); }

  std::vector<RankRecord> ranks(size_t samples, size_t blocks) const override {
    std::vector<RankRecord> all = facts_;
    for (size_t r = 0; r < all.size(); ++r) {
      const auto of_last = [&](const std::vector<float>& v) -> std::optional<double> {
        const size_t n = std::min(samples, v.size());
        if (n == 0) return std::nullopt;
        return median(std::vector<float>(v.end() - static_cast<ptrdiff_t>(n), v.end()));
      };
      all[r].median_us = of_last(times_[r].total_us);
      all[r].exchange = own_->exchange();  // ranks decide alike
      all[r].wait_us = of_last(times_[r].wait_us);
      // A block has a mark before it and one after: of every second one, from the last on, is its mean.
      std::vector<float> mhz;
      const auto& marks = mean_mhz_[r];
      for (size_t b = 0; b < blocks && 2 * b < marks.size(); ++b) {
        if (const auto& mark = marks[marks.size() - 1 - 2 * b]) mhz.push_back(static_cast<float>(*mark));
      }
      if (!mhz.empty()) all[r].clocks = RankClocks{.mean_sm_mhz = median(std::move(mhz))};
    }
    return all;
  }

  std::string disagreement() const override {
    for (size_t r = 1; r < digests_.size(); ++r) {
      if (digests_[r] == digests_[0]) continue;
      const auto tp = static_cast<size_t>(group_.tp);
      const std::string who =
          r % tp == 0 ? fmt::format("dp: replica {}", r / tp) : fmt::format("tp: rank {}", r);
      return fmt::format("{} computed another output (SHA-256 {:.12}) than {} 0 ({:.12})", who, digests_[r],
                         r % tp == 0 ? "replica" : "rank", digests_[0]);
    }
    return {};
  }

 private:
  struct Times {
    std::vector<float> total_us, wait_us;
  };

  template <typename Own>
  std::vector<json> call(const char* what, Own&& own) {
    return team_.together({{"call", what}, {"workload", number_}}, own);
  }

  /// All ranks start together; the case has taken as long as the slowest.
  template <typename Own>
  std::optional<Repetition> times(Own&& own, const char* what) {
    std::optional<Repetition> mine;
    const auto answers = call(what, [&] {
      team_.world().barrier();
      mine = own();
    });
    if (!mine) return std::nullopt;
    std::vector<Repetition> all = {*mine};
    for (const json& a : answers) all.push_back(repetition_from_json(a.at("repetition")));
    Repetition whole = *mine;
    for (const Repetition& r : all) {
      whole.total_us = std::max(whole.total_us, r.total_us);
      whole.step_us = larger(whole.step_us, r.step_us);
      whole.first_token_us = larger(whole.first_token_us, r.first_token_us);
    }
    for (size_t r = 0; r < all.size(); ++r) {
      times_[r].total_us.push_back(static_cast<float>(all[r].total_us));
      // Replicas that are done wait for the slowest. Within a replica only the engine can tell.
      if (group_.tp > 1 && !all[r].wait_us) continue;
      times_[r].wait_us.push_back(
          static_cast<float>(whole.total_us - all[r].total_us + all[r].wait_us.value_or(0)));
    }
    return whole;
  }

  RankTeam& team_;
  const RankGroup group_;
  const std::vector<RankRecord>& facts_;
  const int number_;
  std::unique_ptr<Workload> own_;
  std::vector<Times> times_;
  std::vector<std::vector<std::optional<double>>> mean_mhz_;  // of each rank, one a mark
  std::vector<std::string> digests_;
};

class RankedEngine : public Engine {
 public:
  RankedEngine(RankTeam& team, const EngineRegistry& registry, std::string name, EngineOptions options,
               int tp, int dp, const NvmlFunctions* functions)
      : team_(team), registry_(registry), options_(std::move(options)), name_(std::move(name)) {
    seat_.group = rank_group(tp, dp, 0);
    const json command = {
        {"call", "engine"},
        {"engine", name_},
        {"tp", tp},
        {"dp", dp},
        {"run_dir", options_.run_dir},
        {"may_search", options_.may_search},
        {"level1_bytes", options_.level1_bytes},
        {"trace_level", options_.trace_level ? json(static_cast<int>(*options_.trace_level)) : json()}};
    const auto answers = team_.together(command, [&] {
      tensor_ = team_.world().join_replica(seat_.group);
      seat_.tensor = tensor_.get();
      EngineOptions own = options_;
      own.seat = &seat_;
      own_ = registry_.make(name_, own);
    });
    facts_.push_back(rank_facts(registry_, own_->traits(), 0, options_.device, functions));
    for (const json& a : answers) facts_.push_back(facts_from_json(a.at("facts")));
  }

  /// All ranks drop their engines together: on cards each waits for the others before it frees what they can reach, and NCCL ends
  /// only once all have said so.
  ~RankedEngine() override {
    try {
      if (team_.usable()) team_.together({{"call", "close"}}, [this] { own_.reset(); });
    } catch (const std::exception& e) {  // after the last case nobody else would say it
      std::fprintf(stderr, "tandem: ranks part: %s\n", e.what());
    }
    if (own_ && tensor_) tensor_->give_up();
  }

  std::string_view name() const override { return name_; }
  EngineTraits traits() const override { return own_->traits(); }
  void check_supported(const Case& c) const override { own_->check_supported(c); }

  void expect(const std::vector<Case>& cases) override {
    json list = json::array();
    for (const Case& c : cases) list.push_back(case_to_json(c));
    team_.together({{"call", "expect"}, {"cases", std::move(list)}}, [&] { own_->expect(cases); });
  }

  void load(const Case& c, const ModelConfig& config, const WeightForm& form) override {
    json command = {
        {"call", "load"}, {"case", case_to_json(c)}, {"config", config}, {"form", form_to_json(form)}};
    if (scales()) command["scales"] = scales_to_json(*scales());
    team_.together(command, [&] {
      own_->use_scales(scales());
      own_->load(c, config, form);
    });
    loaded_ = c;
    config_ = config;
    form_ = form;
  }

  /// A rank sees a part of the channels only: another engine of the kind, which is alone, sees the whole.
  CalibrationStats observed_inputs(const WeightLayout& calibrated) override {
    const auto alone = registry_.make(name_, options_);
    alone->load(loaded_, config_, form_);
    return alone->observed_inputs(calibrated);
  }

  double load_us() const override { return own_->load_us(); }
  std::optional<int64_t> weights_bytes() const override { return own_->weights_bytes(); }
  std::optional<WeightCount> weight_count() const override { return own_->weight_count(); }
  std::string choices_sha256() const override { return own_->choices_sha256(); }

  std::unique_ptr<Workload> prepare(const Case& c, const TransformerBatch& batch) override {
    std::unique_ptr<Workload> own;
    const int number = next_workload_++;
    team_.together({{"call", "prepare"},
                    {"workload", number},
                    {"case", case_to_json(c)},
                    {"batch", batch_to_json(batch)}},
                   [&] { own = own_->prepare(c, batch); });
    return std::make_unique<RankedWorkload>(team_, seat_.group, facts_, number, std::move(own));
  }

  Output forced_logits(const TransformerBatch& batch, std::span<const int32_t> tokens, int steps) override {
    Output out;
    team_.together({{"call", "forced_logits"},
                    {"batch", batch_to_json(batch)},
                    {"tokens", std::vector<int32_t>(tokens.begin(), tokens.end())},
                    {"steps", steps}},
                   [&] { out = own_->forced_logits(batch, tokens, steps); });
    return out;
  }

  std::vector<std::vector<Sequence>> decode(const TransformerBatch& batch, const GenerationConfig& generation,
                                            std::span<const uint64_t> seeds) override {
    if (!(generation == case_generation(loaded_, config_)) || !seeds.empty()) {
      throw ImpossibleCase("decode: over several ranks by the rules of the case alone");
    }
    std::vector<std::vector<Sequence>> found;
    team_.together({{"call", "decode"}, {"batch", batch_to_json(batch)}},
                   [&] { found = own_->decode(batch, generation); });
    return found;
  }

  std::optional<CheckResult> self_check(const Case& c, const TransformerBatch& batch) override {
    std::optional<CheckResult> result;
    team_.together({{"call", "self_check"}, {"case", case_to_json(c)}, {"batch", batch_to_json(batch)}},
                   [&] { result = own_->self_check(c, batch); });
    return result;
  }

  void untimed(bool on) override {
    team_.together({{"call", "untimed"}, {"on", on}}, [&] { own_->untimed(on); });
  }

  bool take(Inputs inputs) override {
    bool taken = false;
    team_.together({{"call", "take"}, {"inputs", static_cast<int>(inputs)}},
                   [&] { taken = own_->take(inputs); });
    return taken;
  }

  /// The worst rank's check; bytes and operations are one rank's.
  OpWorkload prepare_op(const Case& c, const ModelConfig& config) override {
    OpWorkload op;
    const int number = next_workload_++;
    team_.together(
        {{"call", "prepare_op"}, {"workload", number}, {"case", case_to_json(c)}, {"config", config}},
        [&] { op = own_->prepare_op(c, config); });
    op.workload =
        std::make_unique<RankedWorkload>(team_, seat_.group, facts_, number, std::move(op.workload));
    op.check = [this, number, check = std::move(op.check)] {
      CheckResult worst;
      const auto answers =
          team_.together({{"call", "check"}, {"workload", number}}, [&] { worst = check(); });
      for (size_t i = 0; i < answers.size(); ++i) {
        const CheckResult r = check_result_from_json(answers[i].at("check"));
        if (r.ok() || !worst.ok()) continue;
        worst = r;
        worst.where = fmt::format("rank {}: {}", i + 1, r.where);
      }
      return worst;
    };
    return op;
  }

 private:
  RankTeam& team_;
  const EngineRegistry& registry_;
  EngineOptions options_;
  std::string name_;
  RankSeat seat_;
  std::unique_ptr<SocketCommunicator> tensor_;
  std::unique_ptr<Engine> own_;  // after what its seat points at
  std::vector<RankRecord> facts_;
  int next_workload_ = 0;
  Case loaded_;
  ModelConfig config_;
  WeightForm form_;
};

}  // namespace

std::unique_ptr<Engine> make_ranked_engine(RankTeam& team, const EngineRegistry& registry,
                                           const std::string& name, EngineOptions options, int tp, int dp,
                                           const NvmlFunctions* functions) {
  return std::make_unique<RankedEngine>(team, registry, name, std::move(options), tp, dp, functions);
}

}  // namespace tandem
