// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <set>

#include "core/rollback.h"
#include "data/point_batches.h"
#include "io/checkpoint.h"
#include "support/temp_folder.h"
#include "support/trials.h"
#include "train/train.h"

// NaN and infinity put into a run where they could come from: samples, gradients, and the memory of
// weights, average and moments.

namespace diffuse {
namespace {

namespace fs = std::filesystem;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kBad[] = {kNan, kInf, -kInf};

/// Points in batches of 8, one of which `bad` spoils: the loss is not finite then.
class SpoiltBatches : public BatchSource {
 public:
  SpoiltBatches(uint64_t seed, int64_t first, std::function<std::optional<float>(int64_t)> bad)
      : batches_(GaussianPoints{}(), 8, seed, first), bad_(std::move(bad)) {}
  Batch next() override {
    Batch out = batches_.next();
    if (const auto value = bad_(out.step))
      out.values[static_cast<size_t>(out.step) % out.values.size()] = *value;
    return out;
  }
  double waited() const override { return 0; }

 private:
  PointBatches batches_;
  std::function<std::optional<float>(int64_t)> bad_;
};

struct PointRun {
  explicit PointRun(bool fused_) : fused(fused_) {
    mlp.hidden = 16;
    mlp.layers = 1;
    diffusion.steps = 100;
    network.emplace(mlp, 2, 2, 0);
    objective.emplace(diffusion, at::kCPU, 0);
    times.emplace(diffusion.time_sampler, objective->process().bin_edges());
    optim.lr = 1e-3;
    optim.warmup_steps = 0;
    optim.ema_decay = 0.9;
  }
  TrainState fresh() const { return {network->layout(), network->layout().initial(1)}; }
  bool run(
      TrainState& state,
      int64_t steps,
      const std::vector<Action>& actions = {},
      const std::function<std::optional<float>(int64_t)>& bad = [](int64_t) {
        return std::nullopt;
      }) const {
    SpoiltBatches batches(1, state.step, bad);
    return train(state,
                 {.network = *network,
                  .objective = *objective,
                  .times = *times,
                  .image_shape = {2, 1, 1},
                  .optim = optim,
                  .steps = steps,
                  .batch = 8,
                  .micro_batch = 8,
                  .seed = 1,
                  .bf16 = false,
                  .fused = fused},
                 batches,
                 actions,
                 [] { return false; });
  }

