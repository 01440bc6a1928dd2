// suite_generate --tokens: what `tandem generate` runs. Decodes a checkpoint's sources and prints token ids.
#pragma once

namespace tandem {

/// One line a hypothesis on stdout: its ids, blank-separated, in the order of the sources; with --scores the score and
/// a tab before them. Returns the process's exit code.
int tokens_main(int argc, char** argv);

}  // namespace tandem
