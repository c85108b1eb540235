// SPDX-License-Identifier: MIT
#include "train/train.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <random>

#include "base/files.h"
#include "diffusion/support.h"
#include "ops/cuda.h"
#include "support/temp_folder.h"
#include "support/text_files.h"
#include "train/lr.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// These networks are too small to share: on a busy machine threads would only wait for each other.
class OneThread : public testing::Environment {
 public:
  void SetUp() override {
    open_cuda();  // before LibTorch looks for its CUDA part, which it does once
    at::set_num_threads(1);
  }
};
[[maybe_unused]] testing::Environment* const one_thread =
    testing::AddGlobalTestEnvironment(new OneThread);

/// A small run on the shipped digits: everything that a training step reads.
struct SmallRun {
  explicit SmallRun(double dropout = 0.0,
                    at::Device device = at::kCPU,
                    const std::string& time_sampler = "uniform",
                    bool fused_kernels = true)
      : fused(fused_kernels) {
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
    diffusion.time_sampler.select(time_sampler);
    data.emplace(data_options);
    network.emplace(model, 1, 1, 8, 8, 0, false, fused);
    objective.emplace(diffusion, device);
    times.emplace(diffusion.time_sampler, objective->process().bin_edges());
  }
  TrainSetup setup(int64_t steps, int64_t micro_batch = 16) const {
    OptimOptions optim;
    optim.lr = 1e-3;
    optim.warmup_steps = 5;
    return {.network = *network,
            .objective = *objective,
            .times = *times,
            .image_shape = {1, 8, 8},
            .optim = optim,
            .steps = steps,
            .batch = 16,
            .micro_batch = micro_batch,
            .seed = 11,
            .bf16 = false,
            .fused = fused};
  }
  TrainState fresh(uint64_t seed = 11) const {
    TrainState state(network->layout(), network->layout().initial(seed));
    if (needs_history(diffusion.time_sampler))
      state.history = LossHistory(objective->process().bins());
    return state;
  }
  /// The whole set, as TrainSetup::pictures wants it.
  at::Tensor pictures() const {
    const std::span<const uint8_t> pixels = data->pixels();
    return at::from_blob(const_cast<uint8_t*>(pixels.data()),
                         {static_cast<int64_t>(pixels.size()) / 64, 8, 8, 1},
                         at::kByte);
  }
  bool run(
      TrainState& state,
      const TrainSetup& setup,
      std::vector<Action> actions = {},
      std::function<bool()> stop = [] { return false; }) const {
    Batches batches(*data, data_options, 16, 11, state.step, !setup.pictures.defined());
    return train(state, setup, batches, actions, stop);
  }

  bool fused;
  DataOptions data_options;
  UNetOptions model;
  DiffusionOptions diffusion;
  std::optional<Dataset> data;
  std::optional<Model> network;
  std::optional<Objective> objective;
  std::optional<TimeDraw> times;
};

void expect_same(const TrainState& a, const TrainState& b) {
  EXPECT_TRUE(at::equal(a.params.flat(), b.params.flat()));
  EXPECT_TRUE(at::equal(a.ema, b.ema));
  EXPECT_TRUE(at::equal(a.exp_avg, b.exp_avg));
  EXPECT_TRUE(at::equal(a.exp_avg_sq, b.exp_avg_sq));
  EXPECT_TRUE(at::equal(a.updates, b.updates));
  EXPECT_TRUE(at::equal(a.tally, b.tally));
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.history.losses, b.history.losses);
  EXPECT_EQ(a.history.count, b.history.count);
  EXPECT_EQ(a.images_seen, b.images_seen);
}

struct Resumed {
  std::string time_sampler;
  Decay decay;
  bool bf16;
};

