// SPDX-License-Identifier: MIT
#include "train/train.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "base/files.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "config/values.h"
#include "core.h"
#include "core/commands.h"
#include "core/model.h"
#include "core/points.h"
#include "core/rollback.h"
#include "core/test_images.h"
#include "core/train_actions.h"
#include "core/validation.h"
#include "data/point_batches.h"
#include "diffusion/number_file.h"
#include "io/run_folder.h"
#include "ops/cuda.h"
#include "ops/room.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

bool is_allowed(const TrainRequest& request, const std::string& key) {
  return std::any_of(
      request.allow_change.begin(), request.allow_change.end(), [&](const std::string& allowed) {
        return key == allowed || key.starts_with(allowed + ".");
      });
}

/// A run must not go on with other maths than it began with. Throws Error{checkpoint}.
void refuse_changes(const TrainRequest& request,
                    const fs::path& checkpoint,
                    const CheckpointInfo& saved) {
  const Config& now = request.loaded.config;
  const Config before = saved_config(saved, checkpoint);
  std::vector<std::string> changed = config_differences(before, now, true);
  // Tables are compared by their numbers: the checkpoint has copies of the files.
  if (now.diffusion.schedule.name() == "table" && before.diffusion.schedule.name() == "table") {
    std::erase_if(changed, [](const std::string& line) {
      return line.starts_with("diffusion.schedule.file:");
    });
    if (before.diffusion.schedule(before.diffusion.steps).beta !=
        now.diffusion.schedule(now.diffusion.steps).beta)
      changed.push_back("diffusion.schedule.file: other numbers");
  }
  const auto* now_table = now.diffusion.weighting.options<TableWeighting>();
  const auto* table_before = before.diffusion.weighting.options<TableWeighting>();
  if (now_table != nullptr && table_before != nullptr) {
    std::erase_if(changed, [](const std::string& line) {
      return line.starts_with("diffusion.weighting.file:");
    });
    if (read_number_file(now_table->file, 2) != read_number_file(table_before->file, 2))
      changed.push_back("diffusion.weighting.file: other numbers");
  }
  // The learning rate's decay depends on the length of the run.
  if (now.optim.decay != Decay::constant && before.train.steps != now.train.steps)
    changed.push_back("train.steps: " + std::to_string(before.train.steps) + " -> " +
                      std::to_string(now.train.steps) + " (optim.decay depends on it)");
  std::string refused;
  for (const std::string& line : changed)
    if (!is_allowed(request, line.substr(0, line.find(':')))) refused += "\n  " + line;
  if (!refused.empty())
    throw Error(
        Exit::checkpoint,
        checkpoint.string() + " was trained with other settings:" + refused +
            "\nUse the former values, start a new run, or allow a change with --allow-change KEY.");
}

void refuse_other_data(const TrainRequest& request,
                       const CheckpointInfo& saved,
                       const CheckpointInfo& now,
                       bool other_holdout) {
  if (saved.images == now.images && saved.fingerprint == now.fingerprint) return;
  if (other_holdout)  // allowed, or it had been refused with the other keys
    log::warn(
        "data.holdout was another before: pictures that this run was trained on may now be held "
        "out, so its held-out figures say less");
  else if (!is_allowed(request, "data") && !is_allowed(request, "data.path"))
    throw Error(Exit::checkpoint,
                "the pictures in " + request.loaded.config.data.path +
                    " are not those that the run began with (" + std::to_string(saved.images) +
                    " then, " + std::to_string(now.images) +
                    " now, or other names or sizes); put them back, or go on with --allow-change "
                    "data.path");
}

Dataset open_data(const TrainRequest& request, const Signals& signals) {
  std::optional<Progress> progress;
  return Dataset(request.loaded.config.data, [&](int64_t done, int64_t total) {
    if (signals.stop() != Exit::ok)
      throw Error(signals.stop(), "stopped while the pictures were read; nothing was lost");
    if (!progress) progress.emplace(request.global.progress, "decode", 0, total);
    progress->update(done, "pictures");
  });
}

int64_t count_classes(const Config& config, const DataScan& scan) {
  if (config.data.are_points() || !config.model.class_conditional) return 0;
  require_classes(config.data, scan.label_names);
  return static_cast<int64_t>(scan.label_names.size());
}

