// SPDX-License-Identifier: MIT
#include "verify.h"

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "command.h"
#include "io/checkpoint.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Checked {
  fs::path path;
  std::string problem;   // empty: good
  bool damaged = false;  // else a problem is one of reading it: of a newer version, no right to
  std::string hash;
  std::vector<ManifestEntry> files;

  uint64_t bytes() const {
    uint64_t sum = 0;
    for (const ManifestEntry& file : files) sum += file.size;
    return sum;
  }
};

Checked check_one(const fs::path& path) {
  Checked out{.path = path, .problem = {}, .damaged = false, .hash = {}, .files = {}};
  try {
    out.files = verify_checkpoint(path);
    out.hash = checkpoint_hash(path);
  } catch (const DamagedCheckpoint& e) {
    out.problem = e.problem;
    out.damaged = true;
  } catch (const Error& e) {
    out.problem = e.what();
  }
  return out;
}

Json json_of(const std::vector<Checked>& all, int64_t damaged, int64_t unknown) {
  Json list = Json::array();
  for (const Checked& one : all) {
    Json entry{{"path", one.path.string()}, {"good", one.problem.empty()}};
    if (one.problem.empty()) {
      entry["hash"] = one.hash;
      Json files = Json::object();
      for (const ManifestEntry& file : one.files)
        files[file.name] = {{"size", file.size}, {"xxh3_128", file.xxh3_128}};
      entry["files"] = files;
    } else {
      entry["problem"] = one.problem;
    }
    list.push_back(entry);
  }
  return {{"checkpoints", list},
          {"good", static_cast<int64_t>(all.size()) - damaged - unknown},
          {"damaged", damaged},
          {"unknown", unknown}};
}

int verify_paths(const std::vector<std::string>& paths, bool json) {
  std::vector<Checked> all;
  int64_t damaged = 0, unknown = 0;
  const auto add = [&](Checked one) {
    if (!one.problem.empty()) ++(one.damaged ? damaged : unknown);
    if (!json)
      print(one.problem.empty()
                ? "good     " + printable(one.path.string(), true) + "  " +
                      counted(static_cast<int64_t>(one.files.size()), "file") + ", " +
                      std::to_string(one.bytes()) + " bytes, " + one.hash + "\n"
                : (one.damaged ? "damaged  " : "unknown  ") + printable(one.path.string(), true) +
                      "  " + printable(one.problem, true) + "\n");
    all.push_back(std::move(one));
  };
  for (const std::string& path : paths) {
    std::vector<fs::path> checkpoints;
    try {
      checkpoints = checkpoints_at(path);
    } catch (const Error& e) {
      if (paths.size() == 1) throw;
      add({.path = path, .problem = e.what(), .damaged = false, .hash = {}, .files = {}});
    }
    for (const fs::path& checkpoint : checkpoints) {
      Checked one = check_one(checkpoint);
      // A run that is going on may have pruned it meanwhile.
      std::error_code error;
      if (!one.problem.empty() && !fs::exists(checkpoint, error)) continue;
      add(std::move(one));
    }
  }
  if (json)
    print(json_of(all, damaged, unknown).dump(2, ' ', false, Json::error_handler_t::replace) +
          "\n");
  if (damaged + unknown == 0) return 0;
  const std::string of = " of " + counted(static_cast<int64_t>(all.size()), "checkpoint");
  // What cannot be read here may be good: nobody is told to remove it.
  if (damaged == 0)
    throw Error(Exit::checkpoint,
                std::to_string(unknown) + of + (unknown == 1 ? " is" : " are") +
                    " not known to be good; mend what keeps it from being read, or use the version "
                    "that wrote it");
  throw Error(Exit::checkpoint,
              std::to_string(damaged) + of + (damaged == 1 ? " is" : " are") + " damaged" +
                  (unknown > 0 ? ", and " + std::to_string(unknown) + " could not be read" : "") +
                  "; restore what is from a copy, or remove it; train, "
                  "sample and evaluate take the newest good one of a run");
}

}  // namespace

Run add_verify(CLI::App& app, const Context& context) {
  app.description(
      "Re-read checkpoints and check their hashes, or prove that resuming a run changes no bit.");
  app.footer(
      "  diffuse verify runs/a                          every checkpoint of a run\n"
      "  diffuse verify runs/a/checkpoints/step-000005000 --json\n"
      "  diffuse verify --resume configs/digits.yaml    trains 20 steps twice, once interrupted");
  struct Flags {
    std::vector<std::string> paths;
    ResumeProof proof;
    bool json = false;
  };
  const auto flags = std::make_shared<Flags>();
  app.add_option("RUN", flags->paths, "run folders or checkpoints")->check(not_empty());
  app.add_flag("--json", flags->json, "JSON on stdout");
  const auto proof_option = [&](const char* name, auto& value, const std::string& help) {
    return app.add_option(name, value, "with --resume: " + help);
  };
  CLI::Option* resume =
      app.add_option("--resume",
                     flags->proof.config,
                     "train the first steps of this config twice, once without a break and once "
                     "interrupted at random, and compare what is left; exit code 6: it differs")
          ->type_name("CONFIG")
          ->check(not_empty());
  std::vector<CLI::Option*> proof_options{add_set_option(app, flags->proof.set)};
  proof_options.push_back(proof_option("--steps", flags->proof.steps, "steps to train")
                              ->type_name("N")
                              ->check(between(2, 1'000'000))
                              ->capture_default_str());
  proof_options.push_back(
      proof_option("--interruptions",
                   flags->proof.interruptions,
                   "how often to interrupt, half of it by kill -9, the rest by signals")
          ->type_name("N")
          ->check(between(1, 100'000))
          ->capture_default_str());
  proof_options.push_back(proof_option("--seed", flags->proof.seed, "of when and how")
                              ->type_name("N")
                              ->check(at_least(0))
                              ->capture_default_str());
  proof_options.push_back(
      proof_option(
          "--out", flags->proof.out, "keep both runs in this new folder [default: a temporary one]")
          ->type_name("DIR")
          ->check(not_empty()));
  return [flags, resume, proof_options, &context] {
    const bool proves = resume->count() > 0;
    if (proves == !flags->paths.empty())
      throw Error(Exit::usage,
                  "give either run folders and checkpoints, or --resume CONFIG; see diffuse verify "
                  "--help");
    if (proves) return prove_resume(flags->proof, flags->json, context);
    for (const CLI::Option* option : proof_options)
      if (option->count() > 0)
        throw Error(Exit::usage, option->get_name() + " goes with --resume CONFIG");
    return verify_paths(flags->paths, flags->json);
  };
}

}  // namespace diffuse
