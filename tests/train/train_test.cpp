// SPDX-License-Identifier: MIT
#include "train/train.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/files.h"
#include "ops/cuda.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// These networks are too small to share: on a busy machine threads would only wait for each other.
class OneThread : public testing::Environment {
 public:
  void SetUp() override { at::set_num_threads(1); }
};
[[maybe_unused]] testing::Environment* const one_thread =
    testing::AddGlobalTestEnvironment(new OneThread);

/// A small run on the shipped digits: everything that a training step reads.
struct SmallRun {
  explicit SmallRun(double dropout = 0.0, at::Device device = at::kCPU) {
    data_options.path = std::string(DIFFUSE_SOURCE_DIR) + "/data/digits";
    data_options.size = {8};
    data_options.channels = 1;
    data_options.flip = true;
    data_options.workers = 2;
    model.base_channels = 8;
    model.channel_mult = {1, 2};
    model.blocks_per_level = 1;
    model.attention_at = {4};
    model.norm_groups = 4;
    model.dropout = dropout;
    diffusion.steps = 100;
    data.emplace(data_options);
    network.emplace(model, 1, 1, 8, 8, 0);
    objective.emplace(diffusion, device);
  }
  TrainSetup setup(int64_t steps, int64_t micro_batch = 16) const {
    OptimOptions optim;
    optim.lr = 1e-3;
    optim.warmup_steps = 5;
    return {.network = *network,
            .objective = *objective,
            .time_sampler = diffusion.time_sampler,
            .image_shape = {1, 8, 8},
            .optim = optim,
            .steps = steps,
            .batch = 16,
            .micro_batch = micro_batch,
            .seed = 11,
            .bf16 = false};
  }
  TrainState fresh() const { return TrainState(network->layout(), network->layout().initial(11)); }
  bool run(
      TrainState& state,
      const TrainSetup& setup,
      std::vector<Action> actions = {},
      std::function<bool()> stop = [] { return false; }) const {
    Batches batches(*data, data_options, 16, 11, state.step);
    return train(state, setup, batches, actions, stop);
  }

  DataOptions data_options;
  UNetOptions model;
  DiffusionOptions diffusion;
  std::optional<Dataset> data;
  std::optional<UNet> network;
  std::optional<Objective> objective;
};

void expect_same(const TrainState& a, const TrainState& b) {
  EXPECT_TRUE(at::equal(a.params.flat(), b.params.flat()));
  EXPECT_TRUE(at::equal(a.ema, b.ema));
  EXPECT_TRUE(at::equal(a.exp_avg, b.exp_avg));
  EXPECT_TRUE(at::equal(a.exp_avg_sq, b.exp_avg_sq));
  EXPECT_TRUE(at::equal(a.updates, b.updates));
  EXPECT_TRUE(at::equal(a.tally, b.tally));
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.images_seen, b.images_seen);
}

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "diffuse-train-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~TempFolder() { fs::remove_all(path); }
  fs::path path;
};

TEST(Train, ResumedThroughACheckpointIsBitExact) {
  const SmallRun run(0.2);
  TrainState whole = run.fresh();
  EXPECT_TRUE(run.run(whole, run.setup(12)));

  const TempFolder folder;
  for (const int64_t stop_at : {1, 5, 11}) {
    TrainState first = run.fresh();
    EXPECT_FALSE(run.run(first, run.setup(12), {}, [&] { return first.step == stop_at; }));
    EXPECT_EQ(first.step, stop_at);
    const CheckpointInfo info{.step = 0,
                              .config = "version: 1\n",
                              .seed = 11,
                              .num_classes = 0,
                              .class_names = {},
                              .images = 1797,
                              .fingerprint = 5,
                              .schedule_table = ""};
    const fs::path checkpoint = save_state(folder.path, first, run.network->layout(), info, true);
    EXPECT_EQ(load_info(checkpoint).step, stop_at);
    EXPECT_EQ(load_info(checkpoint).fingerprint, 5u);

    TrainState second = TrainState(run.network->layout(), run.network->layout().initial(999));
    load_state(checkpoint, run.network->layout(), second);
    expect_same(first, second);
    EXPECT_TRUE(run.run(second, run.setup(12)));
    expect_same(whole, second);
    EXPECT_TRUE(
        at::equal(load_weights(checkpoint / "ema.safetensors", run.network->layout()), first.ema));
  }
}

