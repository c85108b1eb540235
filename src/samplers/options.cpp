// SPDX-License-Identifier: MIT
#include "samplers/options.h"

namespace diffuse {

void SampleOptions::fields(Fields& f) {
  f(every_steps, "every_steps", "training steps between sample grids; 0: never")
      .at_least(0)
      .free_on_resume()
      .also_called({"sample_every", "sample_interval", "validation_steps", "save_images_epochs"});
  f(grid, "grid", "rows and columns of a sample grid")
      .at_least(1)
      .at_most(256)
      .items(2, 2)
      .free_on_resume();
  f.choice(sampler, "sampler", "how pictures are drawn from the network").free_on_resume();
  f(steps, "steps", "steps of the chain that are used; auto: all of diffusion.steps")
      .at_least(1)
      .free_on_resume()
      .also_called({"num_inference_steps",
                    "sampling_timesteps",
                    "sampling_steps",
                    "ddpm_num_inference_steps"});
  f(batch, "batch", "pictures drawn at once; auto: by their size")
      .at_least(1)
      .free_on_resume()
      .also_called({"eval_batch_size", "sample_batch_size"});
  f(clip, "clip", "clip the estimate of the clean picture to [-1, 1] at every step")
      .free_on_resume()
      .also_called({"clip_sample", "clip_denoised", "clip_x0"});
  f(seed, "seed", "seed of the pictures; the same seed gives the same pictures")
      .at_least(0)
      .free_on_resume();
  f.one_of(weights,
           "weights",
           {{WeightSet::ema, "ema"}, {WeightSet::raw, "raw"}},
           "averaged or raw weights")
      .free_on_resume()
      .also_called({"use_ema"});
}

int64_t sampling_steps(const SampleOptions& options, const DiffusionOptions& diffusion) {
  return options.steps.value_or(diffusion.steps);
}

}  // namespace diffuse
