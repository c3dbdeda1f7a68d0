//! The settings of a run, with all defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tinkex::chat::Reduction;
use tinkex::train::Schedule;
use tinkex::types::{AdamParams, LoraConfig, TrainingPath};

use super::args::{Args, Lifetime, LossKind, Rate, ReductionKind, ScheduleKind, Warmup};
use crate::examples::{DataFormat, DataOptions};
use crate::failure::Failure;

/// The small model of the engine, for which some defaults differ: it learns from nothing, so it needs large steps.
pub(super) const NANO: &str = "tinkex/nano";
const NANO_RATE: f64 = 6e-3;
const NANO_STEPS: u64 = 150;
const NANO_BATCH_SIZE: usize = 32;
const BATCH_SIZE: usize = 128;
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Where the examples of the evaluation come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TestData {
    None,
    Files(Vec<PathBuf>),
    /// A share of the lines of the training data.
    Split(f64),
}

/// The settings that do not depend on the data.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) data: Vec<PathBuf>,
    pub(super) data_options: DataOptions,
    pub(super) shuffle: bool,
    pub(super) seed: u64,
    pub(super) test: TestData,
    pub(super) eval_every: u64,
    pub(super) sample_every: u64,
    pub(super) prompts: Option<PathBuf>,
    pub(super) from: Option<TrainingPath>,
    pub(super) name: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) loss: Option<LossKind>,
    pub(super) beta: f64,
    pub(super) reference: Option<String>,
    pub(super) reduction: Option<ReductionKind>,
    pub(super) lr: Option<Rate>,
    pub(super) schedule: ScheduleKind,
    pub(super) warmup: Warmup,
    pub(super) batch_size: Option<usize>,
    pub(super) epochs: Option<u64>,
    pub(super) max_steps: Option<u64>,
    /// The learning rate in it is not used.
    pub(super) adam: AdamParams,
    pub(super) lora: LoraConfig,
    pub(super) save_every: u64,
    pub(super) ttl: Lifetime,
    pub(super) final_ttl: Lifetime,
    pub(super) keep_last: Option<usize>,
    pub(super) sampler_weights: bool,
    pub(super) submit_ahead: usize,
    pub(super) max_usd: Option<f64>,
    pub(super) max_tokens: Option<u64>,
    /// Time from a signal to the end of the command.
    pub(super) stop_within: Duration,
    pub(super) report: bool,
}

/// The settings that depend on the model and on the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chosen {
    pub(super) loss: LossKind,
    pub(super) reduction: Reduction,
    pub(super) lr: f64,
    pub(super) batch_size: usize,
    pub(super) epochs: u64,
    pub(super) batches_per_epoch: u64,
    pub(super) n_steps: u64,
    pub(super) warmup_steps: u64,
}

impl Chosen {
    /// The number of epochs that are trained, at least in part: the steps may be limited.
    pub(super) fn n_epochs_begun(&self) -> u64 {
        self.epochs.min(self.n_steps.div_ceil(self.batches_per_epoch.max(1)))
    }
}