std::vector<std::pair<std::string, std::string>> environment(const std::string& git,
                                                             at::Device device) {
  std::string name = device.str();
  if (const CudaOps* cuda = device.is_cuda() ? open_cuda() : nullptr)
    name += " (" + cuda->device_name(device.index()) + ")";
  return {{"diffuse", DIFFUSE_VERSION},
          {"git", git},
          {"libtorch", TORCH_VERSION},
          {"device", name},
          {"threads", std::to_string(at::get_num_threads())}};
}

/// Trains for one step and reports; nothing is written.
int dry_run(const TrainRequest& request,
            TrainState& state,
            TrainSetup setup,
            BatchSource& batches) {
  setup.steps = state.step + 1;
  state.tally.narrow(0, 0, Tally::window_end).zero_();
  const WorkClock clock;
  train(state, setup, batches, {}, [] { return true; });
  const double seconds = clock.seconds();
  char line[256];
  std::snprintf(line,
                sizeof(line),
                "dry run: 1 step of %lld %s in %.2f s, loss %.4f, %lld parameters; %s\n",
                static_cast<long long>(setup.batch),
                request.loaded.config.data.are_points() ? "points" : "images",
                seconds,
                state.tally[Tally::loss].item<double>(),
                static_cast<long long>(setup.network.parameter_count()),
                "nothing was written");
  write_to_stdout(std::string(line), "the result");
  log::info("at this speed " + std::to_string(request.loaded.config.train.steps) +
            " steps take about " +
            format_duration(seconds * static_cast<double>(request.loaded.config.train.steps)) +
            " (the first step is slower than the others)");
  return 0;
}

/// One call of `diffuse train`.
struct Session {
  const TrainRequest& request;
  const Config& config;
  Signals& signals;
  WorkClock clock;
  std::optional<fs::path> start;        // the checkpoint to go on from
  std::optional<CheckpointInfo> saved;  // its info
  at::Device device = at::kCPU;
  bool bf16 = false;
  std::optional<RunFolder> folder;  // none for a dry run
  RunStatus status;

  /// `start`, when it lies in the run's own folder.
  std::optional<fs::path> own_start() const {
    std::error_code error;
    // What was set aside in that folder was given up: it is a start like another run's.
    const bool own = start && folder && start->filename().string().starts_with("step-") &&
                     fs::equivalent(start->parent_path(), folder->checkpoints(), error);
    return own ? start : std::nullopt;
  }
  bool stopping() const { return signals.stop() != Exit::ok; }
  bool out_of_time() const {
    return request.stop_after_seconds > 0 &&
           clock.seconds() > static_cast<double>(request.stop_after_seconds);
  }
  void write_status(const std::string& state, std::optional<int> exit) {
    status.state = state;
    status.exit = exit;
    if (exit) status.eta_seconds = std::nullopt;
    if (folder) folder->write_status(status);
  }
};

/// Looks for the checkpoint to go on from and sets the session's `start` and `saved`; none: a new
/// run. Returns whether it has all steps already, and says so.
bool find_start(Session& session) {
  const TrainRequest& request = session.request;
  if (request.resume == "never") return false;
  if (request.resume != "auto")
    session.start = find_checkpoint(request.resume);
  else if (request.run_dir.empty())
    throw Error(Exit::usage, "--resume auto needs --run-dir: which run is to go on?");
  else
    session.start = newest_checkpoint(fs::path(request.run_dir) / "checkpoints");
  if (!session.start) return false;
  session.saved = load_info(*session.start);
  session.status.step = session.saved->step;
  refuse_changes(request, *session.start, *session.saved);
  if (session.saved->step < session.config.train.steps) return false;
  log::info(session.start->string() + " has all " + std::to_string(session.config.train.steps) +
            " steps: nothing to do. A longer run: --set train.steps=N");
  return true;
}

/// A new checkpoint is written before an old one is removed, so there must be room for two; one
/// that the run goes on from is there already. Found out now rather than at the first save. Throws
/// Error{write}.
void require_space(const Session& session, const Model& network) {
  const fs::path place =
      session.folder ? session.folder->path() : fs::path(session.config.run.root);
  const std::optional<uint64_t> free = free_space(place);
  const uint64_t one = checkpoint_bytes(network.layout());
  const uint64_t needed = session.own_start() ? one : 2 * one;
  if (!free || *free >= needed) return;
  throw Error(Exit::write,
              place.string() + " has " + std::to_string(*free) + " bytes free, and " +
                  (session.own_start() ? "the next checkpoint takes "
                                       : "two checkpoints of this network take ") +
                  std::to_string(needed) + "; free some space or choose another place with " +
                  (session.folder ? "--run-dir" : "run.root"));
}