  bool fused;
  MlpOptions mlp;
  DiffusionOptions diffusion;
  OptimOptions optim;
  std::optional<Model> network;
  std::optional<Objective> objective;
  std::optional<TimeDraw> times;
};

class Faults : public testing::TestWithParam<bool> {};

/// A run in which a hundred random steps have a bad loss or gradient.
void skip_a_hundred(bool fused, unsigned seed) {
  const PointRun run(fused);
  constexpr int64_t kSteps = 250, kFaults = 100;
  std::mt19937 random(seed);
  std::set<int64_t> faults;
  while (static_cast<int64_t>(faults.size()) < kFaults)
    faults.insert(static_cast<int64_t>(random() % kSteps));
  TrainState state = run.fresh();
  const auto value = [](int64_t step) { return kBad[step / 2 % 3]; };
  const auto in_loss = [&](int64_t step) -> std::optional<float> {
    if (step % 2 == 0 && faults.contains(step)) return value(step);
    return std::nullopt;
  };
  // The gradient of one weight alone; the loss stays finite.
  const at::Tensor& leaf = state.params.weights()[2];
  leaf.register_hook([&](const at::Tensor& grad) {
    if (state.step % 2 == 0 || !faults.contains(state.step)) return grad;
    at::Tensor spoilt = grad.clone();
    spoilt.view(-1)[state.step % grad.numel()] = value(state.step);
    return spoilt;
  });
  at::Tensor weights = state.params.flat().clone(), ema = state.ema.clone();
  int64_t skipped = 0, in_row = 0, longest = 0;
  const Action look{
      .due = every(1), .run = [&](TrainState& s) {
        const bool bad = faults.contains(s.step - 1);
        skipped += bad;
        in_row = bad ? in_row + 1 : 0;
        longest = std::max(longest, in_row);
        EXPECT_EQ(at::equal(s.params.flat(), weights), bad) << s.step;
        EXPECT_EQ(at::equal(s.ema, ema), bad) << s.step;
        EXPECT_TRUE(is_finite(s)) << s.step;
        EXPECT_EQ(s.tally[Tally::skipped].item<double>(), static_cast<double>(skipped));
        EXPECT_EQ(s.tally[Tally::skipped_in_row].item<double>(), static_cast<double>(in_row));
        EXPECT_EQ(s.tally[Tally::longest_row].item<double>(), static_cast<double>(longest));
        weights = s.params.flat().clone();
        ema = s.ema.clone();
      }};
  EXPECT_TRUE(run.run(state, kSteps, {look}, in_loss));
  EXPECT_EQ(state.tally[Tally::steps].item<double>(), kSteps);
  EXPECT_EQ(state.tally[Tally::good].item<double>(), kSteps - kFaults);
  EXPECT_EQ(state.updates.item<float>(), kSteps - kFaults);
  EXPECT_TRUE(std::isfinite(state.tally[Tally::loss].item<double>()));
  EXPECT_TRUE(std::isfinite(state.tally[Tally::grad_norm].item<double>()));
  count_done("losses and gradients that were not finite skipped", skipped);
}

TEST_P(Faults, ABadLossOrGradientIsSkippedAtAHundredRandomSteps) {
  for (int trial = 0; trial < trials(1); ++trial)
    skip_a_hundred(GetParam(), static_cast<unsigned>(trial));
}

INSTANTIATE_TEST_SUITE_P(Fused, Faults, testing::Bool());

TEST(StateFaults, ABadValueInAnyBufferIsNoticed) {
  const PointRun run(true);
  std::mt19937 random(6);
  TrainState state = run.fresh();
  EXPECT_TRUE(run.run(state, 3));
  EXPECT_FALSE(divergence(state, 1));
  int noticed = 0;
  for (int i = 0; i < 100 * trials(1); ++i) {
    const at::Tensor buffers[] = {state.params.flat(), state.ema, state.exp_avg, state.exp_avg_sq};
    const at::Tensor& buffer = buffers[i % 4];
    const auto place = static_cast<int64_t>(random()) % buffer.numel();
    const float before = buffer[place].item<float>();
    buffer.mutable_data_ptr<float>()[place] = kBad[i % 3];
    EXPECT_FALSE(is_finite(state));
    EXPECT_TRUE(divergence(state, 1));
    buffer.mutable_data_ptr<float>()[place] = before;
    ++noticed;
  }
  count_done("bad values in state noticed", noticed);
  EXPECT_TRUE(is_finite(state));
}

/// A folder of checkpoints of a short run, and the run.
class RollBack : public testing::Test {
 protected:
  fs::path save(const TrainState& state) {
    return save_state(folder_.path(), state, run_.network->layout(), {}, true);
  }
  /// Checkpoints of steps 3, 6, 9, 12, of which `spoil` changes what is saved.
  void train_to_12(const std::function<void(TrainState&)>& spoil) {
    const Action keep{.due = every(3), .run = [&](TrainState& s) {
                        if (s.step == 6) at_6_.emplace(copy_of(s));
                        TrainState saved = copy_of(s);
                        spoil(saved);
                        save(saved);
                      }};
    EXPECT_TRUE(run_.run(state_, 12, {keep}));
  }
  TrainState copy_of(const TrainState& s) {
    TrainState out = run_.fresh();
    out.params.flat().copy_(s.params.flat());
    out.ema.copy_(s.ema);
    out.tally.copy_(s.tally);
    out.step = s.step;
    return out;
  }
  void back(const std::optional<fs::path>& start = std::nullopt) {
    roll_back(state_, run_.network->layout(), 1, folder_.path(), start);
  }
  std::vector<std::string> checkpoints() const {
    std::vector<std::string> out;
    for (const fs::path& path : list_checkpoints(folder_.path()))
      out.push_back(path.filename().string().substr(12));
    return out;
  }

