// SPDX-License-Identifier: MIT
#include "train/options.h"

namespace diffuse {

void OptimOptions::fields(Fields& f) {
  f(lr, "lr", "learning rate of AdamW")
      .above(0)
      .at_most(10)
      .also_called({"learning_rate", "lr0", "train_lr", "base_lr", "max_lr"});
  f(betas, "betas", "decay of AdamW's two moments")
      .at_least(0)
      .below(1)
      .items(2, 2)
      .also_called({"adam_betas", "beta"});
  f(eps, "eps", "AdamW's epsilon")
      .above(0)
      .at_most(1)
      .also_called({"adam_epsilon", "epsilon", "adam_eps"});
  f(weight_decay, "weight_decay", "decoupled weight decay")
      .at_least(0)
      .at_most(10)
      .also_called({"adam_weight_decay", "wd"});
  f(decay_norms_and_biases, "decay_norms_and_biases", "weight decay on norms and biases, too");
  f(grad_clip, "grad_clip", "largest norm of the gradient; 0: off")
      .at_least(0)
      .also_called(
          {"max_grad_norm", "clip_grad_norm", "gradient_clip_val", "clip_grad", "grad_norm"});
  f(warmup_steps, "warmup_steps", "steps in which the learning rate grows from 0")
      .at_least(0)
      .also_called({"warmup", "lr_warmup_steps", "num_warmup_steps", "warm_up"});
  f.one_of(decay,
           "decay",
           {{Decay::constant, "constant"}, {Decay::cosine, "cosine"}, {Decay::linear, "linear"}},
           "learning rate after the warm-up; cosine and linear reach 0 at train.steps")
      .also_called({"lr_scheduler", "lr_schedule", "lr_scheduler_type", "scheduler", "lr_decay"});
  f(spike_guard,
    "spike_guard",
    "skip an update whose loss or gradient norm is so many standard deviations above the mean of "
    "the last 128 steps, e.g. 6; 0: off")
      .at_least(0)
      .also_called({"skip_z_score", "skip_update_lossz", "skip_update_gradz", "spike_threshold"});
  f(max_skips_in_row,
    "max_skips_in_row",
    "roll back to the newest good checkpoint when so many updates in a row were skipped; 0: never")
      .at_least(0)
      .free_on_resume();
  f(max_rollbacks,
    "max_rollbacks",
    "rollbacks of a run, each with other draws than before; the next divergence ends it")
      .at_least(0)
      .at_most(1000)
      .free_on_resume();
  f(ema_decay, "ema_decay", "decay of the averaged weights (EMA)")
      .at_least(0)
      .below(1)
      .also_called({"ema", "ema_rate", "ema_max_decay", "ema_beta"});
  f(ema_power,
    "ema_power",
    "warm-up of the EMA: decay at update n is at most 1 - n^-power; 0: none")
      .at_least(0)
      .at_most(10);
}

void TrainOptions::fields(Fields& f) {
  f(steps, "steps", "optimizer steps of the whole run")
      .at_least(1)
      .at_most(1'000'000'000'000)  // times the batch still fits 64 bits
      .free_on_resume()
      .also_called({"max_steps",
                    "max_train_steps",
                    "num_steps",
                    "iterations",
                    "iters",
                    "max_iters",
                    "total_steps",
                    "train_num_steps"});
  f(batch, "batch", "pictures of one optimizer step, over all micro-batches")
      .at_least(1)
      .at_most(1 << 20)
      .also_called({"batch_size", "train_batch_size", "global_batch_size", "bs"});
  f(micro_batch,
    "micro_batch",
    "pictures that go through the network at once; auto: the whole batch, or as many as fit in "
    "memory and take a CPU a second or two")
      .at_least(1)
      .free_on_resume()
      .also_called(
          {"microbatch", "micro_batch_size", "gradient_accumulation_steps", "device_batch_size"});
  f.one_of(precision,
           "precision",
           {{Precision::fp32, "fp32"}, {Precision::tf32, "tf32"}, {Precision::bf16, "bf16"}},
           "arithmetic of the network; weights and optimizer stay float32")
      .also_called({"mixed_precision", "dtype", "amp"});
  f(device, "device", "auto | cpu | cuda | cuda:N")
      .free_on_resume()
      .also_called({"accelerator", "gpu"});
}

void RuntimeOptions::fields(Fields& f) {
  f(fused,
    "fused",
    "the program's own kernels where there are, and on a GPU the step as one CUDA graph; false: "
    "LibTorch's operators, to check them: the same numbers up to rounding")
      .free_on_resume()
      .also_called({"fuse", "kernels", "compile", "channels_last"});
}

void ValidateOptions::fields(Fields& f) {
  f(every_steps,
    "every_steps",
    "training steps between measurements of loss and bits/dim (estimate of x0 clipped) on pictures "
    "that data.holdout keeps from training; 0: never")
      .at_least(0)
      .free_on_resume()
      .also_called({"val_every", "eval_every", "eval_steps", "eval_interval", "val_interval"});
  f(images, "images", "held-out pictures that are used, the same ones each time")
      .at_least(1)
      .free_on_resume()
      .also_called({"count", "num_images", "num_eval_images"});
  f(timesteps,
    "timesteps",
    "terms of the bound that are drawn for each picture, more often where they are large")
      .at_least(1)
      .free_on_resume();
}

void CheckpointOptions::fields(Fields& f) {
  f(every_steps, "every_steps", "steps between checkpoints; 0: by time only")
      .at_least(0)
      .free_on_resume()
      .also_called(
          {"checkpointing_steps", "save_every", "save_interval", "save_steps", "save_freq"});
  f(every_minutes, "every_minutes", "minutes between checkpoints; 0: by steps only")
      .at_least(0)
      .free_on_resume();
  f(keep_last, "keep_last", "newest checkpoints that are kept")
      .at_least(1)
      .free_on_resume()
      .also_called({"checkpoints_total_limit", "save_total_limit", "keep"});
  f(keep_every_steps,
    "keep_every_steps",
    "checkpoints at multiples of this are kept for good; 0: none")
      .at_least(0)
      .free_on_resume();
  f(verify_after_write,
    "verify_after_write",
    "read each checkpoint back before older ones are removed")
      .free_on_resume();
}

void LogOptions::fields(Fields& f) {
  f(every_steps, "every_steps", "steps between lines of metrics.jsonl")
      .at_least(1)
      .free_on_resume()
      .also_called({"log_every", "logging_steps", "log_interval", "log_freq"});
  f(tensorboard, "tensorboard", "write TensorBoard event files").free_on_resume();
  f(plots, "plots", "write plots/train.svg").free_on_resume();
}

void RunOptions::fields(Fields& f) {
  f(name, "name", "new run folders are named <name>-001, -002, ...")
      .free_on_resume()
      .also_called({"run_name", "experiment", "exp_name"});
  f(root, "root", "folder of the run folders, relative to the current folder")
      .free_on_resume()
      .also_called({"output_dir", "outdir", "logdir", "results_folder", "project", "save_dir"});
  f(seed, "seed", "seed of everything random in training")
      .at_least(0)
      .also_called({"random_seed", "manual_seed"});
  f(notes, "notes", "free text, kept with the run")
      .free_on_resume()
      .also_called({"description", "comment"});
}

}  // namespace diffuse