TEST(Train, ResumedThroughACheckpointIsBitExact) {
  const TempFolder folder;
  std::vector<Resumed> runs{{"uniform", Decay::constant, true}};
  for (const auto& row : time_samplers())
    for (const Decay decay : {Decay::constant, Decay::cosine, Decay::linear})
      runs.push_back({row.name, decay, false});
  for (const auto& [time_sampler, decay, bf16] : runs) {
    SCOPED_TRACE(time_sampler + ", decay " + std::to_string(static_cast<int>(decay)) +
                 (bf16 ? ", bf16" : ""));
    const SmallRun run(0.2, at::kCPU, time_sampler);
    TrainSetup setup = run.setup(12);
    setup.optim.decay = decay;
    setup.bf16 = bf16;
    TrainState whole = run.fresh();
    EXPECT_TRUE(run.run(whole, setup));
    // During the warm-up (5 steps), at its end, and before the last step.
    const bool plain = decay == Decay::constant && time_sampler == "uniform";
    for (const int64_t stop_at : plain ? std::vector<int64_t>{1, 5, 11} : std::vector<int64_t>{7}) {
      TrainState first = run.fresh();
      EXPECT_FALSE(run.run(first, setup, {}, [&] { return first.step == stop_at; }));
      EXPECT_EQ(first.step, stop_at);
      const CheckpointInfo info{.step = 0,
                                .config = "version: 1\n",
                                .seed = 11,
                                .num_classes = 0,
                                .class_names = {},
                                .images = 1797,
                                .fingerprint = 5,
                                .files = {}};
      const fs::path checkpoint =
          save_state(folder.path(), first, run.network->layout(), info, true);
      EXPECT_EQ(load_info(checkpoint).step, stop_at);
      EXPECT_EQ(load_info(checkpoint).fingerprint, 5u);

      TrainState second = run.fresh(999);
      // A bfloat16 copy of other weights must not outlive them.
      if (bf16) second.params.keep_half(run.network->layout());
      load_state(checkpoint, run.network->layout(), second);
      expect_same(first, second);
      if (bf16) {
        EXPECT_TRUE(at::equal(first.params.half(), second.params.half()));
      }
      EXPECT_TRUE(run.run(second, setup));
      expect_same(whole, second);
      EXPECT_EQ(second.params.half().defined(), bf16);
      if (bf16) {
        EXPECT_TRUE(at::equal(whole.params.half(), second.params.half()));
      }
      EXPECT_TRUE(at::equal(load_weights(checkpoint / "ema.safetensors", run.network->layout()),
                            first.ema));
    }
  }
}

// 54 interruptions: whenever, with any number of workers, and through a checkpoint each time.
TEST(Train, RandomInterruptionsChangeNoBit) {
  const TempFolder folder;
  std::mt19937 random(5);
  int interruptions = 0;
  for (const auto& row : time_samplers()) {
    SCOPED_TRACE(row.name);
    SmallRun run(0.2, at::kCPU, row.name);
    const TrainSetup setup = run.setup(20, random() % 2 == 0 ? 16 : 5);
    TrainState whole = run.fresh();
    EXPECT_TRUE(run.run(whole, setup));
    std::vector<int64_t> steps(19);
    std::iota(steps.begin(), steps.end(), 1);
    std::shuffle(steps.begin(), steps.end(), random);
    steps.resize(9);
    std::sort(steps.begin(), steps.end());
    steps.push_back(20);
    std::optional<fs::path> checkpoint;
    for (const int64_t stop_at : steps) {
      TrainState state = run.fresh(random());  // nothing may be left of it
      if (checkpoint)
        load_state(*checkpoint, run.network->layout(), state);
      else
        state = run.fresh();
      run.data_options.workers = std::array{0, 1, 8}[random() % 3];
      EXPECT_EQ(run.run(state, setup, {}, [&] { return state.step == stop_at; }), stop_at == 20);
      checkpoint = save_state(folder / row.name, state, run.network->layout(), {}, true);
      interruptions += stop_at < 20;
      if (stop_at == 20) expect_same(whole, state);
    }
  }
  EXPECT_GE(interruptions, 50);
}

