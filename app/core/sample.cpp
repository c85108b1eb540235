// SPDX-License-Identifier: MIT
#include <ATen/ATen.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <type_traits>

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "core.h"
#include "core/commands.h"
#include "core/model.h"
#include "core/points.h"
#include "io/checkpoint.h"
#include "ops/cuda.h"
#include "train/state.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// Where the results go. Empty paths: not written.
struct Outputs {
  bool to_stdout = false;
  fs::path grid;  // points: their scatter plot
  fs::path trajectory;
  fs::path field;
  fs::path singles;  // folder; points: a file

  std::vector<fs::path> all() const { return {grid, trajectory, field, singles}; }
};

Outputs plan_outputs(const SampleRequest& request, bool points) {
  Outputs out;
  if (request.out == "-") {
    if (request.singles || request.trajectory > 0 || request.field)
      throw Error(
          Exit::usage,
          points ? "--out - writes one plot; --singles, --trajectory and --field need --out FOLDER"
                 : "--out - writes one grid; --singles and --trajectory need --out FOLDER");
    out.to_stdout = true;
    return out;
  }
  const std::string wanted = points ? ".svg" : ".png";
  const fs::path target = request.out.empty() ? "samples" + wanted : request.out;
  std::string extension = target.extension();
  for (char& c : extension) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const char* other : {".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".png", ".svg"})
    if (extension == other && other != wanted)
      throw Error(Exit::usage,
                  "--out " + target.string() +
                      (points ? ": points are drawn as a plot, in SVG; name a .svg or a folder"
                              : ": pictures are written as PNG; name a .png or a folder"));
  const bool is_file = extension == wanted;
  const auto beside = [&](const std::string& ending, const std::string& in_folder) {
    return is_file ? fs::path(fs::path(target).replace_extension().string() + ending)
                   : target / in_folder;
  };
  out.grid = is_file ? target : target / (points ? "samples.svg" : "grid.png");
  if (request.trajectory > 0)
    out.trajectory = beside("-trajectory" + wanted, "trajectory" + wanted);
  if (request.field) out.field = beside("-field" + wanted, "field" + wanted);
  if (request.singles)
    out.singles = points ? beside("-points.csv", "points.csv") : beside("", "images");
  for (const fs::path& path : out.all()) {
    if (path.empty()) continue;
    std::error_code error;
    const bool folder_wanted = !points && path == out.singles;
    const bool empty_folder = fs::is_directory(path, error) && fs::is_empty(path, error);
    const bool exists = fs::exists(path, error);  // clears the error where there is nothing
    if (!request.force && exists && !(folder_wanted && empty_folder))
      throw Error(Exit::run_folder, path.string() + " exists; choose another --out or add --force");
    if (error)
      throw Error(
          Exit::run_folder,
          "cannot write " + path.string() + ": " + error.message() + "; choose another --out");
    if (exists && fs::is_directory(path, error) != folder_wanted)
      throw Error(Exit::run_folder,
                  path.string() + (folder_wanted ? " is no folder" : " is a folder") +
                      "; choose another --out");
    if (exists && !folder_wanted && !fs::is_regular_file(path, error)) continue;  // a FIFO
    // Found out now rather than after hours of drawing. A file is replaced where its link leads to.
    const fs::path place = exists ? fs::canonical(path, error) : path;
    fs::path folder = folder_wanted ? place : place.parent_path();
    if (folder.empty()) folder = ".";
    fs::create_directories(folder, error);
    if (error)
      throw Error(Exit::run_folder,
                  "cannot create folder " + folder.string() + ": " + error.message());
    const fs::path probe = folder / (".diffuse-" + std::to_string(::getpid()));
    const int file = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
      throw Error(Exit::run_folder,
                  "cannot write to folder " + folder.string() + ": " + std::strerror(errno) +
                      "; choose another --out");
    ::close(file);
    ::unlink(probe.c_str());
  }
  return out;
}

/// With --force, pictures of an earlier call (000000.png, ...) must not stay among the new ones.
void remove_singles(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> old;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string stem = it->path().stem().string();
    const bool number =
        stem.size() >= 6 && stem.find_first_not_of("0123456789") == std::string::npos;
    if (number && it->path().extension() == ".png") old.push_back(it->path());
  }
  for (const fs::path& path : old) fs::remove(path, error);
}

