//! The options of `tinkex train`. All are optional, so that a file of settings can fill them; the defaults are those of
//! `Settings`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, ValueEnum};

use super::values;
use crate::examples::{DataOptions, parse_share};
use crate::moments::parse_duration;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Files of examples, JSON Lines, also compressed (.gz, .zst); "-" is stdin
    #[arg(value_name = "DATA")]
    pub(super) data: Vec<PathBuf>,
    /// Base model [default: that of --from; with --local: tinkex/nano]
    #[arg(short, long, value_name = "MODEL")]
    pub(super) model: Option<String>,
    /// Begin a new run with a saved state, or with the last one of the run in a folder
    #[arg(long, value_name = "PATH|DIR", conflicts_with = "resume")]
    pub(super) from: Option<String>,
    /// Continue the run in this folder exactly where it stopped
    #[arg(long, value_name = "DIR")]
    pub(super) resume: Option<PathBuf>,
    /// With --resume: go on although data or settings of the run have changed, or its last state is gone
    #[arg(long)]
    pub(super) force_resume: bool,
    /// Folder of the run [default: tinkex-runs/<date>-<model>]
    #[arg(short, long, value_name = "DIR", conflicts_with = "resume")]
    pub(super) out: Option<PathBuf>,
    /// Replace the run in the folder
    #[arg(long, conflicts_with = "resume")]
    pub(super) overwrite: bool,
    /// Settings from a file, TOML or JSON, whose keys are the names of these options, without --out; options win
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the settings, of which a file for --config can be made, and stop
    #[arg(long)]
    pub(super) print_config: bool,
    /// Name of the session and of the training run, for lists [default: that of the folder]
    #[arg(long, value_name = "TEXT")]
    pub(super) name: Option<String>,
    /// Tag of the session; several times for several
    #[arg(long, value_name = "TAG")]
    pub(super) tag: Vec<String>,
    /// Metadata of the training run; several times for several
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) metadata: Vec<String>,

    #[command(flatten, next_help_heading = "Data")]
    pub(super) data_options: DataOptions,
    /// Train in another order in each epoch [default]
    #[arg(long, overrides_with = "no_shuffle", help_heading = "Data")]
    pub(super) shuffle: bool,
    /// Train in the order of the files
    #[arg(long, help_heading = "Data")]
    pub(super) no_shuffle: bool,
    /// Seed of the order, and of the adapter unless --lora-seed is given [default: 0]
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(super) seed: Option<u64>,

    /// File of examples for the evaluation
    #[arg(long, value_name = "FILE", conflicts_with = "eval_split", help_heading = "Evaluation")]
    pub(super) eval_data: Vec<PathBuf>,
    /// Share of the lines that is kept for the evaluation; a line is chosen by its content
    #[arg(long, value_name = "SHARE", value_parser = parse_share, help_heading = "Evaluation")]
    pub(super) eval_split: Option<f64>,
    /// Steps between evaluations [default: 10]
    #[arg(long, value_name = "N", help_heading = "Evaluation")]
    pub(super) eval_every: Option<u64>,
    /// Steps between samples of the prompts; 0 samples only before and after the training [default: 0]
    #[arg(long, value_name = "N", requires = "prompts", help_heading = "Evaluation")]
    pub(super) sample_every: Option<u64>,
    /// Prompts to sample before, during and after the training: lines of text, or JSON objects with `prompt` or
    /// `messages`, one a line or in one array
    #[arg(long, value_name = "FILE", help_heading = "Evaluation")]
    pub(super) prompts: Option<PathBuf>,

    /// What is minimised [default: dpo for preference data, otherwise sft]
    #[arg(long, value_name = "LOSS", help_heading = "Loss")]
    pub(super) loss: Option<LossKind>,
    /// dpo: how strongly the model is held to the reference [default: 0.1]
    #[arg(long, value_name = "X", value_parser = values::above_0, help_heading = "Loss")]
    pub(super) beta: Option<f64>,
    /// dpo: model, weights for sampling, or folder of a run that are the reference [default: the weights that the run
    /// begins with]
    #[arg(long, value_name = "MODEL|PATH|DIR", help_heading = "Loss")]
    pub(super) reference: Option<String>,
    /// Weights of an example: mean makes them sum to 1, none leaves them [default: sft mean, dpo none]
    #[arg(long, value_name = "HOW", help_heading = "Loss")]
    pub(super) reduction: Option<ReductionKind>,

    /// Learning rate, or auto for the recommended one [default: 1e-4; for tinkex/nano auto]
    #[arg(long, value_name = "RATE|auto", help_heading = "Optimizer")]
    pub(super) lr: Option<Rate>,
    /// Course of the learning rate [default: linear]
    #[arg(long, value_name = "COURSE", help_heading = "Optimizer")]
    pub(super) schedule: Option<ScheduleKind>,
    /// Steps, or share of the steps such as 5%, in which the learning rate rises [default: 0]
    #[arg(long, value_name = "N|P%", help_heading = "Optimizer")]
    pub(super) warmup: Option<Warmup>,
    /// Examples in a step [default: at most 128, for tinkex/nano 32, in batches of about the same size]
    #[arg(long, value_name = "N", value_parser = values::size, help_heading = "Optimizer")]
    pub(super) batch_size: Option<usize>,
    /// Passes over the data [default: 1; for tinkex/nano as many as 150 steps need]
    #[arg(long, value_name = "N", value_parser = values::at_least_1, help_heading = "Optimizer")]
    pub(super) epochs: Option<u64>,
    /// Stop after so many steps
    #[arg(long, value_name = "N", help_heading = "Optimizer")]
    pub(super) max_steps: Option<u64>,
    /// Adam: decay rate of the mean of gradients [default: 0.9]
    #[arg(long, value_name = "X", value_parser = values::decay_rate, help_heading = "Optimizer")]
    pub(super) beta1: Option<f64>,
    /// Adam: decay rate of the mean of squared gradients [default: 0.95]
    #[arg(long, value_name = "X", value_parser = values::decay_rate, help_heading = "Optimizer")]
    pub(super) beta2: Option<f64>,
    /// Adam: constant in the denominator [default: 1e-8]
    #[arg(long, value_name = "X", value_parser = values::at_least_0, help_heading = "Optimizer")]
    pub(super) eps: Option<f64>,
    /// Decoupled weight decay [default: 0]
    #[arg(long, value_name = "X", value_parser = values::at_least_0, help_heading = "Optimizer")]
    pub(super) weight_decay: Option<f64>,
    /// Largest norm of the gradients, 0 for no limit [default: 0]
    #[arg(long, value_name = "X", value_parser = values::at_least_0, help_heading = "Optimizer")]
    pub(super) grad_clip: Option<f64>,

    /// Rank of the adapter [default: 32]
    #[arg(long, value_name = "N", help_heading = "Adapter", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rank: Option<u32>,
    /// Do not train the feed-forward layers
    #[arg(long, help_heading = "Adapter")]
    pub(super) no_mlp: bool,
    /// Do not train the attention layers
    #[arg(long, help_heading = "Adapter")]
    pub(super) no_attn: bool,
    /// Do not train the unembedding
    #[arg(long, help_heading = "Adapter")]
    pub(super) no_unembed: bool,
    /// Seed of the first values of the adapter [default: --seed]
    #[arg(long, value_name = "N", help_heading = "Adapter")]
    pub(super) lora_seed: Option<u64>,

    /// Steps between checkpoints; 0 saves only at the end [default: 20]
    #[arg(long, value_name = "N", help_heading = "Saving")]
    pub(super) save_every: Option<u64>,
    /// Lifetime of these checkpoints, such as 12h or 7d, or never [default: 7d]
    #[arg(long, value_name = "TIME|never", help_heading = "Saving")]
    pub(super) ttl: Option<Lifetime>,
    /// Lifetime of the final checkpoint [default: never]
    #[arg(long, value_name = "TIME|never", help_heading = "Saving")]
    pub(super) final_ttl: Option<Lifetime>,
    /// Delete all but the last N of these checkpoints
    #[arg(long, value_name = "N", help_heading = "Saving")]
    pub(super) keep_last: Option<usize>,
    /// Save weights for sampling only at the end
    #[arg(long, help_heading = "Saving")]
    pub(super) no_sampler_weights: bool,

    /// Steps that are submitted before earlier ones have finished [default: 1]
    #[arg(long, value_name = "N", help_heading = "Running")]
    pub(super) submit_ahead: Option<usize>,
    /// Show what the run would do and cost, and stop
    #[arg(long, help_heading = "Running")]
    pub(super) dry_run: bool,
    /// Stop with status 4, the state saved, before the run costs more
    #[arg(long, value_name = "USD", value_parser = values::above_0, help_heading = "Running")]
    pub(super) max_usd: Option<f64>,
    /// Stop with status 4, the state saved, before the run trains more tokens
    #[arg(long, value_name = "N", help_heading = "Running")]
    pub(super) max_tokens: Option<u64>,
    /// After Ctrl-C or SIGTERM, end within this time, with the state saved if the server saves it by then [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Running")]
    pub(super) stop_within: Option<Duration>,
    /// Do not ask before an expensive run
    #[arg(short, long, help_heading = "Running")]
    pub(super) yes: bool,
    /// Write no report.html
    #[arg(long, action = ArgAction::SetTrue, help_heading = "Running")]
    pub(super) no_report: bool,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LossKind {
    Sft,
    Dpo,
}