/// The files that say what the run is made from.
void write_record(Session& session) {
  const TrainRequest& request = session.request;
  log::open_file(session.folder->log().string());
  session.folder->write_record(
      {.config = request.config_text,
       .resolved_config = write_config(session.config, true, request.loaded.origin),
       .overrides = request.overrides,
       .command = request.command,
       .environment = environment(session.request.git, session.device)});
  session.write_status("running", std::nullopt);
}

/// data_report.jsonl from what is known now; points are never skipped.
void report_skipped_files(const Session& session, const std::optional<Dataset>& data) {
  if (!data) return;
  std::vector<std::pair<std::string, std::string>> lines;
  for (const SkippedFile& file : data->bad()) lines.emplace_back(file.path, file.reason);
  if (session.folder) session.folder->write_data_report(lines);
}

/// The whole set on the GPU, where a batch is then drawn from it by one kernel: when it is decoded
/// in memory, cut once, and small beside what training needs. Else undefined.
at::Tensor resident_pictures(const Dataset& data, const Config& config, at::Device device) {
  const std::span<const uint8_t> pixels = data.pixels();
  if (!device.is_cuda() || !config.runtime.fused || pixels.empty()) return {};
  const auto size = static_cast<int64_t>(pixels.size());
  if (size > open_cuda()->memory_free(device.index()) / 8) return {};
  const int64_t height = config.data.height(), width = config.data.width(),
                channels = config.data.channels;
  return at::from_blob(const_cast<uint8_t*>(pixels.data()),
                       {size / (height * width * channels), height, width, channels},
                       at::kByte)
      .to(device);
}

std::string gave_up(const std::string& why, int64_t rollbacks) {
  return "training diverged: " + why +
         (rollbacks > 0 ? ", after " + std::to_string(rollbacks) + " rollbacks" : "") +
         ". The checkpoints so far are kept. Try a lower optim.lr, a longer optim.warmup_steps, a "
         "smaller optim.grad_clip or train.precision=fp32; --set optim.max_rollbacks=" +
         std::to_string(rollbacks + 3) + " tries other pictures and noise again";
}

/// The batches of the steps from state.step on.
std::unique_ptr<BatchSource> batches_from(const TrainState& state,
                                          const Config& config,
                                          const TrainSetup& setup,
                                          const Dataset* data) {
  if (data != nullptr)
    return std::make_unique<Batches>(
        *data, config.data, config.train.batch, setup.seed, state.step, !setup.pictures.defined());
  return std::make_unique<PointBatches>(
      config.data.points(), config.train.batch, setup.seed, state.step);
}

/// Does what training can do without: where memory runs out in it, that is only told.
template <class F>
void if_memory_allows(log::RareWarning& warning, const std::string& without, F f) {
  try {
    f();
  } catch (const std::exception& e) {
    const std::optional<std::string> memory = out_of_memory(e);
    if (!memory) throw;
    warning.warn(without + ": out of memory: " + *memory + "; the run goes on");
  }
}

