//! Reinforcement learning: teaches a model to answer with lowercase letters, by a reward alone.
//!
//! ```text
//! cargo run --release --features local --example rl
//! ```
//!
//! Without an address and an API key the example runs offline on the built-in engine. With `TINKER_BASE_URL` or
//! `TINKER_API_KEY` it uses that service and trains the base model `TINKEX_BASE_MODEL`, with its own tokenizer (feature
//! `hub`) and the format that is recommended for it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a person")]

mod connect;
mod usage;

use std::process::ExitCode;

use tinkex::chat::{Message, Renderer};
use tinkex::train::Schedule;
use tinkex::train::rl::{
    Trajectory, TrajectoryDatum, TrajectoryGroup, Transition, assemble_training_data, group_fractions,
    kl_sample_train, remove_constant_reward_groups,
};
use tinkex::types::{AdamParams, LoraConfig, LossFn, SamplingParams};
use tinkex::{CloseStatus, Error, SamplingClient, wait_all};

const PROMPTS: [&str; 4] = ["Say it.", "A name?", "A word?", "A letter?"];
const GROUP_SIZE: u32 = 16;
const STEPS: usize = 20;
const PEAK: f64 = 1e-2;

const HELP: &str = "\
Teaches a model to answer with lowercase letters, by a reward alone.

Usage: rl

  -h, --help      print this text

Without TINKER_BASE_URL and TINKER_API_KEY it runs on the built-in engine, otherwise on that service with the base
model TINKEX_BASE_MODEL.
";

fn main() -> ExitCode {
    usage::run_without_arguments("rl", HELP, run)
}

fn run() -> Result<(), Error> {
    let connection = connect::connect(None)?;
    let lora = LoraConfig { seed: Some(1), ..Default::default() };
    let training = connection.service.create_lora_training_client(&connection.base_model, lora)?;
    let renderer = Renderer::recommended(&connection.base_model, training.tokenizer()?)?;
    let (mut first, mut last) = (f64::NAN, f64::NAN);
    for step in 0..STEPS {
        // Sample with the current weights, so that the policy learns from its own answers.
        let sampler = training.save_weights_and_get_sampling_client()?;
        let groups = rollout(&renderer, &sampler, step as u64)?;
        last = mean_reward(&groups)?;
        if step == 0 {
            first = last;
        }
        let fractions = group_fractions(&groups)?;
        let data = assemble_training_data(&remove_constant_reward_groups(groups)?)?;
        let learning_rate = Schedule::Linear.learning_rate(step, STEPS, PEAK)?;
        let sent = data.iter().map(|datum| datum.datum.clone()).collect();
        let pass = training.forward_backward(sent, LossFn::ImportanceSampling);
        let update = training.optim_step(AdamParams { learning_rate, ..Default::default() });
        let output = pass.wait()?;
        update.wait()?;
        let logprobs: Vec<&[f32]> = (0..data.len()).filter_map(|i| output.logprobs(i)).collect();
        print_step(step, last, fractions.frac_mixed, &data, &logprobs)?;
    }
    connection.service.close(CloseStatus::Success)?;
    println!("rl: mean reward {first:.2} -> {last:.2}");
    Ok(())
}

/// Samples a group of answers to each prompt and rewards each answer. All samples are in flight at the same time.
fn rollout(renderer: &Renderer, sampler: &SamplingClient, seed: u64) -> Result<Vec<TrajectoryGroup>, Error> {
    let prompt = |question: &&str| renderer.build_generation_prompt(&[Message::user(*question)]);
    let prompts = PROMPTS.iter().map(prompt).collect::<Result<Vec<_>, _>>()?;
    // At temperature 1, so that the samples follow the distribution that is trained.
    let stop = Some(renderer.get_stop_sequences());
    let params = SamplingParams { max_tokens: Some(8), seed: Some(seed), stop, ..Default::default() };
    let pending: Vec<_> = prompts.iter().map(|prompt| sampler.sample(prompt, GROUP_SIZE, &params)).collect();
    let mut groups = Vec::new();
    for (prompt, answer) in prompts.iter().zip(wait_all(pending)?) {
        let mut trajectories = Vec::new();
        for sequence in &answer.sequences {
            let turn = Transition::sampled(prompt.clone(), sequence, reward(renderer, &sequence.tokens)?)?;
            trajectories.push(Trajectory::new([turn]));
        }
        groups.push(TrajectoryGroup::new(trajectories));
    }
    Ok(groups)
}

/// The share of lowercase letters.
fn reward(renderer: &Renderer, tokens: &[i32]) -> Result<f64, Error> {
    let (answer, _) = renderer.parse_response(tokens)?;
    let text = answer.text();
    let n_letters = text.chars().filter(char::is_ascii_lowercase).count();
    Ok(n_letters as f64 / text.chars().count().max(1) as f64)
}

fn mean_reward(groups: &[TrajectoryGroup]) -> Result<f64, Error> {
    let rewards: Vec<Vec<f64>> =
        groups.iter().map(TrajectoryGroup::total_rewards).collect::<Result<_, _>>()?;
    let rewards = rewards.concat();
    Ok(rewards.iter().sum::<f64>() / rewards.len() as f64)
}

fn print_step(
    step: usize,
    reward: f64,
    mixed: f64,
    data: &[TrajectoryDatum],
    logprobs: &[&[f32]],
) -> Result<(), Error> {
    let figures = kl_sample_train(data, logprobs)?.unwrap_or_default();
    let (kl, entropy) = (figures.kl_sample_train_v2, figures.entropy);
    println!(
        "step {step:>2}: reward {reward:.2}, mixed groups {mixed:.2}, entropy {entropy:.2}, KL {kl:.1e}"
    );
    Ok(())
}