  const PointRun run_{true};
  const TempFolder folder_;
  TrainState state_ = run_.fresh();
  std::optional<TrainState> at_6_;
};

TEST_F(RollBack, GoesToTheNewestGoodCheckpointAndFurtherBackEachTime) {
  train_to_12([](TrainState& s) {
    if (s.step == 9) s.tally[Tally::skipped_in_row] = 2;  // saved amid a row of bad steps
    if (s.step == 12) s.ema[3] = kNan;                    // saved by other hands
  });
  back();
  EXPECT_EQ(state_.step, 6);
  EXPECT_EQ(state_.rollbacks, 1);
  EXPECT_EQ(state_.rolled_back_to, 6);
  EXPECT_TRUE(at::equal(state_.params.flat(), at_6_->params.flat()));
  EXPECT_TRUE(at::equal(state_.ema, at_6_->ema));
  EXPECT_EQ(checkpoints(), (std::vector<std::string>{"03", "06"}));
  EXPECT_TRUE(fs::exists(folder_.path() / "aside-step-000000012"));

  // The count outlives the process.
  TrainState resumed = run_.fresh();
  load_state(save(state_), run_.network->layout(), resumed);
  EXPECT_EQ(resumed.rollbacks, 1);
  EXPECT_EQ(resumed.rolled_back_to, 6);

  back();  // without a checkpoint since the last time
  EXPECT_EQ(state_.step, 3);
  EXPECT_EQ(state_.rollbacks, 2);
  back();  // there is none before
  EXPECT_EQ(state_.step, 3);
  EXPECT_EQ(state_.rollbacks, 3);
  EXPECT_EQ(checkpoints(), (std::vector<std::string>{"03"}));
}

TEST_F(RollBack, WhereAllWereSavedAmidARowItIsTheNewestOfThem) {
  train_to_12([](TrainState& s) {
    s.tally[Tally::skipped_in_row] = 4;
    s.tally[Tally::longest_row] = 4;
  });
  EXPECT_FALSE(divergence(state_, 5));
  state_.tally[Tally::longest_row] = 5;
  EXPECT_TRUE(divergence(state_, 5));
  EXPECT_FALSE(divergence(state_, 0));
  back();
  EXPECT_EQ(state_.step, 12);
  EXPECT_FALSE(divergence(state_, 1));
  EXPECT_EQ(state_.tally[Tally::skipped_in_row].item<double>(), 0);
}

TEST_F(RollBack, WithoutAGoodOneOfItsOwnItIsWhatTheRunBeganWith) {
  const TempFolder other;
  TrainState start = run_.fresh();
  EXPECT_TRUE(run_.run(start, 2));
  const fs::path saved = save_state(other.path(), start, run_.network->layout(), {}, true);
  train_to_12([](TrainState& s) { s.ema[0] = kNan; });
  back(saved);
  EXPECT_EQ(state_.step, 2);
  EXPECT_EQ(state_.rollbacks, 1);
  EXPECT_TRUE(at::equal(state_.params.flat(), start.params.flat()));
  EXPECT_TRUE(checkpoints().empty());
  EXPECT_TRUE(fs::exists(saved));
}

TEST_F(RollBack, ADamagedCheckpointIsPassedOver) {
  train_to_12([](TrainState&) {});
  std::error_code none;
  fs::resize_file(folder_.path() / "step-000000012" / "ema.safetensors", 100, none);
  back();
  EXPECT_EQ(state_.step, 9);
}

TEST_F(RollBack, WithoutAGoodCheckpointItIsTheBeginning) {
  train_to_12([](TrainState& s) { s.exp_avg[0] = kInf; });
  back();
  EXPECT_EQ(state_.step, 0);
  EXPECT_EQ(state_.rollbacks, 1);
  EXPECT_EQ(state_.updates.item<float>(), 0);
  const TrainState fresh = run_.fresh();
  EXPECT_TRUE(at::equal(state_.params.flat(), fresh.params.flat()));
  EXPECT_TRUE(at::equal(state_.ema, fresh.ema));
  EXPECT_TRUE(at::equal(state_.tally, fresh.tally));
  EXPECT_EQ(state_.exp_avg.abs().sum().item<double>(), 0);
  EXPECT_TRUE(checkpoints().empty());
}

/// A run whose memory goes bad at three random steps, judged at every fifth and before each
/// checkpoint, as diffuse train does.
int64_t recover_from_spoilt_memory(unsigned seed) {
  constexpr int64_t kSteps = 60;
  const PointRun run(true);
  const TempFolder folder;
  std::mt19937 random(seed);
  std::set<int64_t> spoilt;
  while (spoilt.size() < 3) spoilt.insert(1 + static_cast<int64_t>(random() % kSteps));
  TrainState state = run.fresh();
  const auto judge = [&](const TrainState& s) {
    if (const auto why = divergence(s, run.optim.max_skips_in_row)) throw Diverged(*why);
  };
  const Action spoil{
      .due = [&](int64_t step) { return spoilt.erase(step) > 0; },
      .run =
          [&](TrainState& s) {
            const at::Tensor buffers[] = {s.params.flat(), s.ema, s.exp_avg, s.exp_avg_sq};
            const at::Tensor& buffer = buffers[random() % 4];
            buffer[static_cast<int64_t>(random() % 16)] = kBad[random() % 3];
          }};
  const Action look{.due = every(5), .run = judge};
  const Action save{.due = every(3), .run = [&](TrainState& s) {
                      judge(s);
                      save_state(folder.path(), s, run.network->layout(), {}, false);
                    }};
  int64_t back = 0;
  for (bool going = true; going;) {
    try {
      going = !run.run(state, kSteps, {spoil, look, save});
    } catch (const Diverged&) {
      if (++back > run.optim.max_rollbacks) {
        ADD_FAILURE() << back;
        return back;
      }
      const int64_t from = state.step;
      roll_back(state, run.network->layout(), 1, folder.path(), std::nullopt);
      EXPECT_GE(state.step, from - 6) << "further back than the last good checkpoint";
    }
    EXPECT_TRUE(is_finite(state));
    EXPECT_EQ(state.rollbacks, back);
  }
  // Each was noticed, unless two came before the same look.
  EXPECT_TRUE(spoilt.empty());
  EXPECT_GE(back, 1);
  EXPECT_EQ(state.step, kSteps);
  TrainState saved = run.fresh();
  for (const fs::path& checkpoint : list_checkpoints(folder.path())) {
    load_state(checkpoint, run.network->layout(), saved);
    EXPECT_TRUE(is_finite(saved)) << checkpoint;
  }
  return back;
}

TEST(StateFaults, SpoiltMemoryIsRolledBackAndNeverSaved) {
  int64_t back = 0;
  for (int trial = 0; trial < 20 * trials(1); ++trial) {
    SCOPED_TRACE(trial);
    back += recover_from_spoilt_memory(static_cast<unsigned>(trial));
  }
  count_done("rollbacks from bad values in a run", back);
}

TEST_F(RollBack, AStartPassesOverWhatIsNotFinite) {
  train_to_12([](TrainState& s) {
    if (s.step > 6) s.params.flat()[1] = -kInf;
  });
  EXPECT_EQ(load_newest_finite(folder_.path(), run_.network->layout(), state_).filename().string(),
            "step-000000006");
  EXPECT_EQ(state_.step, 6);
  EXPECT_EQ(state_.rollbacks, 0);
  fs::remove_all(folder_.path() / "step-000000003");
  fs::remove_all(folder_.path() / "step-000000006");
  EXPECT_THROW(load_newest_finite(folder_.path(), run_.network->layout(), state_), Error);
}

TEST(DrawSeed, IsTheRunsOwnUntilARollback) {
  std::set<uint64_t> seeds;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 63}) {
    EXPECT_EQ(draw_seed(seed, 0), seed);
    for (int64_t n = 0; n < 50; ++n) seeds.insert(draw_seed(seed, n));
  }
  EXPECT_EQ(seeds.size(), 150u);
}