/// How the weights of an example are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReductionKind {
    Mean,
    None,
}

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleKind {
    Linear,
    Cosine,
    Constant,
}

/// A learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    Auto,
    Value(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Rate::Auto);
        }
        match text.parse() {
            Ok(rate) if (0.0..f64::INFINITY).contains(&rate) => Ok(Rate::Value(rate)),
            _ => Err("give a number of at least 0, or auto".into()),
        }
    }
}

/// The length of the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Warmup {
    Steps(u64),
    /// A share of all steps, from 0 to 1.
    Share(f64),
}

impl Warmup {
    /// The number of steps in a run of `n_steps`.
    pub(super) fn steps(self, n_steps: u64) -> u64 {
        match self {
            Warmup::Steps(n) => n,
            Warmup::Share(share) => (share * n_steps as f64).round() as u64,
        }
    }
}

impl FromStr for Warmup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || "give a number of steps, or a share such as 5%".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Warmup::Share(percent / 100.0)),
                _ => Err(help()),
            },
            None => text.parse().map(Warmup::Steps).map_err(|_| help()),
        }
    }
}

impl std::fmt::Display for Warmup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warmup::Steps(n) => write!(f, "{n}"),
            Warmup::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

/// The lifetime of checkpoints, with its text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lifetime {
    pub(super) text: String,
    pub(super) ttl: tinkex::types::Ttl,
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use tinkex::types::Ttl;
        const HOUR: u64 = 3600;
        if text == "never" {
            return Ok(Lifetime { text: text.into(), ttl: Ttl::Never });
        }
        let time = parse_duration(text)?;
        if !(HOUR..=87_600 * HOUR).contains(&time.as_secs()) {
            return Err("give a time from 1h to 3650d, or never".into());
        }
        Ok(Lifetime { text: text.into(), ttl: Ttl::After(time) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_steps_or_a_share() {
        let steps = |text: &str| text.parse::<Warmup>().map(|it| it.steps(200));
        assert_eq!(steps("7"), Ok(7));
        assert_eq!(steps("5%"), Ok(10));
        for text in ["-1", "101%", "x", "", "%"] {
            assert!(steps(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lifetime_is_one_that_servers_take() {
        for (text, is_right) in
            [("7d", true), ("1h", true), ("never", true), ("59m", false), ("9999w", false)]
        {
            assert_eq!(text.parse::<Lifetime>().is_ok(), is_right, "{text}");
        }
    }

    #[test]
    fn a_rate_is_a_number_or_auto() {
        assert_eq!("1e-4".parse(), Ok(Rate::Value(1e-4)));
        assert_eq!("auto".parse(), Ok(Rate::Auto));
        for text in ["-1", "nan", "inf", "fast"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