TEST(Train, AStepThatIsAbandonedLeavesTheStateAsItWas) {
  for (const bool fused : {true, false})
    for (const char* sampler : {"uniform", "importance"}) {
      SCOPED_TRACE(std::string(sampler) + (fused ? ", fused" : ", composed"));
      const SmallRun run(0.2, at::kCPU, sampler, fused);
      TrainSetup setup = run.setup(5, /*micro_batch=*/4);
      TrainState whole = run.fresh();
      EXPECT_TRUE(run.run(whole, setup));
      // Each step has four micro-batches, before each of which it is asked: in the third step,
      // before its first, a middle and its last one.
      for (const int question : {8, 10, 11}) {
        TrainState state = run.fresh(), before = run.fresh();
        TrainSetup two = setup;
        EXPECT_FALSE(run.run(before, two, {}, [&] { return before.step == 2; }));
        int asked = 0;
        setup.abandon = [&] { return asked++ == question; };
        EXPECT_FALSE(run.run(state, setup));
        EXPECT_EQ(asked, question + 1);
        expect_same(before, state);
        setup.abandon = nullptr;
        EXPECT_TRUE(run.run(state, setup));
        expect_same(whole, state);
      }
    }
}

/// Trains one step with an objective that check() accepts; returns whether it does.
class EveryCombination : public testing::Test {
 protected:
  DiffusionOptions options() const {
    DiffusionOptions out;
    out.steps = 50;
    return out;
  }
  void schedule(DiffusionOptions& out, const std::string& name) const {
    out.schedule.select(name);
    if (auto* table = out.schedule.options<TableSchedule>()) table->file = folder_ / "beta.txt";
  }
  void weighting(DiffusionOptions& out, const std::string& name) const {
    out.weighting.select(name);
    if (auto* table = out.weighting.options<TableWeighting>()) table->file = folder_ / "w.txt";
  }
  bool trains(const DiffusionOptions& diffusion) {
    for (const Finding& finding : check(diffusion))
      if (finding.error) {
        EXPECT_THROW(Objective(diffusion, at::kCPU), Error);
        return false;
      }
    const bool learned = is_learned(diffusion.variance), level_weight = diffusion.learned_weight;
    std::optional<Model>& network = networks_[learned ? 1 : 0][level_weight ? 1 : 0];
    if (!network) network.emplace(run_.model, 1, learned ? 2 : 1, 8, 8, 0, level_weight, true);
    const Objective objective(diffusion, at::kCPU);
    const TimeDraw times(diffusion.time_sampler, objective.process().bin_edges());
    const TrainSetup plain = run_.setup(1);
    const TrainSetup setup{.network = *network,
                           .objective = objective,
                           .times = times,
                           .image_shape = plain.image_shape,
                           .optim = plain.optim,
                           .steps = 1,
                           .batch = plain.batch,
                           .micro_batch = plain.micro_batch,
                           .seed = plain.seed,
                           .bf16 = false};
    TrainState state(network->layout(), network->layout().initial(11));
    if (needs_history(diffusion.time_sampler))
      state.history = LossHistory(objective.process().bins());
    const at::Tensor before = state.params.flat().detach().clone();
    EXPECT_TRUE(run_.run(state, setup));
    EXPECT_EQ(state.tally[Tally::good].item<double>(), 1);
    EXPECT_NE(state.tally[Tally::loss].item<double>(), 0);
    EXPECT_TRUE(at::isfinite(state.tally).all().item<bool>());
    EXPECT_TRUE(at::isfinite(state.params.flat()).all().item<bool>());
    EXPECT_FALSE(at::equal(state.params.flat(), before));
    return true;
  }

  void SetUp() override {
    spill(folder_ / "beta.txt", fifty_betas());
    spill(folder_ / "w.txt", some_weights());
  }

 private:
  SmallRun run_;
  TempFolder folder_;
  std::optional<Model> networks_[2][2];
};