/// Trains in session.folder. Returns whether all steps are done.
bool train_in_folder(Session& session,
                     TrainState& state,
                     TrainSetup& setup,
                     const CheckpointInfo& info,
                     const Dataset* data) {
  const Config& config = session.config;
  const RunFolder& folder = *session.folder;
  std::optional<Validator> validator;
  if (config.validate.every_steps > 0)
    validator.emplace(config, folder.validation(), setup.network, setup.objective, data);
  std::unique_ptr<BatchSource> batches = batches_from(state, config, setup, data);
  TrainLog log(config, folder, state, *batches, session.request.global.progress);
  Saver saver(config, folder, setup.network, info, state, session.own_start());
  const auto update_status = [&] {
    session.status.step = state.step;
    session.status.last_checkpoint = saver.last();
    const double rate = log.images_per_second();
    const auto images = static_cast<double>((config.train.steps - state.step) * config.train.batch);
    session.status.eta_seconds = rate > 0 ? std::optional(images / rate) : std::nullopt;
    session.write_status("running", std::nullopt);
  };
  const auto stopping = [&] { return session.stopping(); };
  const auto grid_path = [&](int64_t step) {
    return folder.samples() /
           ("step-" + zero_padded(step, 9) + (config.data.are_points() ? ".svg" : ".png"));
  };
  log::RareWarning grid_warning;
  const auto draw_grid = [&](const TrainState& s) {
    const std::string how = describe_drawing(config,
                                             {.checkpoint = "",
                                              .step = s.step,
                                              .first = 0,
                                              .count = step_sample_count(config),
                                              .label = ""});
    const auto samples = draw_samples(
        config,
        setup.network,
        s,
        session.bf16,
        how,
        [&](int64_t done, int64_t total) {
          log.show(s.step, "drawing a grid " + std::to_string(100 * done / total) + "%");
        },
        stopping);
    if (!samples) {
      log::warn("the grid of step " + std::to_string(s.step) +
                " was not finished; diffuse sample draws one from the checkpoint");
      return;
    }
    try {
      if (samples->grid)
        write_png(grid_path(s.step), *samples->grid, {{"diffuse", how}});
      else
        write_file_atomic(grid_path(s.step), samples->svg);
    } catch (const Error& e) {
      grid_warning.warn(std::string("no sample grid: ") + e.what() + "; the run goes on");
    }
    if (samples->grid) log.image(s.step, *samples->grid);
  };
  const auto save_grid = [&](const TrainState& s) {
    if_memory_allows(
        grid_warning, "no sample grid (a smaller sample.batch needs less)", [&] { draw_grid(s); });
  };

  const auto is_last = [&](int64_t step) { return step == config.train.steps; };
  const auto validation_due = every(config.validate.every_steps);
  // Lines of the series; the one that the end of the run makes between two of them is none.
  const auto regular = [&, due = every(config.log.every_steps)](int64_t step) {
    return due(step) || validation_due(step);
  };
  log::RareWarning validation_warning;
  // A stop does not wait for a validation: its line is written when the run goes on, or there would
  // be one without its figures.
  const auto write_line = [&](TrainState& s) {
    std::vector<std::pair<std::string, double>> measured;
    if (validator && (validation_due(s.step) || is_last(s.step))) {
      log.show(s.step, "validating");
      const auto check = [&] {
        if (stopping()) throw Error(session.signals.stop(), "the validation was stopped");
      };
      try {
        if_memory_allows(validation_warning, "no validation", [&] {
          log.clock().pause([&] { measured = validator->run(s, check); });
        });
      } catch (const Error& e) {
        if (e.code != session.signals.stop()) throw;
        if (!is_last(s.step)) return;
        log::warn(
            "the last step was not validated, as the run was stopped; diffuse evaluate does it");
      }
    }
    const auto diverged = divergence(s, config.optim.max_skips_in_row);
    log.write(s, regular(s.step), measured);  // which clears what was judged
    update_status();
    if (diverged) throw Diverged(*diverged);
  };
  const auto save = [&](const TrainState& s, Saver::Why why) {
    if (const auto diverged = divergence(s, config.optim.max_skips_in_row))
      throw Diverged(*diverged);
    log.sync();
    saver.save(s, why);
  };
  bool asked = false;  // by a signal alone
  const auto save_due = [&, due = every(config.checkpoint.every_steps)](int64_t step) {
    asked = session.signals.take_save_request();
    const bool regularly = due(step) || is_last(step) || saver.overdue();
    asked = asked && !regularly;
    return asked || regularly;
  };
  const auto grid_due = [&, due = every(config.sample.every_steps)](int64_t step) {
    const bool wanted = config.sample.every_steps > 0 && is_last(step);
    return session.signals.take_sample_request() || due(step) || wanted;
  };
  const std::vector<Action> actions{
      {.due = [&](int64_t step) { return regular(step) || is_last(step); }, .run = write_line},
      {.due = every(1), .run = [&](TrainState& s) { log.show(s.step); }},
      // Before the grid, which takes longer and is worth less.
      {.due = save_due,
       .run =
           [&](TrainState& s) {
             const auto why = is_last(s.step) ? Saver::Why::end
                              : asked         ? Saver::Why::request
                                              : Saver::Why::interval;
             log.clock().pause([&] { save(s, why); });
             update_status();
           }},
      {.due = grid_due, .run = [&](TrainState& s) { log.clock().pause([&] { save_grid(s); }); }},
  };
  const auto stop = [&] { return session.stopping() || session.out_of_time(); };
  update_status();
  // A grid comes after its step's checkpoint, a stop does not wait for a validation, and a step
  // that ran out of memory is saved without its line: all that is made up for.
  const auto catch_up = [&, due = every(config.sample.every_steps)] {
    if (due(state.step) && !fs::exists(grid_path(state.step)))
      log.clock().pause([&] { save_grid(state); });
    if (regular(state.step) && state.logged_step < state.step) write_line(state);
  };
  const bool own = session.own_start().has_value();
  const int64_t began = state.step;
  bool behind = own;
  // Out of time before the first step: it is made all the same, or a loop around this never ends.
  const auto train_on = [&] {
    if (std::exchange(behind, false)) catch_up();
    bool done = false;
    try {
      done = !session.stopping() && train(state, setup, *batches, actions, stop);
    } catch (const Error& e) {
      // Pictures or memory failed, not the weights: what was trained so far is kept.
      if ((e.code == Exit::data || e.code == Exit::device) && state.step > 0) {
        try {
          save(state, Saver::Why::end);
          update_status();
        } catch (const std::exception& also) {
          log::warn(also.what());
        }
      }
      throw;
    }
    if (state.step > 0) save(state, Saver::Why::end);
    return done;
  };
  const auto go_back = [&](const Diverged& why) {
    if (state.rollbacks >= config.optim.max_rollbacks)
      throw Error(Exit::diverged, gave_up(why.what(), state.rollbacks));
    const int64_t from = state.step, micro_batch = state.micro_batch;
    roll_back(state,
              setup.network.layout(),
              info.seed,
              folder.checkpoints(),
              own ? std::nullopt : session.start);
    behind = own || state.step > began;
    log::warn(std::string(why.what()) + ": rolled back from step " + std::to_string(from) + " to " +
              (state.step > 0 ? "the checkpoint of step " + std::to_string(state.step)
                              : "the beginning") +
              ", and on from there with other pictures and noise (rollback " +
              std::to_string(state.rollbacks) + " of " +
              std::to_string(config.optim.max_rollbacks) + ", optim.max_rollbacks)");
    setup.seed = draw_seed(info.seed, state.rollbacks);
    if (micro_batch > 0) setup.micro_batch = state.micro_batch = micro_batch;  // as found since
    batches = batches_from(state, config, setup, data);
    log.go_back(state, *batches);
    // Kept at once, so that a kill does not make the run forget what it has tried.
    saver.save_again(state);
    update_status();
  };
  bool finished = false;
  for (bool going = true; going;) {
    try {
      finished = train_on();
      going = false;
    } catch (const Diverged& why) {
      go_back(why);
      going = !stop();
    }
  }
  update_status();
  if (finished && state.updates.item<float>() == 0)
    throw Error(Exit::diverged,
                "not one update of the run had a finite loss and gradient, so nothing was trained; "
                "look at the objective's weights with diffuse explain, or try a lower optim.lr");
  return finished;
}