TEST(Train, MicroBatchesGiveTheSameStepToRounding) {
  const SmallRun run(0.2);
  TrainState whole = run.fresh(), split = run.fresh();
  run.run(whole, run.setup(1));
  run.run(split, run.setup(1, 5));  // 5 + 5 + 5 + 1
  // One gradient, summed in another order: float32 rounding of the largest element, a few hundred
  // terms.
  const double scale = whole.params.grad().abs().max().item<double>();
  EXPECT_LT((whole.params.grad() - split.params.grad()).abs().max().item<double>(), 1e-4 * scale);
  EXPECT_NEAR(
      whole.tally[Tally::loss].item<double>(), split.tally[Tally::loss].item<double>(), 1e-5);
  EXPECT_EQ(whole.images_seen, 16);
  EXPECT_EQ(split.images_seen, 16);
}

TEST(Train, LearnsAndActionsRunWhenDue) {
  const SmallRun run;
  TrainState state = run.fresh();
  std::vector<int64_t> logged, always;
  double first = 0, last = 0;
  const std::vector<Action> actions{
      {.due = every(20),
       .run =
           [&](TrainState& s) {
             logged.push_back(s.step);
             last = s.tally[Tally::loss].item<double>() / 20;
             if (logged.size() == 1) first = last;
             s.tally.narrow(0, 0, Tally::window_end).zero_();
           }},
      {.due = every(1), .run = [&](TrainState& s) { always.push_back(s.step); }},
      {.due = every(0), .run = [](TrainState&) { FAIL(); }},
  };
  EXPECT_TRUE(run.run(state, run.setup(60), actions));
  EXPECT_EQ(logged, (std::vector<int64_t>{20, 40, 60}));
  EXPECT_EQ(always.size(), 60u);
  // A zero-initialised output predicts 0, whose epsilon loss is 1; learning must take a good part
  // of it.
  EXPECT_GT(first, 0.3);
  EXPECT_LT(last, 0.75 * first);
}

TEST(TrainOnAGpu, AgreesWithTheCpuAndResumes) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Device cuda(at::kCUDA, 0);
  const SmallRun cpu_run(0.2), run(0.2, cuda);
  const auto fresh = [&] {
    return TrainState(run.network->layout(), run.network->layout().initial(11).to(cuda));
  };
  TrainState on_cpu = cpu_run.fresh(), whole = fresh(), first = fresh(), second = fresh();
  cpu_run.run(on_cpu, cpu_run.setup(4));
  run.run(whole, run.setup(4));
  // The same draws; float32 convolutions in another order, through 4 updates.
  EXPECT_NEAR(whole.tally.cpu()[Tally::loss].item<double>(),
              on_cpu.tally[Tally::loss].item<double>(),
              1e-3);

  const TempFolder folder;
  run.run(first, run.setup(4), {}, [&] { return first.step == 2; });
  load_state(save_state(folder.path, first, run.network->layout(), {}, true),
             run.network->layout(),
             second);
  EXPECT_TRUE(at::equal(first.params.flat(), second.params.flat()));
  EXPECT_TRUE(run.run(second, run.setup(4)));
  EXPECT_NEAR(second.tally.cpu()[Tally::loss].item<double>(),
              whole.tally.cpu()[Tally::loss].item<double>(),
              1e-3);
}

TEST(Checkpoint, OfAnotherNetworkIsRefused) {
  const SmallRun run;
  const TrainState state = run.fresh();
  const TempFolder folder;
  const fs::path checkpoint = save_state(folder.path, state, run.network->layout(), {}, true);
  UNetOptions wider = run.model;
  wider.base_channels = 16;
  const UNet other(wider, 1, 1, 8, 8, 0);
  TrainState target(other.layout(), other.layout().initial(1));
  try {
    load_state(checkpoint, other.layout(), target);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code, Exit::checkpoint);
    EXPECT_NE(std::string(e.what()).find("model.safetensors"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace diffuse
