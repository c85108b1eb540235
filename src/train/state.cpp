// SPDX-License-Identifier: MIT
#include "train/state.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/json.h"
#include "base/log.h"
#include "base/random.h"

namespace diffuse {
namespace {

constexpr int64_t kFormat = 1;
constexpr const char* kExpAvg = "exp_avg.";
constexpr const char* kExpAvgSq = "exp_avg_sq.";
constexpr const char* kHistory = "history.safetensors";
constexpr const char* kSpikes = "spikes.safetensors";

/// The tensors of a row-major flat CPU buffer as views of bytes, named prefix + parameter name.
void add_views(std::vector<TensorView>& out,
               const ParamLayout& layout,
               const at::Tensor& flat,
               const std::string& prefix) {
  const float* data = flat.const_data_ptr<float>();
  for (const ParamInfo& info : layout.infos())
    out.push_back(
        {.name = prefix + info.name,
         .dtype = "F32",
         .shape = info.shape,
         .bytes = std::as_bytes(std::span(data + info.offset, static_cast<size_t>(info.size)))});
}

/// Copies prefix + name of every parameter from `file` into the flat CPU buffer, row-major.
void read_views(const SafetensorsFile& file,
                const std::string& path,
                const ParamLayout& layout,
                const at::Tensor& flat,
                const std::string& prefix) {
  float* data = flat.mutable_data_ptr<float>();
  for (const ParamInfo& info : layout.infos()) {
    const TensorView* tensor = file.find(prefix + info.name);
    if (tensor == nullptr)
      throw Error(
          Exit::checkpoint,
          path + " has no tensor '" + prefix + info.name + "': it belongs to another network");
    if (tensor->dtype != "F32" || tensor->shape != info.shape)
      throw Error(Exit::checkpoint,
                  path + ": tensor '" + prefix + info.name +
                      "' has another shape or type than the network's");
    std::memcpy(data + info.offset, tensor->bytes.data(), tensor->bytes.size());
  }
}

void expect_tensors(const SafetensorsFile& file, const std::string& path, size_t expected) {
  if (file.tensors().size() != expected)
    throw Error(Exit::checkpoint,
                path + " holds " + std::to_string(file.tensors().size()) +
                    " tensors, the network has " + std::to_string(expected) +
                    ": it belongs to another network");
}

/// The history's two arrays as views of bytes.
std::vector<TensorView> history_views(const LossHistory& history) {
  return {{.name = "losses",
           .dtype = "F64",
           .shape = {history.bins(), LossHistory::kLength},
           .bytes = std::as_bytes(std::span(history.losses))},
          {.name = "count",
           .dtype = "I64",
           .shape = {history.bins()},
           .bytes = std::as_bytes(std::span(history.count))}};
}

/// Without such a file the history stays empty: the run was begun with another time sampler.
void read_history(const std::filesystem::path& path, LossHistory& history) {
  if (!std::filesystem::exists(path)) return;
  const SafetensorsFile file(path);
  const std::vector<TensorView> views = history_views(history);
  for (const TensorView& like : views) {
    const TensorView* found = file.find(like.name);
    if (found != nullptr && found->dtype == like.dtype && found->shape == like.shape) continue;
    log::warn(path.string() + " is of another chain: the sampler's history of losses begins anew");
    return;
  }
  const auto copy = [&](const TensorView& like, auto& into) {
    const TensorView* found = file.find(like.name);
    std::memcpy(into.data(), found->bytes.data(), found->bytes.size());
  };
  copy(views[0], history.losses);
  copy(views[1], history.count);
}

/// The window of the guard against spikes, as views of bytes.
std::vector<TensorView> spike_views(const at::Tensor& spikes) {
  return {{.name = "window",
           .dtype = "F64",
           .shape = {SpikeWindow::count},
           .bytes = std::as_bytes(std::span(spikes.const_data_ptr<double>(),
                                            static_cast<size_t>(SpikeWindow::count)))}};
}

/// Without such a file the window is empty: the guard was off.
at::Tensor read_spikes(const std::filesystem::path& path) {
  const at::Tensor spikes = at::zeros({SpikeWindow::count}, at::kDouble);
  if (!std::filesystem::exists(path)) return spikes;
  const SafetensorsFile file(path);
  const TensorView like = spike_views(spikes).front();
  const TensorView* found = file.find(like.name);
  if (found == nullptr || found->dtype != like.dtype || found->shape != like.shape)
    throw Error(Exit::checkpoint, path.string() + " is not a window of 128 losses and norms");
  std::memcpy(spikes.mutable_data_ptr<double>(), found->bytes.data(), found->bytes.size());
  return spikes;
}

nlohmann::json read_state_json(const std::filesystem::path& checkpoint) {
  const auto path = checkpoint / "state.json";
  const std::string text = read_file(path, Exit::checkpoint, 16 << 20);
  const auto json = parse_json(text);
  if (!json.is_object()) throw Error(Exit::checkpoint, path.string() + " is not valid JSON");
  if (const int64_t format = integer(json.at("format")); format != kFormat)
    throw Error(Exit::checkpoint,
                path.string() + " has format " + std::to_string(format) +
                    "; this diffuse reads format " + std::to_string(kFormat));
  return json;
}

/// Runs `read`, which takes values out of a state.json, and names the file when one is missing.
template <class Read>
auto reading(const std::filesystem::path& checkpoint, Read read) {
  try {
    return read(read_state_json(checkpoint));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(Exit::checkpoint, (checkpoint / "state.json").string() + ": " + e.what());
  }
}

}  // namespace

TrainState::TrainState(const ParamLayout& layout, at::Tensor flat)
    : params(layout, flat),
      ema(flat.clone()),
      exp_avg(at::zeros_like(flat)),
      exp_avg_sq(at::zeros_like(flat)),
      updates(at::zeros({1}, flat.options())),
      tally(at::zeros({Tally::count}, flat.options().dtype(at::kDouble))),
      spikes(at::zeros({SpikeWindow::count}, flat.options().dtype(at::kDouble))),
      rates(at::zeros({2}, flat.options().dtype(at::kDouble))) {
  tally[Tally::ema_initial].fill_(1.0);
}

void TrainState::restart(const at::Tensor& flat) {
  const at::NoGradGuard no_grad;
  params.flat().copy_(flat);
  if (params.half().defined()) params.half().copy_(flat);
  ema.copy_(flat);
  for (const at::Tensor& t : {exp_avg, exp_avg_sq, updates, tally, spikes}) t.zero_();
  tally[Tally::ema_initial].fill_(1.0);
  step = images_seen = logged_step = rollbacks = 0;
  rolled_back_to = -1;
  if (history.bins() > 0) history = LossHistory(history.bins());
}

bool is_finite(const TrainState& state) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> ends;  // NaN anywhere is NaN here
  for (const at::Tensor& t : {state.params.flat(), state.ema, state.exp_avg, state.exp_avg_sq}) {
    const auto [low, high] = at::aminmax(t);
    ends.insert(ends.end(), {low, high});
  }
  return at::isfinite(at::stack(ends)).all().item<bool>();
}