/// The largest micro-batch that the plan says to fit into the memory of the CPU.
int64_t fitting_micro_batch(const Config& config, const PlanQuery& query) {
  // What does not depend on the micro-batch is there already.
  int64_t held = 0;
  for (const auto& [name, bytes] : plan_memory(config, query).train.parts)
    if (name != "activations" && name != "saving") held += bytes;
  // Programs are made for each size that is tried and kept: the first one had better fit.
  const int64_t room = mapping_is_limited() && !config.data.are_points() ? 2 * kRoomForPrograms : 0;
  return largest_micro_batch(config, query, held + (memory_available() - room) / 10 * 9);
}

/// Pictures that go through the network at once. `auto` is the whole batch on a GPU, where running
/// out of memory is noticed in time, and what the plan says to fit on the CPU, where it may end the
/// process. A run that goes on keeps what it had, for the same sums.
int64_t first_micro_batch(const Session& session, const PlanQuery& query, TrainState& state) {
  const Config& config = session.config;
  const int64_t batch = config.train.batch;
  int64_t before = usual_micro_batch(config, session.device, query.classes);
  if (config.train.micro_batch) {
    state.micro_batch = 0;
    return before;
  }
  if (before < batch)
    log::info(
        std::to_string(before) + " of " + std::to_string(batch) +
        " pictures at once (train.micro_batch auto), so that a stop need not wait for the rest");
  if (state.micro_batch > 0) before = std::min(before, state.micro_batch);
  if (session.device.is_cuda()) return before;
  const int64_t fits = std::min(before, fitting_micro_batch(config, query));
  if (fits < before) {
    log::warn("train.micro_batch auto: " + std::to_string(fits) + " of " + std::to_string(batch) +
              " pictures at once, as about " + format_bytes(memory_available()) +
              " of memory are available");
    state.micro_batch = fits;
  }
  return fits;
}