TEST_F(EveryCombination, OfScheduleTargetAndWeighting) {
  for (const auto& s : schedules())
    for (const auto& target : predictions())
      for (const auto& w : weightings())
        for (const bool zero : {false, true}) {
          if (zero && (w.name == "p2" || w.name == "sigmoid" || w.name == "snr"))
            continue;  // time is short, and they are like min_snr there
          SCOPED_TRACE(s.name + " " + target.name + " " + w.name +
                       (zero ? " zero terminal SNR" : ""));
          DiffusionOptions diffusion = options();
          schedule(diffusion, s.name);
          weighting(diffusion, w.name);
          diffusion.target.select(target.name);
          diffusion.zero_terminal_snr = zero;
          const bool continuous = diffusion.schedule(50).continuous.has_value();
          // Without signal in the last step there is no way from the noise to x0; without steps
          // there is no step before.
          const bool impossible = (zero && (continuous || target.name == "epsilon" ||
                                            target.name == "score" || target.name == "edm")) ||
                                  (continuous && target.name == "mu");
          EXPECT_EQ(trains(diffusion), !impossible);
        }
}

TEST_F(EveryCombination, OfScheduleTargetAndTimeSampler) {
  for (const auto& s : schedules())
    for (const auto& target : predictions())
      for (const auto& time_sampler : time_samplers()) {
        SCOPED_TRACE(s.name + " " + target.name + " " + time_sampler.name);
        DiffusionOptions diffusion = options();
        schedule(diffusion, s.name);
        diffusion.target.select(target.name);
        diffusion.time_sampler.select(time_sampler.name);
        diffusion.time = TimeKind::automatic;
        if (target.name == "mu") diffusion.time = TimeKind::discrete;
        EXPECT_TRUE(trains(diffusion));
      }
}

TEST_F(EveryCombination, OfLossVarianceTargetAndPath) {
  int arm = 0;
  for (const auto& loss : loss_kinds())
    for (const auto& variance : variances())
      for (const auto& target : predictions())
        for (const auto* s : {"cosine", "edm", "flow"}) {
          // The path and the learned weight in turn: the whole product would take a minute.
          const auto path = std::array{PathKind::vp, PathKind::ve, PathKind::flow}[arm++ % 3];
          SCOPED_TRACE(loss.name + " " + variance.name + " " + target.name + " " + s + " path " +
                       std::to_string(static_cast<int>(path)));
          DiffusionOptions diffusion = options();
          schedule(diffusion, s);
          diffusion.time = TimeKind::discrete;
          diffusion.loss.select(loss.name);
          diffusion.variance.select(variance.name);
          diffusion.target.select(target.name);
          diffusion.path = path;
          diffusion.learned_weight = arm % 2 == 0;
          const bool learned = is_learned(diffusion.variance);
          // A learned variance needs the bound, and the hybrid loss something to learn.
          // The bound is not for a learned weight to change.
          const bool fits =
              loss.name == "vlb" ? !diffusion.learned_weight : (loss.name == "hybrid") == learned;
          EXPECT_EQ(trains(diffusion), fits);
        }
}

TEST(Train, Bfloat16IsFloat32ToItsEightBits) {
  // An output that starts at zero would be zero in any arithmetic.
  SmallRun run;
  run.model.zero_init = false;
  run.network.emplace(run.model, 1, 1, 8, 8, 0, false, run.fused);
  const TrainSetup in_float32 = run.setup(1);
  TrainSetup in_bf16 = run.setup(1);
  in_bf16.bf16 = true;
  TrainState a = run.fresh(), b = run.fresh();
  run.run(a, in_float32);
  run.run(b, in_bf16);
  const double loss = a.tally[Tally::loss].item<double>();
  const double other = b.tally[Tally::loss].item<double>();
  // Each convolution and product rounds input, weight and output to 2^-9 relative, independently:
  // they add as squares to a relative error of the output. The target (noise) has mean square 1, so
  // the output's root mean square is at most sqrt(loss) + 1; |a^2 - b^2| <= (|a| + |b|) |a - b|.
  int64_t products = 0;
  for (const ParamInfo& info : run.network->layout().infos()) products += info.shape.size() > 1;
  const double error = std::sqrt(3.0 * static_cast<double>(products)) / 512;
  EXPECT_NEAR(other, loss, 2 * std::sqrt(loss) * error * (std::sqrt(loss) + 1));
  EXPECT_NE(other, loss);  // it was another arithmetic
  EXPECT_TRUE(std::isfinite(other));
  // Weights and gradients stay float32, and the gradient points the same way to the same error.
  EXPECT_EQ(b.params.flat().scalar_type(), at::kFloat);
  const at::Tensor difference = b.params.grad() - a.params.grad();
  EXPECT_LT(difference.norm().item<double>(), 2 * error * a.params.grad().norm().item<double>());
}