// The guard, whose window is part of the state.
TEST(GuardedRun, ResumesThroughACheckpointBitExactly) {
  for (const bool fused : {false, true}) {
    PointRun run(fused);
    run.optim.spike_guard = 1.5;  // so low that a healthy run meets it
    TrainState whole = run.fresh(), first = run.fresh(), second = run.fresh();
    EXPECT_TRUE(run.run(whole, 400));
    EXPECT_GT(whole.spikes[SpikeWindow::spikes].item<double>(), 5);
    EXPECT_EQ(whole.spikes[SpikeWindow::spikes].item<double>(),
              whole.tally[Tally::skipped].item<double>());
    EXPECT_EQ(whole.spikes[SpikeWindow::seen].item<double>(), 400);
    EXPECT_EQ(whole.updates.item<float>(), 400 - whole.tally[Tally::skipped].item<double>());
    const TempFolder folder;
    EXPECT_TRUE(run.run(first, 217));
    load_state(save_state(folder.path(), first, run.network->layout(), {}, true),
               run.network->layout(),
               second);
    EXPECT_TRUE(run.run(second, 400));
    EXPECT_TRUE(at::equal(whole.params.flat(), second.params.flat()));
    EXPECT_TRUE(at::equal(whole.spikes, second.spikes));
    EXPECT_TRUE(at::equal(whole.tally, second.tally));
  }
}

TEST(GuardedRun, OffItChangesNothingAndKeepsNoWindow) {
  const PointRun off(true);
  PointRun on(true);
  on.optim.spike_guard = 1e6;  // nothing is so far out
  TrainState a = off.fresh(), b = on.fresh();
  EXPECT_TRUE(off.run(a, 200));
  EXPECT_TRUE(on.run(b, 200));
  EXPECT_TRUE(at::equal(a.params.flat(), b.params.flat()));
  EXPECT_EQ(a.spikes.abs().sum().item<double>(), 0);
  const TempFolder folder;
  EXPECT_FALSE(fs::exists(save_state(folder.path(), a, off.network->layout(), {}, true) /
                          "spikes.safetensors"));
}

}  // namespace
}  // namespace diffuse