/// What must change in the command that goes on with a run that was stopped.
std::string how_to_go_on(const Session& session) {
  const TrainRequest& request = session.request;
  std::string with;
  if (request.run_dir.empty())
    with = " with --run-dir " + quote_command({session.folder->path().string()});
  if (!request.resume.empty() && request.resume != "auto")
    with += (with.empty() ? "" : " and") + std::string(" without --resume");
  return with.empty() ? "; the same command goes on" : "; to go on: the same command" + with;
}

int run_session(Session& session) {
  const TrainRequest& request = session.request;
  const Config& config = session.config;
  const bool points = config.data.are_points();
  std::optional<Dataset> data;  // none for points
  if (!points) data.emplace(open_data(request, session.signals));
  const DataScan nothing;
  const DataScan& scan = data ? data->scan() : nothing;
  const int64_t num_classes = count_classes(config, scan);
  // The checkpoint alone must be enough: it takes copies of tables along.
  Config kept = config;
  std::map<std::string, std::string> files;
  const auto take_along = [&](std::string& file, const char* name) {
    files[name] = read_file(file, Exit::config, 64 << 20);
    file = name;
  };
  if (auto* table = kept.diffusion.schedule.options<TableSchedule>())
    take_along(table->file, kScheduleFile);
  if (auto* table = kept.diffusion.weighting.options<TableWeighting>())
    take_along(table->file, kWeightingFile);
  const CheckpointInfo info{
      .step = 0,
      .config = write_config(kept, false),
      .seed = static_cast<uint64_t>(config.run.seed),
      .num_classes = num_classes,
      .class_names = num_classes > 0 ? scan.label_names : std::vector<std::string>(),
      .images = data ? data->size() : 0,
      .fingerprint = scan.fingerprint,
      .files = files};
  if (session.saved)
    refuse_other_data(
        request,
        *session.saved,
        info,
        saved_config(*session.saved, *session.start).data.holdout != config.data.holdout);
  const Model network = make_network(config, num_classes);
  if (!request.dry_run) {
    require_space(session, network);
    if (!session.folder)
      session.folder.emplace(RunFolder::create(config.run.root, config.run.name));
    write_record(session);
  }
  if (!session.start && session.folder) session.folder->set_aside_metrics();
  report_skipped_files(session, data);
  const Objective objective(config.diffusion, session.device, data_bits(config.data));
  const TimeDraw times(config.diffusion.time_sampler, objective.process().bin_edges());
  TrainState state(network.layout(), network.layout().initial(info.seed).to(session.device));
  if (needs_history(config.diffusion.time_sampler))
    state.history = LossHistory(objective.process().bins());
  if (session.start) {
    load_state(*session.start, network.layout(), state);
    if (!is_finite(state)) {
      const std::string what = session.start->string() + " holds numbers that are not finite";
      if (!session.own_start())
        throw Error(Exit::checkpoint, what + ": go on from an older checkpoint");
      log::warn(what + "; an older checkpoint is looked for");
      session.start = load_newest_finite(session.folder->checkpoints(), network.layout(), state);
    }
    if (!session.own_start()) {  // another run's troubles do not count
      state.rollbacks = 0;
      state.rolled_back_to = -1;
    }
    if (session.folder) set_aside_newer(session.folder->checkpoints(), state.step);
  }
  const PlanQuery query{.pictures = info.images, .classes = num_classes, .bf16 = session.bf16};
  TrainSetup setup{
      .network = network,
      .objective = objective,
      .times = times,
      .image_shape = config.data.shape(),
      .optim = config.optim,
      .steps = config.train.steps,
      .batch = config.train.batch,
      .micro_batch = first_micro_batch(session, query, state),
      .seed = draw_seed(info.seed, state.rollbacks),
      .bf16 = session.bf16,
      .fused = config.runtime.fused,
      .micro_batches = micro_batches(config.train.batch),
      .likely_micro_batch = nullptr,
      .split = !config.train.micro_batch,
      .pictures = data ? resident_pictures(*data, config, session.device) : at::Tensor(),
      .abandon = [&session] { return session.stopping(); }};
  if (session.device.is_cpu())
    setup.likely_micro_batch = [&] { return fitting_micro_batch(config, query); };
  if (setup.pictures.defined()) log::info("the pictures are kept on the GPU");
  const Dataset* const pictures = data ? &*data : nullptr;
  if (request.dry_run)
    return dry_run(request, state, setup, *batches_from(state, config, setup, pictures));
  log::info(
      (session.start ? "going on from " + session.start->string() + " in " : "training in ") +
      session.folder->path().string() + ": " +
      (data
           ? counted(data->size(), "picture") +
                 (data->held_out() > 0 ? ", " + std::to_string(data->held_out()) + " held out" : "")
           : "points of " + described(config.data.points)) +
      ", " + std::to_string(network.parameter_count()) + " parameters, " + session.device.str() +
      (session.bf16 ? " bf16" : ""));
  bool finished = false;
  try {
    finished = train_in_folder(session, state, setup, info, pictures);
  } catch (...) {
    report_skipped_files(session, data);
    throw;
  }
  report_skipped_files(session, data);
  const Exit code =
      finished ? Exit::ok : (session.stopping() ? session.signals.stop() : Exit::stopped);
  session.write_status(finished ? "finished" : "stopped", static_cast<int>(code));
  log::info((finished ? "finished: " : "stopped: ") + std::to_string(state.step) + " of " +
            counted(config.train.steps, "step") + ", " + format_duration(session.clock.seconds()) +
            ", in " + session.folder->path().string() + (finished ? "" : how_to_go_on(session)));
  return static_cast<int>(code);
}

