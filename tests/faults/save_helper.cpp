// SPDX-License-Identifier: MIT
// What tests/faults/faults.py puts faults into: one save as a run makes it, without LibTorch, and a
// check of what is left.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "io/checkpoint.h"
#include "io/run_folder.h"
#include "support/text_files.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// The files of a training checkpoint, of a network with `numbers` weights, all of them depending
/// on `value`.
struct Content {
  std::vector<float> model, ema, exp_avg, exp_avg_sq;
  std::vector<CheckpointFile> files;

  Content(int64_t value, int64_t numbers) {
    const auto fill = [&](std::vector<float>& into, int64_t salt) {
      for (int64_t i = 0; i < numbers; ++i)
        into.push_back(static_cast<float>(value + salt + i) * 0.37F);
    };
    fill(model, 0);
    fill(ema, 1);
    fill(exp_avg, 2);
    fill(exp_avg_sq, 3);
    const auto view = [&](const char* name, const std::vector<float>& values) {
      return TensorView{name, "F32", {numbers}, std::as_bytes(std::span(values))};
    };
    files.push_back({"model.safetensors", {view("w", model)}, ""});
    files.push_back({"ema.safetensors", {view("w", ema)}, ""});
    files.push_back(
        {"optim.safetensors", {view("exp_avg.w", exp_avg), view("exp_avg_sq.w", exp_avg_sq)}, ""});
    files.push_back({"config.yaml", {}, "version: 1\n"});
    files.push_back(
        {"state.json", {}, nlohmann::json{{"value", value}, {"numbers", numbers}}.dump() + "\n"});
  }
};

/// A call that the trace shows.
void mark(const char* name) {
  if (::access(name, F_OK) == 0) std::abort();
}

/// What a run does to save (app/core/train_actions.cpp), with `new_run` from the making of its
/// folder on.
int save(const fs::path& folder,
         int64_t step,
         int64_t value,
         int64_t numbers,
         bool verify,
         bool new_run) {
  const Content content(value, numbers);
  mark("/save-begins");
  std::optional<RunFolder> run;
  if (new_run) run.emplace(RunFolder::open(folder.parent_path(), false));
  write_checkpoint(folder, step, content.files, verify);
  prune_checkpoints(folder, 1, 0);
  mark("/save-ends");
  return 0;
}

/// The value that checkpoint `path` was made of; -1 when a byte of it is another.
int64_t value_of(const fs::path& path) {
  const auto state = nlohmann::json::parse(slurp(path / "state.json"), nullptr, false);
  if (!state.is_object()) return -1;
  const auto value = state.at("value").get<int64_t>();
  const Content wanted(value, state.at("numbers").get<int64_t>());
  const SafetensorsFile model(path / "model.safetensors"), ema(path / "ema.safetensors"),
      optim(path / "optim.safetensors");
  const auto same = [](const SafetensorsFile& file, const char* name, const auto& values) {
    const TensorView* found = file.find(name);
    const auto bytes = std::as_bytes(std::span(values));
    return found != nullptr &&
           std::equal(found->bytes.begin(), found->bytes.end(), bytes.begin(), bytes.end());
  };
  return same(model, "w", wanted.model) && same(ema, "w", wanted.ema) &&
                 same(optim, "exp_avg.w", wanted.exp_avg) &&
                 same(optim, "exp_avg_sq.w", wanted.exp_avg_sq)
             ? value
             : -1;
}

/// For each folder on stdin a line of JSON: the step and value of the checkpoint that a run would
/// go on from (step -1: a new run), and whether it can save again there and clears up.
int check() {
  log::set_level(log::Level::off);
  for (std::string line; std::getline(std::cin, line);) {
    nlohmann::ordered_json out{{"folder", line}, {"step", -1}, {"value", -1}, {"next", false}};
    try {
      const fs::path folder = line;
      remove_leftovers(folder);
      if (const auto newest = newest_checkpoint(folder)) {
        out["step"] = std::stoll(newest->filename().string().substr(5));
        out["value"] = value_of(*newest);
        set_aside_newer(folder, out["step"].get<int64_t>());
      }
      const int64_t next = out["step"].get<int64_t>() + 1;
      write_checkpoint(folder, next, Content(999, 10).files, true);
      prune_checkpoints(folder, 1, 0);
      bool clean = true;
      for (const auto& entry : fs::directory_iterator(folder)) {
        const std::string name = entry.path().filename().string();
        clean = clean &&
                (name == "latest" || name.starts_with("step-") || name.starts_with("aside-step-"));
      }
      const auto newest = newest_checkpoint(folder);
      out["next"] = clean && newest && value_of(*newest) == 999;
    } catch (const std::exception& e) {
      out["error"] = e.what();
    }
    std::cout << out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  }
  return 0;
}

int run(const std::vector<std::string>& words) {
  try {
    if (words.size() == 7 && words[0] == "save")
      return save(words[1],
                  std::stoll(words[2]),
                  std::stoll(words[3]),
                  std::stoll(words[4]),
                  words[5] == "1",
                  words[6] == "1");
    if (words.size() == 1 && words[0] == "check") return check();
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return static_cast<int>(e.code);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bug: %s\n", e.what());
    return 1;
  }
  std::fprintf(stderr,
               "usage: save_helper save FOLDER STEP VALUE NUMBERS VERIFY NEW_RUN | check\n");
  return 2;
}

}  // namespace
}  // namespace diffuse

int main(int argc, char** argv) { return diffuse::run({argv + 1, argv + argc}); }