/// Overrides a config's sampling by the command line. Throws Error{usage}.
void apply(const SampleRequest& request, Config& config) {
  SampleOptions& options = config.sample;
  if (request.steps) options.steps = request.steps;
  const Process process = make_process(config.diffusion);
  if (request.sampler) options.sampler.select(*request.sampler);  // checked by the command line
  if (options.steps && !process.continuous() && *options.steps > config.diffusion.steps)
    throw Error(Exit::usage,
                "--steps must be from 1 to the " + std::to_string(config.diffusion.steps) +
                    " steps that the model was trained on, got " + std::to_string(*options.steps));
  const int64_t steps = sampling_steps(options, config.diffusion);
  if (request.trajectory > steps)
    throw Error(Exit::usage,
                "--trajectory must be at most the " + std::to_string(steps) +
                    " steps of the chain, got " + std::to_string(request.trajectory));
  if (request.clip) options.clip = *request.clip;
  if (request.seed) options.seed = *request.seed;
  if (request.batch) options.batch = request.batch;
  if (request.weights)
    options.weights = *request.weights == "raw" ? WeightSet::raw : WeightSet::ema;
  if (config.diffusion.variance.name() == "learned" && options.sampler.name() == "ddpm" &&
      steps < config.diffusion.steps && !request.variance)
    log::warn(
        "variance 'learned' is that of one step of the trained chain, and too small for fewer "
        "steps; use --sampler ddim, --variance fixed_large, or all steps");
  if (!request.variance) return;
  // A network without an output for it has no variance to give.
  const Variance wanted(variances(), *request.variance);  // checked by the command line
  if (is_learned(wanted) && wanted.name() != config.diffusion.variance.name())
    throw Error(Exit::usage,
                "--variance " + wanted.name() + ": this model was trained with variance '" +
                    config.diffusion.variance.name() + "'; use fixed_small or fixed_large");
  config.diffusion.variance = wanted;
}

std::vector<int64_t> choose_labels(const SampleRequest& request,
                                   const CheckpointInfo& info,
                                   int64_t count) {
  if (request.label == "all") return labels_in_turn(count, info.num_classes);
  if (info.num_classes == 0)
    throw Error(Exit::usage, "--class: this model was trained without classes");
  int64_t label = -1;
  for (size_t i = 0; i < info.class_names.size(); ++i)
    if (info.class_names[i] == request.label) label = static_cast<int64_t>(i);
  if (label < 0) {
    const char* end = request.label.data() + request.label.size();
    const auto parsed = std::from_chars(request.label.data(), end, label);
    if (parsed.ec != std::errc() || parsed.ptr != end || label < 0 || label >= info.num_classes) {
      std::string names;
      for (const std::string& name : info.class_names)
        names += (names.empty() ? "" : ", ") + printable(name, true);
      throw Error(Exit::usage,
                  "--class must be one of " + names + " (or 0.." +
                      std::to_string(info.num_classes - 1) + ", or all), got '" + request.label +
                      "'");
    }
  }
  return std::vector<int64_t>(static_cast<size_t>(count), label);
}

/// A class's name, or its number when the model was trained without names.
std::string class_name(const CheckpointInfo& info, int64_t label) {
  const auto k = static_cast<size_t>(label);
  return k < info.class_names.size() ? info.class_names[k] : std::to_string(label);
}

