#include "suites/tokens_main.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <optional>

#include "harness/base/error.h"
#include "harness/base/text.h"
#include "harness/model/ids_file.h"
#include "harness/sweep/case.h"
#include "harness/sweep/values.h"
#include "harness/weights/values/checkpoint.h"
#include "suites/engines.h"

namespace tandem {
namespace {

struct TokenArgs {
  std::string checkpoint, input_ids, engine = "auto", precision = "fp32";
  DecodeFlags decoding;
  int device = 0;
  bool scores = false;
};

void print(const std::vector<int32_t>& tokens, std::optional<double> score) {
  fmt::print("{}{}\n", score ? fmt::format("{:.9g}\t", *score) : "", fmt::join(tokens, " "));
}

Case case_of(const TokenArgs& args, const GenerationConfig& g, const TransformerBatch& source,
             const std::string& engine) {
  Case c;
  c.suite = Suite::kGenerate;
  c.model = args.checkpoint;
  c.weights = "checkpoint";
  c.batch = source.size();
  c.src = source.longest;
  c.tgt = g.max_length - 1;
  c.precision = parse_precision(args.precision);
  c.stop = "eos";
  c.engine = engine;
  return c;
}

/// Is the search greedy by the model's own scores, with one eos?
bool plain_greedy(const GenerationConfig& g) {
  GenerationConfig plain;
  plain.decoder_start_id = g.decoder_start_id;
  plain.pad_id = g.pad_id;
  plain.eos_ids = g.eos_ids;
  plain.max_length = g.max_length;
  plain.seed = g.seed;
  // What greedy decoding does not look at.
  plain.length_penalty = g.length_penalty;
  plain.early_stopping = g.early_stopping;
  plain.temperature = g.temperature;
  plain.top_k = g.top_k;
  plain.top_p = g.top_p;
  plain.renormalise = g.renormalise;
  return g == plain && g.eos_ids.size() == 1;
}

void print_sequences(const TokenArgs& args, const std::vector<std::vector<Sequence>>& found) {
  for (const std::vector<Sequence>& sequences : found) {
    for (const Sequence& s : sequences) print(s.tokens, args.scores ? std::optional(s.score) : std::nullopt);
  }
}

/// The path that suite_generate measures, which keeps no scores.
void print_greedy(Engine& engine, const Case& c, const TransformerBatch& source, const GenerationConfig& g) {
  const auto workload = engine.prepare(c, source);
  workload->repeat();
  const Output out = workload->output();
  for (int b = 0; b < source.size(); ++b) {
    const auto first = out.tokens.begin() + static_cast<ptrdiff_t>(b) * c.tgt;
    const auto eos = std::find(first, first + c.tgt, g.eos_ids.front());
    print({first, eos == first + c.tgt ? eos : eos + 1}, std::nullopt);
  }
}

void print_tokens(const TokenArgs& args, const Checkpoint& checkpoint, const TransformerBatch& source,
                  const GenerationConfig& g, const std::string& name) {
  const Case c = case_of(args, g, source, name);
  check_combination(c);
  EngineOptions options;
  options.device = args.device;
  const auto engine = engine_registry().make(name, options);
  engine->check_supported(c);
  engine->load(c, checkpoint.config(), weight_form(c));
  if (!engine->traits().is_truth && plain_greedy(g) && !args.scores) {
    print_greedy(*engine, c, source, g);
  } else {
    print_sequences(args, engine->decode(source, g));
  }
}

int run(int argc, char** argv) {
  TokenArgs args;
  bool tokens = false;
  CLI::App app(
      "suite_generate --tokens: decodes a checkpoint's sources and prints token ids (see tandem generate).");
  app.add_flag("--tokens", tokens);
  app.add_option("--model", args.checkpoint)->required();
  app.add_option("--input-ids", args.input_ids)->required();
  app.add_option("--decode", args.decoding.decode);
  app.add_option("--engine", args.engine);
  app.add_option("--precision", args.precision);
  app.add_option("--max-new-tokens", args.decoding.max_new_tokens)->check(CLI::PositiveNumber);
  app.add_option("--forced-bos", args.decoding.forced_bos)->check(CLI::NonNegativeNumber);
  app.add_option("--n-best", args.decoding.n_best)->check(CLI::PositiveNumber);
  app.add_option("--seed", args.decoding.seed);
  app.add_option("--device", args.device)->check(CLI::NonNegativeNumber);
  app.add_flag("--scores", args.scores);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    throw UsageError(e.what());
  }
  const Checkpoint checkpoint(args.checkpoint);
  const GenerationConfig g = with_flags(checkpoint.generation(), args.decoding, checkpoint.config().vocab);
  const TransformerBatch source =
      pack(checkpoint.config(), read_ids(args.input_ids, checkpoint.config().vocab));
  check_fits(g, checkpoint.config(), source.longest);
  std::string engine = args.engine == "auto" ? best_engine(engine_registry(), args.device) : args.engine;
  if (args.engine == "auto" && !engine_traits(engine).is_truth && (!plain_greedy(g) || args.scores)) {
    std::cerr << "generate: decoding with the reference; --engine " << engine
              << " follows rules and scores too\n";
    engine = kTruthEngine;
  }
  print_tokens(args, checkpoint, source, g, engine);
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace

int tokens_main(int argc, char** argv) {
  try {
    check_arguments(argc, argv);
    return run(argc, argv);
  } catch (const Error& e) {
    std::cerr << "generate: " << e.what() << '\n';
    return static_cast<int>(e.exit_code());
  } catch (const std::exception& e) {
    std::cerr << "generate: " << e.what() << '\n';
    return static_cast<int>(ExitCode::kFailed);
  }
}

}  // namespace tandem
