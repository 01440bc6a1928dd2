// Tests only: a binary as a user runs it, through a shell.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "harness/weights/testing/checkpoint_writer.h"

namespace tandem::testing {

struct Ran {
  std::vector<std::string> lines;  // of stdout
  std::string errors;              // stderr, where a coverage build talks too
  int code = -1;
};

inline Ran run_binary(const std::string& binary, const std::string& arguments) {
  const TestFolder folder;
  const std::filesystem::path errors = folder.path() / "stderr";
  const std::string command = binary + " " + arguments + " 2>" + errors.string();
  FILE* pipe = ::popen(command.c_str(), "r");
  Ran ran;
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    if (c != '\n') {
      line.push_back(static_cast<char>(c));
    } else {
      ran.lines.push_back(std::move(line));
      line.clear();
    }
  }
  const int status = ::pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  ran.errors = read_text(errors);
  return ran;
}

}  // namespace tandem::testing