/// One row a picture: x_t along the chain, below it x_hat.
Image trajectory_grid(const Drawing& drawing) {
  std::vector<Image> cells;
  for (size_t i = 0; i < drawing.x_t.size(); ++i) {
    cells.insert(cells.end(), drawing.x_t[i].begin(), drawing.x_t[i].end());
    cells.insert(cells.end(), drawing.x_hat[i].begin(), drawing.x_hat[i].end());
  }
  return make_grid(cells, static_cast<int64_t>(drawing.x_t.front().size()));
}

/// Options that have no meaning for what the model was trained on. Throws Error{usage}.
void refuse_misfits(const SampleRequest& request, bool points) {
  if (!points) {
    if (request.field)
      throw Error(Exit::usage,
                  "--field draws the score of points in the plane; this model was trained on "
                  "pictures");
    return;
  }
  std::string misfits;
  const auto refuse_if = [&](bool given, const char* option) {
    if (given) misfits += (misfits.empty() ? "" : ", ") + std::string(option);
  };
  refuse_if(!request.grid.empty(), "--grid");
  refuse_if(request.zoom != 1, "--zoom");
  refuse_if(request.label != "all", "--class");
  if (!misfits.empty())
    throw Error(Exit::usage,
                misfits +
                    ": for pictures only; this model was trained on points, which are drawn "
                    "as one plot without classes");
}

void refuse_other_steps(const std::vector<int64_t>& wanted, int64_t steps) {
  for (const int64_t t : wanted)
    if (t >= steps)
      throw Error(Exit::usage,
                  "--field: the chain's steps are 0 to " + std::to_string(steps - 1) + ", got " +
                      std::to_string(t));
}

/// All that a call of `diffuse sample` knows before it draws.
struct Job {
  const SampleRequest& request;
  const Config& config;
  const CheckpointInfo& info;
  const std::string& hash;  // of the checkpoint
  const Outputs& outputs;
  const Model& network;
  const Weights& weights;
  const DrawRequest& wanted;

  std::string made(int64_t first, int64_t count, const std::string& label) const {
    return describe_drawing(config,
                            {.checkpoint = hash,
                             .step = info.step,
                             .first = first,
                             .count = count,
                             .label = info.num_classes > 0 ? label : ""});
  }
};

void write_pictures(const Job& job, const Drawing& drawing) {
  const Outputs& outputs = job.outputs;
  const int64_t count = job.wanted.count;
  const auto text = [&](int64_t first, int64_t n, const std::string& label) {
    return std::vector<std::pair<std::string, std::string>>{{"diffuse", job.made(first, n, label)}};
  };
  const auto text_of_all = text(0, count, job.request.label);
  const auto text_of = [&](int64_t i) {
    const std::vector<int64_t>& labels = job.wanted.labels;
    return text(i, 1, labels.empty() ? "" : class_name(job.info, labels[static_cast<size_t>(i)]));
  };
  const int64_t columns =
      job.request.grid.empty()
          ? static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))))
          : job.request.grid.back();
  const Image grid = enlarge(make_grid(drawing.images, columns), job.request.zoom);
  if (outputs.to_stdout) {
    write_to_stdout(encode_png(grid, text_of_all), "the picture");
    return;
  }
  if (!outputs.singles.empty()) remove_singles(outputs.singles);
  for (int64_t i = 0; !outputs.singles.empty() && i < count; ++i) {
    write_png(outputs.singles / (zero_padded(i, 6) + ".png"),
              drawing.images[static_cast<size_t>(i)],
              text_of(i));
  }
  if (!outputs.trajectory.empty())
    write_named_file(outputs.trajectory,
                     encode_png(enlarge(trajectory_grid(drawing), job.request.zoom), text_of_all));
  write_named_file(outputs.grid, encode_png(grid, text_of_all));
}

