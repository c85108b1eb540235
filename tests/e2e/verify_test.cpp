// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <random>

#include "e2e/runs.h"

// diffuse verify: damage in checkpoints, and the proof that resuming changes no bit.

namespace diffuse::test {
namespace {

using Json = nlohmann::json;

void flip(const std::string& file) {
  std::string bytes = read_text(file);
  bytes[bytes.size() / 3] ^= 4;
  write_text(file, bytes);
}

int64_t lines_of(const std::string& text, const std::string& start) {
  std::istringstream in(text);
  int64_t count = 0;
  for (std::string line; std::getline(in, line);) count += line.starts_with(start);
  return count;
}

TEST(Verify, EveryCheckpointOfARun) {
  const TempFolder folder;
  const std::string run = folder / "run";
  ASSERT_EQ(diffuse(train_words(run, {"--set", "sample.every_steps=0"})).exit, 0);
  const Outcome good = diffuse({"verify", run}, {{"LD_DEBUG", "libs"}});
  EXPECT_EQ(good.exit, 0);
  EXPECT_EQ(lines_of(good.out, "good     " + run + "/checkpoints/step-0000000"), 4) << good.out;
  EXPECT_EQ(good.err.find("libtorch"), std::string::npos);
  EXPECT_EQ(diffuse({"verify", run + "/checkpoints"}).out, good.out);
  EXPECT_EQ(lines_of(diffuse({"verify", checkpoint(run, 6), run}).out, "good "), 5);

  flip(checkpoint(run, 6) + "/ema.safetensors");
  fs::remove(checkpoint(run, 9) + "/state.json");
  const Outcome damaged = diffuse({"verify", run});
  EXPECT_EQ(damaged.exit, 6);
  EXPECT_EQ(lines_of(damaged.out, "good "), 2) << damaged.out;
  EXPECT_EQ(lines_of(damaged.out,
                     "damaged  " + checkpoint(run, 6) + "  " + checkpoint(run, 6) +
                         "/ema.safetensors does not match its hash"),
            1)
      << damaged.out;
  EXPECT_EQ(lines_of(damaged.out, "damaged  " + checkpoint(run, 9)), 1) << damaged.out;
  EXPECT_NE(damaged.err.find("error: 2 of 4 checkpoints are damaged"), std::string::npos)
      << damaged.err;
  EXPECT_EQ(diffuse({"verify", checkpoint(run, 3)}).exit, 0);
  EXPECT_EQ(diffuse({"verify", checkpoint(run, 9)}).exit, 6);

  const Outcome as_json = diffuse({"verify", run, "--json"});
  EXPECT_EQ(as_json.exit, 6);
  const Json json = Json::parse(as_json.out);
  EXPECT_EQ(json["good"], 2);
  EXPECT_EQ(json["damaged"], 2);
  ASSERT_EQ(json["checkpoints"].size(), 4u);
  EXPECT_EQ(json["checkpoints"][0]["files"].size(), 5u);
  EXPECT_EQ(json["checkpoints"][0]["files"]["model.safetensors"]["size"],
            fs::file_size(checkpoint(run, 3) + "/model.safetensors"));
  EXPECT_EQ(json["checkpoints"][0]["hash"],
            Json::parse(read_text(checkpoint(run, 3) + "/MANIFEST.json"))["xxh3_128"]);
  EXPECT_FALSE(json["checkpoints"][1]["good"].get<bool>());
  EXPECT_NE(json["checkpoints"][2]["problem"].get<std::string>().find("state.json"),
            std::string::npos);
}

TEST(Verify, SaysWhatIsThereInstead) {
  const TempFolder folder;
  write_text(folder / "last.ckpt", "PK\x03\x04");
  const struct {
    Words words;
    int exit;
    const char* says;
  } cases[] = {{{}, 2, "give either"},
               {{folder / "no"}, 6, "does not exist"},
               {{folder.path()}, 6, "no checkpoint in"},
               {{folder / "last.ckpt"}, 6, "torch.load"},
               {{folder.path(), "--resume", "c.yaml"}, 2, "give either"},
               {{folder.path(), "--steps", "5"}, 2, "goes with --resume"},
               {{"--resume", folder / "no.yaml"}, 3, "no.yaml"},
               {{"--resume", DIFFUSE_SOURCE_DIR "/configs/digits.yaml", "--set", "optim.rl=1"},
                3,
                "did you mean"},
               {{"--resume", DIFFUSE_SOURCE_DIR "/configs/tiny.yaml", "--set", "data.path=/none"},
                5,
                "/none"}};
  for (const auto& c : cases) {
    const Outcome o = diffuse(with({"verify"}, c.words));
    EXPECT_EQ(o.exit, c.exit) << o.err;
    EXPECT_NE(o.err.find(c.says), std::string::npos) << o.err;
    EXPECT_EQ(o.out, "");
  }
}

Words proof_words(const std::string& config, const Words& more) {
  return with({"verify", "--resume", DIFFUSE_SOURCE_DIR "/configs/" + config, "--threads", "1"},
              more);
}

/// Small networks, as in runs.h.
const Words kPictures{"--set",
                      "model.base_channels=8",
                      "--set",
                      "model.norm_groups=4",
                      "--set",
                      "model.blocks_per_level=1",
                      "--set",
                      "model.dropout=0.1",
                      "--set",
                      "data.flip=true",
                      "--set",
                      "train.batch=8"};

/// 8 x 8 pixels that depend on `seed`, always as many bytes.
std::string bmp(uint32_t seed) {
  const std::vector<uint32_t> words{54 + 192, 0, 54, 40, 8, 8, 1 | 24 << 16, 0, 192, 0, 0, 0, 0};
  std::string out = "BM";
  for (const uint32_t word : words)
    for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(word >> shift & 255);
  std::mt19937 random(seed);
  for (int i = 0; i < 192; ++i) out += static_cast<char>(random() & 255);
  return out;
}

TEST(Verify, NoticesARunThatIsNotTheSame) {
  const TempFolder folder;
  const std::string data = folder / "pictures", out = folder / "out";
  for (uint32_t i = 0; i < 30; ++i) write_text(data + "/" + std::to_string(i) + ".bmp", bmp(i));
  const Words words = proof_words("digits.yaml",
                                  with(kPictures,
                                       {"--set",
                                        "data.path=" + data,
                                        "--set",
                                        "data.labels=none",
                                        "--interruptions",
                                        "2",
                                        "--out",
                                        out}));
  auto running = std::async(std::launch::async, [&] { return diffuse(words); });
  ASSERT_TRUE(appears(checkpoint(out + "/whole", 20)));
  // Other pictures in files of the same names and sizes.
  for (uint32_t i = 0; i < 30; ++i) {
    write_text(folder / "next", bmp(100 + i));
    fs::rename(folder / "next", data + "/" + std::to_string(i) + ".bmp");
  }
  const Outcome o = running.get();
  EXPECT_EQ(o.exit, 6) << o.err;
  EXPECT_NE(o.out.find("differs  step-000000020/model.safetensors\n"), std::string::npos) << o.out;
  EXPECT_NE(o.out.find("differs  metrics.jsonl, line "), std::string::npos) << o.out;
  EXPECT_EQ(o.out.find("equal"), std::string::npos) << o.out;
  EXPECT_NE(o.err.find("both are kept in " + out), std::string::npos) << o.err;
  EXPECT_TRUE(fs::exists(checkpoint(out + "/resumed", 20)));
  EXPECT_EQ(diffuse(words).exit, 4);  // --out exists
}

/// Points and a network of a few hundred numbers.
const Words kPoints{"--set",
                    "mlp.hidden=8",
                    "--set",
                    "mlp.layers=1",
                    "--set",
                    "diffusion.steps=20",
                    "--set",
                    "sample.steps=5",
                    "--set",
                    "train.batch=4"};

TEST(Verify, AResumedRunHasTheSameBytes) {
  const Words words =
      proof_words("moons-epsilon.yaml", with(kPoints, {"--steps", "40", "--interruptions", "3"}));
  const Outcome text = diffuse(words);
  EXPECT_EQ(text.exit, 0) << text.err;
  EXPECT_TRUE(text.out.starts_with("equal ")) << text.out;
  EXPECT_NE(text.out.find("40 steps, "), std::string::npos) << text.out;

  const Outcome o = diffuse(with(words, {"--json", "--seed", "5"}));
  EXPECT_EQ(o.exit, 0) << o.err;
  const auto json = nlohmann::json::parse(o.out);
  EXPECT_EQ(json["equal"], true);
  EXPECT_TRUE(json["differences"].empty());
  EXPECT_EQ(json["seed"], 5);
  EXPECT_GE(json["killed"].get<int>() + json["signalled"].get<int>(), 1);
  EXPECT_EQ(json["starts"].back()["exit"], 0);
  EXPECT_GE(json["checkpoints"], 1);
  EXPECT_FALSE(json.contains("folder"));  // it is removed
}

TEST(Verify, ATrainingThatFailsIsNoResult) {
  const TempFolder folder;
  write_text(folder / "weights.txt", "-50 1e300\n50 1e300\n");
  const Outcome o = diffuse(proof_words("moons-epsilon.yaml",
                                        with(kPoints,
                                             {"--set",
                                              "diffusion.weighting={type: table, file: " +
                                                  (folder / "weights.txt").string() + "}"})));
  EXPECT_EQ(o.exit, 8) << o.err;
  EXPECT_NE(o.err.find("error: the uninterrupted run ended with 8: "), std::string::npos) << o.err;
  EXPECT_EQ(o.out, "");
}

TEST(Verify, APlaceForTheRunsIsNeeded) {
  const TempFolder folder;
  write_text(folder / "file", "");
  const std::string config = DIFFUSE_SOURCE_DIR "/configs/moons-epsilon.yaml";
  const Outcome out = diffuse({"verify", "--resume", config, "--out", folder / "file/runs"});
  EXPECT_EQ(out.exit, 4);
  EXPECT_NE(out.err.find("error: cannot create " + (folder / "file/runs").string()),
            std::string::npos)
      << out.err;
  EXPECT_NE(out.err.find("choose another --out"), std::string::npos) << out.err;
  // No folder, and one that nobody may write to.
  for (const std::string& place : {(folder / "file").string(), std::string("/proc")}) {
    const Outcome temporary = diffuse({"verify", "--resume", config}, {{"TMPDIR", place}});
    EXPECT_EQ(temporary.exit, 4);
    EXPECT_NE(temporary.err.find("error: cannot make a temporary folder: "), std::string::npos)
        << temporary.err;
    EXPECT_NE(temporary.err.find("choose a place with --out"), std::string::npos) << temporary.err;
  }
}

TEST(Verify, ATrainingThatOthersKillIsSaidToBe) {
  const TempFolder folder;
  const std::string out = folder / "out";
  const Words words =
      proof_words("moons-epsilon.yaml", with(kPoints, {"--steps", "1000000", "--out", out}));
  auto running = std::async(std::launch::async, [&] { return diffuse(words); });
  // The lock names who trains.
  pid_t pid = 0;
  ASSERT_TRUE(comes_true([&] {
    return fs::exists(out + "/whole/status.json") &&
           std::sscanf(read_text(out + "/whole/run.lock").c_str(), "pid %d", &pid) == 1;
  }));
  ::kill(pid, SIGKILL);
  const Outcome o = running.get();
  EXPECT_EQ(o.exit, 7);
  EXPECT_NE(o.err.find("error: the uninterrupted run was killed (out of memory?)\n"),
            std::string::npos)
      << o.err;
  EXPECT_EQ(o.out, "");
}

TEST(Verify, AStopLeavesNothing) {
  const TempFolder folder;
  const char* before = getenv("TMPDIR");
  const std::string old = before == nullptr ? "/tmp" : before;
  setenv("TMPDIR", folder.path().c_str(), 1);
  Background program(proof_words("digits.yaml", with(kPictures, {"--steps", "100000"})));
  setenv("TMPDIR", old.c_str(), 1);
  ASSERT_TRUE(comes_true([&] {
    for (const auto& entry : fs::directory_iterator(folder.path()))
      if (logged_lines(entry.path() / "whole") > 0 ||
          fs::exists(entry.path() / "whole/status.json"))
        return true;
    return false;
  }));
  EXPECT_EQ(program.finish(SIGINT), 130);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace diffuse::test
