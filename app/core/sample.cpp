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

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "core.h"
#include "core/commands.h"
#include "core/model.h"
#include "io/checkpoint.h"
#include "ops/cuda.h"
#include "train/state.h"

namespace diffuse {
namespace {

namespace fs = std::filesystem;

/// Where the results go. Empty paths: not written.
struct Outputs {
  bool to_stdout = false;
  fs::path grid;
  fs::path trajectory;
  fs::path singles;  // folder
};

Outputs plan_outputs(const SampleRequest& request) {
  Outputs out;
  if (request.out == "-") {
    if (request.singles || request.trajectory > 0)
      throw Error(Exit::usage,
                  "--out - writes one grid; --singles and --trajectory need --out FOLDER");
    out.to_stdout = true;
    return out;
  }
  const fs::path target = request.out.empty() ? "samples.png" : request.out;
  std::string extension = target.extension();
  for (char& c : extension) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const char* other : {".jpg", ".jpeg", ".bmp", ".webp", ".gif"})
    if (extension == other)
      throw Error(
          Exit::usage,
          "--out " + target.string() + ": pictures are written as PNG; name a .png or a folder");
  if (extension == ".png") {
    const fs::path stem = fs::path(target).replace_extension();
    out.grid = target;
    if (request.trajectory > 0) out.trajectory = stem.string() + "-trajectory.png";
    if (request.singles) out.singles = stem;
  } else {
    out.grid = target / "grid.png";
    if (request.trajectory > 0) out.trajectory = target / "trajectory.png";
    if (request.singles) out.singles = target / "images";
  }
  for (const fs::path& path : {out.grid, out.trajectory, out.singles}) {
    if (path.empty()) continue;
    std::error_code error;
    const bool folder_wanted = path == out.singles;
    const bool empty_folder = fs::is_directory(path, error) && fs::is_empty(path, error);
    if (!request.force && fs::exists(path, error) && !(folder_wanted && empty_folder))
      throw Error(Exit::run_folder, path.string() + " exists; choose another --out or add --force");
    if (fs::exists(path, error) && fs::is_directory(path, error) != folder_wanted)
      throw Error(Exit::run_folder,
                  path.string() + (folder_wanted ? " is no folder" : " is a folder") +
                      "; choose another --out");
    // Found out now rather than after hours of drawing.
    fs::path folder = folder_wanted ? path : path.parent_path();
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
  if (options.steps && (*options.steps < 1 || *options.steps > config.diffusion.steps))
    throw Error(Exit::usage,
                "--steps must be from 1 to the " + std::to_string(config.diffusion.steps) +
                    " steps that the model was trained on, got " + std::to_string(*options.steps));
  const int64_t steps = options.steps.value_or(config.diffusion.steps);
  if (request.trajectory > steps)
    throw Error(Exit::usage,
                "--trajectory must be at most the " + std::to_string(steps) +
                    " steps of the chain, got " + std::to_string(request.trajectory));
  if (request.clip) options.clip = *request.clip;
  if (request.seed) options.seed = *request.seed;
  if (request.batch) options.batch = request.batch;
  if (request.weights)
    options.weights = *request.weights == "raw" ? WeightSet::raw : WeightSet::ema;
  if (!request.variance) return;
  // A network without an output for it has no variance to give.
  const Variance wanted(variances(), *request.variance);  // checked by the command line
  if (is_learned(wanted) && wanted.name() != config.diffusion.variance.name())
    throw Error(Exit::usage,
                "--variance " + wanted.name() + ": this model was trained with variance '" +
                    config.diffusion.variance.name() + "'; use fixed_small or fixed_large");
  config.diffusion.variance = wanted;
}

std::vector<int64_t> choose_labels(const SampleRequest& request, const CheckpointInfo& info) {
  if (request.label == "all") return labels_in_turn(request.count, info.num_classes);
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
  return std::vector<int64_t>(static_cast<size_t>(request.count), label);
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

}  // namespace

int run_sample(const SampleRequest& request) {
  Signals& signals = *request.signals;
  set_threads(request.global.threads);
  const fs::path checkpoint = find_checkpoint(request.checkpoint);
  // Now: a run that goes on may remove this checkpoint before the pictures are drawn.
  const std::string hash = checkpoint_hash(checkpoint);
  const CheckpointInfo info = load_info(checkpoint);
  Config config = saved_config(info, checkpoint);
  const Model network = make_network(config, info.num_classes);
  apply(request, config);
  const Outputs outputs = plan_outputs(request);

  const at::Device device = pick_device(request.device);
  const bool raw = config.sample.weights == WeightSet::raw;
  const at::Tensor flat =
      load_weights(checkpoint / (raw ? "model.safetensors" : "ema.safetensors"), network.layout())
          .to(device);

  DrawRequest wanted{
      .options = config.sample,
      .diffusion = &config.diffusion,
      .image_shape = {config.data.channels, config.data.height(), config.data.width()},
      .count = request.count,
      .labels = choose_labels(request, info),
      .bf16 = set_precision(config.train.precision, device),
      .trajectory = request.trajectory,
      .progress = nullptr,
      .cancelled = [&] { return signals.stop() != Exit::ok; }};
  const int64_t steps = config.sample.steps.value_or(config.diffusion.steps);
  std::optional<Drawing> drawing;
  {
    Progress progress(request.global.progress, "sample", 0, request.count * steps);
    wanted.progress = [&](int64_t done, int64_t) {
      progress.update(
          done, std::to_string(done / steps) + "/" + std::to_string(request.count) + " pictures");
    };
    const int64_t batch = draw_batch(wanted);
    drawing = with_memory_advice(
        batch > 1 ? "fewer pictures at once: --batch " + std::to_string(batch / 2)
                  : "not even one picture fits: use another --device",
        [&] { return draw(network, network.layout().views(flat), wanted); });
  }
  if (!drawing) {
    std::error_code ignored;
    if (!outputs.singles.empty()) fs::remove(outputs.singles, ignored);  // only if it is empty
    log::warn("stopped: no picture was written");
    return static_cast<int>(signals.stop());
  }

  const auto text = [&](int64_t first, int64_t count, const std::string& label) {
    return std::vector<std::pair<std::string, std::string>>{{"diffuse",
                                                             describe_drawing(config,
                                                                              {.checkpoint = hash,
                                                                               .step = info.step,
                                                                               .first = first,
                                                                               .count = count,
                                                                               .label = label})}};
  };
  const auto text_of_all = text(0, request.count, info.num_classes > 0 ? request.label : "");
  const auto text_of = [&](int64_t i) {
    const auto k = static_cast<size_t>(i);
    return text(i, 1, info.num_classes > 0 ? class_name(info, wanted.labels[k]) : "");
  };
  const int64_t columns =
      request.grid.empty()
          ? static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(request.count))))
          : request.grid.back();
  const Image grid = enlarge(make_grid(drawing->images, columns), request.zoom);
  if (outputs.to_stdout) {
    const auto png = encode_png(grid, text_of_all);
    if (std::fwrite(png.data(), 1, png.size(), stdout) != png.size() || std::fflush(stdout) != 0)
      throw Error(Exit::write, "cannot write the picture to stdout");
    return 0;
  }
  if (!outputs.singles.empty()) remove_singles(outputs.singles);
  for (int64_t i = 0; !outputs.singles.empty() && i < request.count; ++i) {
    write_png(outputs.singles / (zero_padded(i, 6) + ".png"),
              drawing->images[static_cast<size_t>(i)],
              text_of(i));
  }
  if (!outputs.trajectory.empty())
    write_png(outputs.trajectory, enlarge(trajectory_grid(*drawing), request.zoom), text_of_all);
  write_png(outputs.grid, grid, text_of_all);
  for (const fs::path& path : {outputs.grid, outputs.trajectory, outputs.singles})
    if (!path.empty()) std::printf("%s\n", path.c_str());
  return 0;
}

}  // namespace diffuse