uint64_t draw_seed(uint64_t seed, int64_t rollbacks) {
  if (rollbacks == 0) return seed;
  return random_bits(
      {.seed = seed, .purpose = Purpose::rollback, .step = static_cast<uint64_t>(rollbacks)});
}

std::filesystem::path save_state(const std::filesystem::path& folder,
                                 const TrainState& state,
                                 const ParamLayout& layout,
                                 const CheckpointInfo& info,
                                 bool verify_after_write) {
  const at::Tensor model = layout.to_row_major(state.params.flat().cpu());
  const at::Tensor ema = layout.to_row_major(state.ema.cpu());
  const at::Tensor exp_avg = layout.to_row_major(state.exp_avg.cpu());
  const at::Tensor exp_avg_sq = layout.to_row_major(state.exp_avg_sq.cpu());
  const at::Tensor tally = state.tally.cpu(), spikes = state.spikes.cpu();

  std::vector<CheckpointFile> files(5);
  files[0].name = "model.safetensors";
  add_views(files[0].tensors, layout, model, "");
  files[1].name = "ema.safetensors";
  add_views(files[1].tensors, layout, ema, "");
  files[2].name = "optim.safetensors";
  add_views(files[2].tensors, layout, exp_avg, kExpAvg);
  add_views(files[2].tensors, layout, exp_avg_sq, kExpAvgSq);
  files[3].name = "config.yaml";
  files[3].text = info.config;
  nlohmann::ordered_json json;
  json["format"] = kFormat;
  json["step"] = state.step;
  json["images_seen"] = state.images_seen;
  json["logged_step"] = state.logged_step;
  if (state.micro_batch > 0) json["micro_batch"] = state.micro_batch;
  if (state.rollbacks > 0) {
    json["rollbacks"] = state.rollbacks;
    json["rolled_back_to"] = state.rolled_back_to;
  }
  json["updates"] = static_cast<int64_t>(state.updates.item<float>());
  json["tally"] = std::vector<double>(tally.const_data_ptr<double>(),
                                      tally.const_data_ptr<double>() + Tally::count);
  json["seed"] = info.seed;
  json["num_classes"] = info.num_classes;
  json["class_names"] = info.class_names;
  json["images"] = info.images;
  json["fingerprint"] = info.fingerprint;
  files[4].name = "state.json";
  files[4].text = json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (state.history.bins() > 0) {
    CheckpointFile& file = files.emplace_back();
    file.name = kHistory;
    file.tensors = history_views(state.history);
  }
  if (spikes.const_data_ptr<double>()[SpikeWindow::seen] > 0) {
    CheckpointFile& file = files.emplace_back();
    file.name = kSpikes;
    file.tensors = spike_views(spikes);
  }
  for (const auto& [name, text] : info.files)
    files.push_back({.name = name, .tensors = {}, .text = text});
  return write_checkpoint(folder, state.step, files, verify_after_write);
}