// Checkpoints do not depend on how the network lies in memory, and either goes on with the other's.
TEST(Train, FusedAndComposedAreOneRun) {
  const TempFolder folder;
  const SmallRun fused(0.2, at::kCPU, "uniform", true), composed(0.2, at::kCPU, "uniform", false);
  const auto logical = [](const SmallRun& run, const at::Tensor& flat) {
    return run.network->layout().to_row_major(flat);
  };
  TrainState a = fused.fresh(), b = composed.fresh();
  EXPECT_TRUE(at::equal(logical(fused, a.params.flat()), logical(composed, b.params.flat())));
  TrainSetup setup_a = fused.setup(1), setup_b = composed.setup(1);
  setup_a.optim.grad_clip = setup_b.optim.grad_clip = 0;  // LibTorch's clips in place
  fused.run(a, setup_a);
  composed.run(b, setup_b);
  // One gradient in two roundings, as with micro-batches below.
  const at::Tensor grad = logical(composed, b.params.grad());
  EXPECT_LT((logical(fused, a.params.grad()) - grad).abs().max().item<double>(),
            1e-4 * grad.abs().max().item<double>());
  EXPECT_NEAR(a.tally[Tally::loss].item<double>(), b.tally[Tally::loss].item<double>(), 1e-5);

  const auto swap = [&](const SmallRun& from, const TrainState& state, const SmallRun& to) {
    TrainState other = to.fresh(999);
    load_state(save_state(folder.path(), state, from.network->layout(), {}, true),
               to.network->layout(),
               other);
    for (const auto& [mine, theirs] : {std::pair(state.params.flat(), other.params.flat()),
                                       std::pair(state.ema, other.ema),
                                       std::pair(state.exp_avg, other.exp_avg),
                                       std::pair(state.exp_avg_sq, other.exp_avg_sq)})
      EXPECT_TRUE(at::equal(logical(from, mine), logical(to, theirs)));
    EXPECT_TRUE(to.run(other, to.setup(2)));
    EXPECT_EQ(other.tally[Tally::good].item<double>(), 2);
  };
  swap(fused, a, composed);
  swap(composed, b, fused);
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

TEST(Train, AnotherNumberOfThreadsGivesTheSameStepToRounding) {
  const SmallRun run(0.2);
  TrainState one = run.fresh(), three = run.fresh();
  run.run(one, run.setup(1));
  at::set_num_threads(3);
  run.run(three, run.setup(1));
  at::set_num_threads(1);
  // As above: the same pictures, noise and times, or the loss would be another by far.
  const double scale = one.params.grad().abs().max().item<double>();
  EXPECT_LT((one.params.grad() - three.params.grad()).abs().max().item<double>(), 1e-4 * scale);
  EXPECT_NEAR(one.tally[Tally::loss].item<double>(), three.tally[Tally::loss].item<double>(), 1e-5);
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

TEST(Train, PicturesOfAResidentSetAreThoseOfTheBatches) {
  const SmallRun run(0.2);
  TrainState batches = run.fresh(), resident = run.fresh();
  TrainSetup setup = run.setup(5, 6);
  EXPECT_TRUE(run.run(batches, setup));
  setup.pictures = run.pictures();
  EXPECT_TRUE(run.run(resident, setup));
  expect_same(batches, resident);
}

/// A copy on `device` through a checkpoint, as resuming makes it.
TrainState resumed(const SmallRun& run,
                   const TrainState& state,
                   at::Device device,
                   const fs::path& folder) {
  const ParamLayout& layout = run.network->layout();
  TrainState out(layout, layout.initial(999).to(device));
  load_state(save_state(folder, state, layout, {}, true), layout, out);
  return out;
}

/// A setup whose step shows every part of the update, but for clipping.
TrainSetup plain_update(const SmallRun& run) {
  TrainSetup setup = run.setup(20);
  setup.optim.grad_clip = 0;
  setup.optim.weight_decay = 0.5;
  return setup;
}

void take_steps(const SmallRun& run, const TrainSetup& setup, TrainState& state, int64_t count) {
  if (count == 0) return;
  const int64_t last = state.step + count;
  run.run(state, setup, {}, [&] { return state.step == last; });
}

/// `after` is one step of AdamW (Loshchilov & Hutter 2019, algorithm 2) and of the average on from
/// `before`, by the gradient that the step has left, up to the roundings of float32.
void expect_step(const TrainState& before,
                 const TrainState& after,
                 const ParamLayout& layout,
                 const OptimOptions& o,
                 int64_t steps) {
  constexpr double kUnit = 0x1p-24;
  ASSERT_EQ(after.step, before.step + 1);
  const auto wide = [](const at::Tensor& t) { return t.detach().to(at::kDouble).cpu(); };
  const at::Tensor g = wide(after.params.grad()), w = wide(before.params.flat());
  const double n = before.updates.item<double>() + 1;
  const double lr = learning_rate(o, before.step, steps), share = 1 - ema_decay(o, after.step);
  const auto moment = [](double beta, const at::Tensor& old, const at::Tensor& by) {
    return old * beta + by * (1 - beta);
  };
  const at::Tensor m_old = wide(before.exp_avg);
  const at::Tensor m = moment(o.betas[0], m_old, g),
                   m_size = moment(o.betas[0], m_old.abs(), g.abs()),
                   v = moment(o.betas[1], wide(before.exp_avg_sq), g * g);
  const at::Tensor slope =
      lr / (1 - std::pow(o.betas[0], n)) / ((v / (1 - std::pow(o.betas[1], n))).sqrt() + o.eps);
  at::Tensor decay = at::zeros_like(w);
  decay.narrow(0, 0, layout.decay_end()).fill_(lr * o.weight_decay);
  const at::Tensor w_new = w * (1 - decay) - slope * m, average = wide(before.ema);
  const at::Tensor of_w = kUnit * (3 * w.abs() + 16 * slope * m_size);
  const auto expect = [&](const at::Tensor& got,
                          const at::Tensor& want,
                          const at::Tensor& bound,
                          const char* what) {
    const at::Tensor error = (wide(got) - want).abs() / (bound + 1e-37);  // squares underflow
    EXPECT_LE(error.max().item<double>(), 1) << what;
  };
  // Two factors, two products and a sum; in v a square, too. The step has m's, half of v's, and
  // those of a root, a sum, two factors, two products and a quotient.
  expect(after.exp_avg, m, 5 * kUnit * m_size, "exp_avg");
  expect(after.exp_avg_sq, v, 6 * kUnit * v, "exp_avg_sq");
  expect(after.params.flat(), w_new, of_w, "weights");
  expect(after.ema,
         average + share * (w_new - average),
         of_w + 4 * kUnit * (average.abs() + w_new.abs()),
         "ema");
}

TEST(Train, AStepIsAdamWAndTheAverageOfItsGradient) {
  const SmallRun run(0.2);
  const TempFolder folder;
  const TrainSetup setup = plain_update(run);
  TrainState state = run.fresh();
  for (const int64_t done : {0, 1, 4}) {  // the average begins, has begun, and warm-up has ended
    take_steps(run, setup, state, done - state.step);
    const TrainState before = resumed(run, state, at::kCPU, folder.path());
    take_steps(run, setup, state, 1);
    expect_step(before, state, run.network->layout(), setup.optim, setup.steps);
  }
}

TEST(TrainOnAGpu, AgreesWithTheCpuAndResumes) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  // Float32 means float32: cuDNN allows TF32 by default.
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
  const at::Device cuda(at::kCUDA, 0);
  const SmallRun cpu_run(0.2), run(0.2, cuda);
  const ParamLayout& layout = run.network->layout();
  const TrainSetup setup = plain_update(run), cpu_setup = plain_update(cpu_run);
  const TempFolder folder;
  TrainState there(layout, layout.initial(11).to(cuda));
  take_steps(run, setup, there, 3);
  // A step from one state: on the GPU, resumed there, and on the CPU.
  const TrainState before = resumed(cpu_run, there, at::kCPU, folder.path());
  TrainState again = resumed(run, there, cuda, folder.path()),
             here = resumed(cpu_run, there, at::kCPU, folder.path());
  take_steps(run, setup, there, 1);
  take_steps(run, setup, again, 1);
  take_steps(cpu_run, cpu_setup, here, 1);
  const double largest = here.params.grad().abs().max().item<double>();
  for (const TrainState* state : {&there, &again}) {
    // One gradient, summed in another order, as with micro-batches above.
    EXPECT_LT((state->params.grad().cpu() - here.params.grad()).abs().max().item<double>(),
              1e-4 * largest);
    EXPECT_NEAR(state->tally.cpu()[Tally::loss].item<double>(),
                here.tally[Tally::loss].item<double>(),
                1e-5);
    expect_step(before, *state, layout, setup.optim, setup.steps);
  }
}

TEST(TrainOnAGpu, ReplayedStepsEqualEagerOnes) {
  std::string why;
  if (open_cuda(&why) == nullptr) GTEST_SKIP() << "no GPU: " << why;
  const at::Device cuda(at::kCUDA, 0);
  for (const bool bf16 : {false, true})
    for (const bool resident : {false, true}) {
      SCOPED_TRACE(std::string(bf16 ? "bf16" : "fp32") + (resident ? ", resident" : ""));
      const SmallRun run(0.2, cuda);
      std::vector<TrainState> states;
      for (const bool capture : {false, true}) {
        states.emplace_back(run.network->layout(), run.network->layout().initial(11).to(cuda));
        TrainSetup setup = run.setup(23, 6);  // micro-batches of 6, 6 and 4
        setup.bf16 = bf16;
        setup.capture = capture;
        bool captured = false;
        setup.captured = [&] { captured = true; };
        if (resident) setup.pictures = run.pictures().to(cuda);
        EXPECT_TRUE(run.run(states.back(), setup));
        EXPECT_EQ(captured, capture);
      }
      // 3 eager steps and 20 replays: the same draws, rates and counters. Sums by atomics may come
      // in another order, which changes last bits, and those grow from step to step.
      const at::Tensor eager = states[0].tally.cpu(), replayed = states[1].tally.cpu();
      for (const auto slot : {Tally::steps, Tally::good, Tally::skipped, Tally::skipped_in_row})
        EXPECT_EQ(eager[slot].item<double>(), replayed[slot].item<double>());
      EXPECT_NEAR(eager[Tally::ema_initial].item<double>(),
                  replayed[Tally::ema_initial].item<double>(),
                  1e-12);
      for (const auto slot : {Tally::loss, Tally::grad_norm})
        EXPECT_NEAR(
            eager[slot].item<double>() / replayed[slot].item<double>(), 1, bf16 ? 1e-2 : 1e-4);
    }
}

TEST(Checkpoint, OfAnotherNetworkIsRefused) {
  const SmallRun run;
  const TrainState state = run.fresh();
  const TempFolder folder;
  const fs::path checkpoint = save_state(folder.path(), state, run.network->layout(), {}, true);
  UNetOptions wider = run.model;
  wider.base_channels = 16;
  const Model other(wider, 1, 1, 8, 8, 0);
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