/// What may help where there is no memory for more than a step's maps.
std::string memory_remedy(const Config& config) {
  std::vector<std::string> less;
  if (config.train.micro_batch.value_or(config.train.batch) > 1)
    less.emplace_back("--set train.micro_batch=1");
  if (!config.data.are_points() && config.data.cache != CachePolicy::none)
    less.emplace_back("--set data.cache=none");
  less.emplace_back("a smaller network");
  return "diffuse check --plan says what needs how much; these need less: " + list_of(less);
}

}  // namespace

int run_train(const TrainRequest& request) {
  Session session{.request = request,
                  .config = request.loaded.config,
                  .signals = *request.signals,
                  .clock = {},
                  .start = std::nullopt,
                  .saved = std::nullopt,
                  .device = at::kCPU,
                  .bf16 = false,
                  .folder = std::nullopt,
                  .status = {}};
  set_threads(request.global.threads);
  session.status.of = session.config.train.steps;
  // A checkpoint that is named is looked at before anything is made for a run that goes on from it.
  const bool named = request.resume != "auto" && request.resume != "never";
  if (named && find_start(session)) return 0;
  // A given folder is taken first, so that a second process learns at once that it is in use; a
  // numbered one is made when the data has been read, so that bad data leaves no empty folder.
  if (!request.dry_run && !request.run_dir.empty())
    session.folder.emplace(RunFolder::open(request.run_dir, request.resume != "never"));
  const bool nothing_to_do = !named && find_start(session);
  if (const auto own = session.own_start())
    session.status.last_checkpoint = fs::relative(*own, session.folder->path()).string();
  if (nothing_to_do) {
    session.write_status("finished", 0);
    return 0;
  }
  session.device = pick_device(session.config.train.device);
  session.bf16 = set_precision(session.config.train.precision, session.device);
  try {
    const int code =
        with_memory_advice(memory_remedy(session.config), [&] { return run_session(session); });
    log::close_file();
    return code;
  } catch (const Error& e) {
    const bool asked = e.code == Exit::stopped || e.code == Exit::interrupted;
    session.write_status(asked ? "stopped" : "failed", static_cast<int>(e.code));
    throw;
  } catch (...) {
    session.write_status("failed", static_cast<int>(Exit::bug));
    throw;
  }
}

}  // namespace diffuse