impl Settings {
    pub(super) fn of(args: &Args) -> Result<Self, Failure> {
        let lifetime = |given: &Option<Lifetime>, default: &str| match given {
            Some(lifetime) => Ok(lifetime.clone()),
            None => default.parse().map_err(Failure::usage),
        };
        let test = match (args.eval_split, args.eval_data.as_slice()) {
            (Some(share), _) => TestData::Split(share),
            (None, []) => TestData::None,
            (None, files) => TestData::Files(files.to_vec()),
        };
        let mut metadata = BTreeMap::new();
        for pair in &args.metadata {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::usage(format!("--metadata {pair}: give KEY=VALUE")));
            };
            metadata.insert(key.to_owned(), value.to_owned());
        }
        if args.no_mlp && args.no_attn && args.no_unembed {
            return Err(Failure::usage("--no-mlp --no-attn --no-unembed leave nothing to train"));
        }
        let from = args.from.as_deref().map(state).transpose()?;
        let seed = args.seed.unwrap_or(0);
        Ok(Settings {
            data: args.data.clone(),
            data_options: args.data_options.clone(),
            shuffle: !args.no_shuffle,
            seed,
            test,
            eval_every: args.eval_every.unwrap_or(10),
            sample_every: args.sample_every.unwrap_or(0),
            prompts: args.prompts.clone(),
            from,
            name: args.name.clone(),
            tags: args.tag.clone(),
            metadata,
            loss: args.loss,
            beta: args.beta.unwrap_or(0.1),
            reference: args.reference.clone(),
            reduction: args.reduction,
            lr: args.lr,
            schedule: args.schedule.unwrap_or(ScheduleKind::Linear),
            warmup: args.warmup.unwrap_or(Warmup::Steps(0)),
            batch_size: args.batch_size,
            epochs: args.epochs,
            max_steps: args.max_steps,
            adam: AdamParams {
                beta1: args.beta1.unwrap_or(0.9),
                beta2: args.beta2.unwrap_or(0.95),
                eps: args.eps.unwrap_or(1e-8),
                weight_decay: args.weight_decay.unwrap_or(0.0),
                grad_clip_norm: args.grad_clip.unwrap_or(0.0),
                ..Default::default()
            },
            lora: LoraConfig {
                rank: args.rank.unwrap_or(32),
                seed: Some(args.lora_seed.unwrap_or(seed)),
                train_mlp: !args.no_mlp,
                train_attn: !args.no_attn,
                train_unembed: !args.no_unembed,
            },
            save_every: args.save_every.unwrap_or(20),
            ttl: lifetime(&args.ttl, "7d")?,
            final_ttl: lifetime(&args.final_ttl, "never")?,
            keep_last: args.keep_last,
            sampler_weights: !args.no_sampler_weights,
            submit_ahead: args.submit_ahead.unwrap_or(1),
            max_usd: args.max_usd,
            max_tokens: args.max_tokens,
            stop_within: args.stop_within.unwrap_or(STOP_WITHIN),
            report: !args.no_report,
        })
    }

    /// Chooses what depends on the model and on the data: `n_items` examples, or pairs, to train on.
    pub(super) fn choose(&self, model: &str, format: DataFormat, n_items: usize) -> Result<Chosen, Failure> {
        let is_preference = format == DataFormat::Preference;
        let loss = self.loss.unwrap_or(if is_preference { LossKind::Dpo } else { LossKind::Sft });
        if (loss == LossKind::Dpo) != is_preference {
            return Err(Failure::usage(if is_preference {
                "preference data are trained with --loss dpo"
            } else {
                "--loss dpo needs preference data: objects with prompt, chosen and rejected"
            }));
        }
        if n_items == 0 {
            return Err(Failure::text("there is nothing to train on"));
        }
        let reduction = match (self.reduction, loss) {
            (Some(ReductionKind::Mean), LossKind::Dpo) => {
                return Err(Failure::usage(
                    "--reduction mean is for --loss sft: dpo counts each token the same",
                ));
            }
            (Some(ReductionKind::Mean), LossKind::Sft) | (None, LossKind::Sft) => Reduction::Mean,
            (Some(ReductionKind::None), _) | (None, LossKind::Dpo) => Reduction::Sum,
        };
        let is_nano = model == NANO;
        let lr = match self.lr {
            Some(Rate::Value(rate)) => rate,
            Some(Rate::Auto) | None if is_nano => NANO_RATE,
            Some(Rate::Auto) => tinkex::train::recommended_lr(model)
                .map_err(|error| Failure::from(error).with_remedy("--lr with a number, such as 1e-4"))?,
            None => 1e-4,
        };
        let most = if is_nano { NANO_BATCH_SIZE } else { BATCH_SIZE };
        let batch_size = self.batch_size.unwrap_or_else(|| even_size(n_items, most)).min(n_items);
        let batches_per_epoch = n_items.div_ceil(batch_size) as u64;
        let by_default = if is_nano && self.max_steps.is_none() {
            NANO_STEPS.div_ceil(batches_per_epoch)
        } else if is_nano {
            // As many as the steps need.
            self.max_steps.unwrap_or(NANO_STEPS).div_ceil(batches_per_epoch)
        } else {
            1
        };
        let epochs = self.epochs.unwrap_or(by_default.max(1));
        let n_steps = epochs.saturating_mul(batches_per_epoch).min(self.max_steps.unwrap_or(u64::MAX));
        let warmup_steps = self.warmup.steps(n_steps);
        Ok(Chosen { loss, reduction, lr, batch_size, epochs, batches_per_epoch, n_steps, warmup_steps })
    }

    /// Adam's parameters of a step.
    pub(super) fn adam(&self, chosen: &Chosen, step: u64) -> Result<AdamParams, Failure> {
        let schedule = match self.schedule {
            ScheduleKind::Linear => Schedule::Linear,
            ScheduleKind::Cosine => Schedule::Cosine,
            ScheduleKind::Constant => Schedule::Constant,
        };
        let of = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let learning_rate = schedule.with_warmup(of(chosen.warmup_steps)).learning_rate(
            of(step),
            of(chosen.n_steps),
            chosen.lr,
        )?;
        Ok(AdamParams { learning_rate, ..self.adam })
    }

    /// All settings by the names of the options, as they are written to `config.json`, over those that were given.
    pub(super) fn to_object(&self, given: Map<String, Value>, chosen: Option<&Chosen>) -> Map<String, Value> {
        let mut object = given;
        let adam = &self.adam;
        let all = json!({
            "shuffle": self.shuffle,
            "seed": self.seed,
            "eval-every": self.eval_every,
            "sample-every": if self.prompts.is_some() { json!(self.sample_every) } else { Value::Null },
            "schedule": match self.schedule {
                ScheduleKind::Linear => "linear",
                ScheduleKind::Cosine => "cosine",
                ScheduleKind::Constant => "constant",
            },
            "warmup": match self.warmup {
                Warmup::Steps(n) => json!(n),
                share => json!(share.to_string()),
            },
            "beta1": adam.beta1,
            "beta2": adam.beta2,
            "eps": adam.eps,
            "weight-decay": adam.weight_decay,
            "grad-clip": adam.grad_clip_norm,
            "rank": self.lora.rank,
            "lora-seed": self.lora.seed,
            "no-mlp": !self.lora.train_mlp,
            "no-attn": !self.lora.train_attn,
            "no-unembed": !self.lora.train_unembed,
            "save-every": self.save_every,
            "ttl": self.ttl.text,
            "final-ttl": self.final_ttl.text,
            "no-sampler-weights": !self.sampler_weights,
            "submit-ahead": self.submit_ahead,
            "no-report": !self.report,
        });
        let chosen = match chosen {
            Some(chosen) => json!({
                "loss": if chosen.loss == LossKind::Dpo { "dpo" } else { "sft" },
                "beta": if chosen.loss == LossKind::Dpo { json!(self.beta) } else { Value::Null },
                "reduction": if chosen.reduction == Reduction::Mean { "mean" } else { "none" },
                "lr": chosen.lr,
                "batch-size": chosen.batch_size,
                "epochs": chosen.epochs,
            }),
            None => json!({
                "beta": self.beta,
                "batch-size": self.batch_size,
                "epochs": self.epochs,
            }),
        };
        for (name, value) in [all, chosen].into_iter().filter_map(|it| it.as_object().cloned()).flatten() {
            if !value.is_null() {
                object.insert(name, value);
            }
        }
        object
    }
}