void write_points(const Job& job, const PointDrawing& drawing) {
  const Outputs& outputs = job.outputs;
  const std::string made = job.made(0, job.wanted.count, "");
  const std::string plot = points_svg(job.config, drawing.points, made);
  if (outputs.to_stdout) {
    write_to_stdout(plot, "the picture");
    return;
  }
  if (!outputs.singles.empty()) write_named_file(outputs.singles, points_csv(drawing.points));
  if (!outputs.trajectory.empty())
    write_named_file(outputs.trajectory, trajectory_svg(job.config, drawing, made));
  if (!outputs.field.empty()) {
    const std::vector<int64_t>& chosen = *job.request.field;
    write_named_file(outputs.field,
                     score_svg(job.config,
                               job.network,
                               job.weights,
                               chosen.empty() ? telling_steps(job.config.diffusion) : chosen,
                               job.wanted.bf16,
                               made));
  }
  write_named_file(outputs.grid, plot);
}

void print_paths(const Outputs& outputs) {
  for (const fs::path& path : outputs.all())
    if (!path.empty()) std::printf("%s\n", path.c_str());
}

}  // namespace

int run_sample(const SampleRequest& request) {
  Signals& signals = *request.signals;
  set_threads(request.global.threads);
  const fs::path checkpoint = find_checkpoint(request.checkpoint);
  // Now: a run that goes on may remove this checkpoint before the pictures are drawn.
  const std::string hash = checkpoint_hash(checkpoint);
  const CheckpointInfo info = load_info(checkpoint);
  Config config = saved_config(info, checkpoint);
  const bool points = config.data.are_points();
  refuse_misfits(request, points);
  if (request.field) refuse_other_steps(*request.field, config.diffusion.steps);
  const Model network = make_network(config, info.num_classes);
  apply(request, config);
  const Outputs outputs = plan_outputs(request, points);

  const at::Device device = pick_device(request.device);
  const Weights weights = load_weights_of(checkpoint, network, config.sample.weights, device);

  const int64_t count = request.count.value_or(points ? 512 : 64);
  DrawRequest wanted{.options = config.sample,
                     .diffusion = &config.diffusion,
                     .image_shape = config.data.shape(),
                     .count = count,
                     .labels = choose_labels(request, info, count),
                     .bf16 = set_precision(config.train.precision, device),
                     .trajectory = request.trajectory,
                     .progress = nullptr,
                     .cancelled = [&] { return signals.stop() != Exit::ok; }};
  const Job job{.request = request,
                .config = config,
                .info = info,
                .hash = hash,
                .outputs = outputs,
                .network = network,
                .weights = weights,
                .wanted = wanted};
  const int64_t steps = sampling_steps(config.sample, config.diffusion);
  // Draws with `f` and writes with `write`; false when it was stopped.
  const auto drawn = [&](const auto& f, const auto& write) {
    std::decay_t<decltype(f(network, weights, wanted))> drawing;
    {
      Progress progress(request.global.progress, "sample", 0, count * steps);
      wanted.progress = [&](int64_t done, int64_t) {
        progress.update(done,
                        std::to_string(done / steps) + "/" + std::to_string(count) +
                            (points ? " points" : " pictures"));
      };
      const int64_t batch = draw_batch(wanted);
      const std::string what = points ? "point" : "picture";
      drawing = with_memory_advice(
          batch > 1 ? "fewer " + what + "s at once: --batch " + std::to_string(batch / 2)
                    : "not even one " + what + " fits: use another --device",
          [&] { return f(network, weights, wanted); });
    }
    if (drawing) write(job, *drawing);
    return drawing.has_value();
  };
  if (!(points ? drawn(draw_points, write_points) : drawn(draw, write_pictures))) {
    std::error_code ignored;
    // An empty folder only.
    if (!points && !outputs.singles.empty()) fs::remove(outputs.singles, ignored);
    log::warn("stopped: no picture was written");
    return static_cast<int>(signals.stop());
  }
  print_paths(outputs);
  return 0;
}

}  // namespace diffuse