uint64_t checkpoint_bytes(const ParamLayout& layout) {
  constexpr uint64_t kTensors = 4, kRest = 1 << 16;
  uint64_t numbers = 0;
  for (const ParamInfo& info : layout.infos()) numbers += static_cast<uint64_t>(info.size);
  return kTensors * sizeof(float) * numbers + kRest;
}

CheckpointInfo load_info(const std::filesystem::path& checkpoint) {
  return reading(checkpoint, [&](const nlohmann::json& json) {
    CheckpointInfo info;
    info.config = read_file(checkpoint / "config.yaml", Exit::checkpoint, 1 << 20);
    info.step = integer(json.at("step"));
    info.seed = json.at("seed").get<uint64_t>();
    info.num_classes = integer(json.at("num_classes"));
    info.class_names = json.at("class_names").get<std::vector<std::string>>();
    info.images = integer(json.at("images"));
    info.fingerprint = json.at("fingerprint").get<uint64_t>();
    for (const char* name : {kScheduleFile, kWeightingFile})
      if (std::filesystem::exists(checkpoint / name))
        info.files[name] = read_file(checkpoint / name, Exit::checkpoint, 64 << 20);
    return info;
  });
}

void load_state(const std::filesystem::path& checkpoint,
                const ParamLayout& layout,
                TrainState& state) {
  const at::NoGradGuard no_grad;
  state.params.flat().copy_(load_weights(checkpoint / "model.safetensors", layout));
  if (state.params.half().defined()) state.params.half().copy_(state.params.flat());
  state.ema.copy_(load_weights(checkpoint / "ema.safetensors", layout));

  const auto path = checkpoint / "optim.safetensors";
  const SafetensorsFile optim(path);
  expect_tensors(optim, path.string(), 2 * layout.infos().size());
  const at::Tensor flat = at::zeros({layout.flat_size()}, at::kFloat);
  read_views(optim, path.string(), layout, flat, kExpAvg);
  state.exp_avg.copy_(layout.from_row_major(flat));
  read_views(optim, path.string(), layout, flat, kExpAvgSq);
  state.exp_avg_sq.copy_(layout.from_row_major(flat));

  if (state.history.bins() > 0) {
    state.history = LossHistory(state.history.bins());
    read_history(checkpoint / kHistory, state.history);
  }
  state.spikes.copy_(read_spikes(checkpoint / kSpikes));
  reading(checkpoint, [&](const nlohmann::json& json) {
    state.step = integer(json.at("step"));
    state.images_seen = integer(json.at("images_seen"));
    state.logged_step = integer(json.at("logged_step"));
    const auto optional = [&](const char* name, int64_t without) {
      return json.contains(name) ? integer(json.at(name)) : without;
    };
    state.micro_batch = optional("micro_batch", 0);
    state.rollbacks = optional("rollbacks", 0);
    state.rolled_back_to = optional("rolled_back_to", -1);
    state.updates.fill_(static_cast<double>(integer(json.at("updates"))));
    const auto tally = json.at("tally").get<std::vector<double>>();
    if (tally.size() != static_cast<size_t>(Tally::count))
      throw Error(Exit::checkpoint,
                  (checkpoint / "state.json").string() + ": 'tally' has a wrong length");
    state.tally.copy_(at::tensor(tally, at::kDouble));
    return 0;
  });
}

at::Tensor load_weights(const std::filesystem::path& file, const ParamLayout& layout) {
  const SafetensorsFile tensors(file);
  expect_tensors(tensors, file.string(), layout.infos().size());
  at::Tensor flat = at::zeros({layout.flat_size()}, at::kFloat);
  read_views(tensors, file.string(), layout, flat, "");
  return layout.from_row_major(flat);
}

}  // namespace diffuse