/// The path of a state to begin with. Folders of runs were replaced by their states before.
fn state(text: &str) -> Result<TrainingPath, Failure> {
    if text.contains("://") {
        return Ok(text.parse()?);
    }
    Err(Failure::usage(format!("--from {text}: is neither a saved state nor the folder of a run"))
        .with_remedy(
            "a path tinker://…, as `tinkex checkpoint list` shows them, or a folder with checkpoints.jsonl",
        ))
}

/// The size of batches of which none is much smaller than the others: Adam's steps are as large for a batch of one.
fn even_size(n_items: usize, most: usize) -> usize {
    n_items.div_ceil(n_items.div_ceil(most).max(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    fn settings(line: &[&str]) -> Settings {
        let command = Args::augment_args(clap::Command::new("train"));
        let matches = command.try_get_matches_from([&["train"], line].concat()).unwrap();
        Settings::of(&Args::from_arg_matches(&matches).unwrap()).unwrap()
    }

    #[test]
    fn steps_follow_from_the_data() {
        /// Options, model, examples; batch size, batches of an epoch, epochs, steps.
        type Case<'a> = (&'a [&'a str], &'a str, usize, (usize, u64, u64, u64));
        let cases: [Case<'_>; 6] = [
            (&[], "Qwen/Qwen3-8B", 1000, (125, 8, 1, 8)),
            (&["--epochs", "3"], "Qwen/Qwen3-8B", 10, (10, 1, 3, 3)),
            (&["--max-steps", "2", "--batch-size", "300"], "Qwen/Qwen3-8B", 1000, (300, 4, 1, 2)),
            (&[], NANO, 97, (25, 4, 38, 152)),
            (&["--batch-size", "10"], NANO, 100, (10, 10, 15, 150)),
            (&["--epochs", "1"], NANO, 20, (20, 1, 1, 1)),
        ];
        for (line, model, n_items, expected) in cases {
            let chosen = settings(line).choose(model, DataFormat::Chat, n_items).unwrap();
            let found = (chosen.batch_size, chosen.batches_per_epoch, chosen.epochs, chosen.n_steps);
            assert_eq!(found, expected, "{line:?}");
        }
    }

    #[test]
    fn the_learning_rate_follows_the_model_where_it_is_known() {
        let rate = |line: &[&str], model| settings(line).choose(model, DataFormat::Chat, 1).map(|it| it.lr);
        assert_eq!(rate(&[], "Qwen/Qwen3-8B").unwrap(), 1e-4);
        assert!((rate(&["--lr", "auto"], "Qwen/Qwen3-8B").unwrap() - 4.73e-4).abs() < 1e-6);
        assert_eq!(rate(&[], NANO).unwrap(), NANO_RATE);
        assert_eq!(rate(&["--lr", "0.5"], NANO).unwrap(), 0.5);
        assert!(rate(&["--lr", "auto"], "openai/gpt-oss-20b").is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        for line in [["--beta1", "1"], ["--eps", "-1"], ["--beta", "0"], ["--max-usd", "nan"]] {
            let command = Args::augment_args(clap::Command::new("train"));
            let line = format!("{}={}", line[0], line[1]);
            let refused = command.try_get_matches_from(["train", &line]).unwrap_err().to_string();
            assert!(refused.contains(&line[..5]) && refused.contains("give a number"), "{refused}");
        }
    }

    #[test]
    fn the_loss_must_fit_the_data() {
        let loss = |line: &[&str], format| settings(line).choose(NANO, format, 1).map(|it| it.loss);
        assert_eq!(loss(&[], DataFormat::Preference).unwrap(), LossKind::Dpo);
        assert_eq!(loss(&[], DataFormat::Text).unwrap(), LossKind::Sft);
        assert!(loss(&["--loss", "dpo"], DataFormat::Text).is_err());
        assert!(loss(&["--loss", "sft"], DataFormat::Preference).is_err());
    }
}
