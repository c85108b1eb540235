// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "support/temp_folder.h"

// Runs the built program as a user does.

namespace diffuse::test {

/// Where the program lies: beside the tests, or where scripts/coverage says.
inline const std::string kPrograms = std::getenv("DIFFUSE_PROGRAMS") != nullptr
                                         ? std::getenv("DIFFUSE_PROGRAMS")
                                         : DIFFUSE_BINARY_DIR;
inline const std::string kProgram = kPrograms + "/diffuse";

struct Outcome {
  int exit = -1;
  std::string out, err;
  int64_t peak_bytes = 0;  // of resident memory
};

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// Any program. The environment is empty but for PATH and what is given.
inline Outcome run_program(std::vector<std::string> words,
                           const std::map<std::string, std::string>& environment = {},
                           const std::string& folder = ".",
                           const std::string& stdout_path = "") {
  const TempFolder captured;
  std::map<std::string, std::string> variables{{"PATH", "/usr/bin:/bin"}, {"HOME", "/nonexistent"}};
#ifdef __SANITIZE_ADDRESS__
  // It is the sanitizer that opens libraries then, and it does not look beside the program.
  variables["LD_LIBRARY_PATH"] = DIFFUSE_BINARY_DIR;
  // LibTorch keeps what its static initialisers allocate.
  variables["ASAN_OPTIONS"] = "detect_leaks=0";
#endif
  for (const auto& [name, value] : environment) variables[name] = value;
  std::vector<std::string> assignments;
  for (const auto& [name, value] : variables) assignments.push_back(name + "=" + value);
  std::vector<char*> argv, envp;
  for (std::string& word : words) argv.push_back(word.data());
  for (std::string& assignment : assignments) envp.push_back(assignment.data());
  argv.push_back(nullptr);
  envp.push_back(nullptr);

  const std::string out = stdout_path.empty() ? (captured / "out").string() : stdout_path;
  const std::string err = captured / "err";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  pid_t child = 0;
  const int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  Outcome outcome;
  if (failed != 0) return outcome;
  int status = 0;
  rusage used{};
  wait4(child, &status, 0, &used);
  outcome.peak_bytes = int64_t{1024} * used.ru_maxrss;
  outcome.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (stdout_path.empty()) outcome.out = read_text(out);
  outcome.err = read_text(err);
  return outcome;
}

inline Outcome diffuse(std::vector<std::string> arguments,
                       const std::map<std::string, std::string>& environment = {},
                       const std::string& folder = ".") {
  arguments.insert(arguments.begin(), kProgram);
  return run_program(arguments, environment, folder);
}

}  // namespace diffuse::test
