//! Settings of a run in a folder: which checkpoints it saves, for how long, and with which weights it begins.

use std::time::Duration;

use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::train::{CheckpointLog, Run, RunOptions};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, Ttl};

use crate::util::folder::Folder;

/// An engine with a client, and a folder for runs.
struct Site {
    folder: Folder,
    service: ServiceClient,
    _server: Server,
}

impl Site {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let engine = Options { data_dir: Some(folder.0.join("engine")), threads: 1, ..Options::default() };
        let server = Server::start(engine).unwrap();
        let connect = ServiceClient::builder().without_environment();
        let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
        Site { folder, service, _server: server }
    }

    fn open(&self, name: &str, options: &RunOptions) -> Run {
        Run::open(self.folder.0.join(name), &self.service, "tinkex/nano", options).unwrap()
    }

    /// The checkpoints of all runs, as `name` or `name until-deleted`, sorted.
    fn checkpoints(&self) -> Vec<String> {
        let all = self.service.create_rest_client().list_user_checkpoints();
        let text = |it: tinkex::types::Checkpoint| match it.expires_at {
            Some(_) => it.checkpoint_id,
            None => format!("{} until deleted", it.checkpoint_id),
        };
        let mut all: Vec<String> = all.map(|it| text(it.unwrap())).collect();
        all.sort();
        all
    }
}

fn options() -> RunOptions {
    let lora = LoraConfig { rank: 2, seed: Some(1), ..LoraConfig::default() };
    RunOptions { lora, save_every: 2, ..RunOptions::default() }
}

/// Runs steps until `end`; returns their losses.
fn train(run: &mut Run, end: u64) -> Vec<f64> {
    let mut losses = Vec::new();
    while run.next_step() < end {
        let step = run.next_step();
        let batch = vec![Datum::cross_entropy(&[1, 2], &[3, 4])];
        let pass = run.training().forward_backward(batch, LossFn::CrossEntropy);
        let update = run.training().optim_step(AdamParams { learning_rate: 1e-2, ..Default::default() });
        run.checkpoint_if_due(step).unwrap();
        losses.push(pass.wait().unwrap().loss_per_token().unwrap());
        update.wait().unwrap();
        run.log(step, &[]).unwrap();
    }
    losses
}

fn names(run: &Run) -> Vec<&str> {
    run.checkpoints().iter().map(|record| record.name.as_str()).collect()
}

#[test]
fn the_last_step_is_saved_once_if_the_number_of_steps_is_known() {
    let site = Site::new("run-n-steps");
    let options = |n_steps| RunOptions { n_steps, ..options() };
    let mut run = site.open("known", &options(Some(4)));
    train(&mut run, 4);
    let last = run.finish().unwrap();
    assert_eq!((last.name.as_str(), last.is_final, last.next_batch), ("final", true, Some(4)));
    assert_eq!(names(&run), ["000002", "final"]);
    assert_eq!(run.finish().unwrap(), last);
    drop(run);
    // The run goes on from there with more steps, and ends with a final checkpoint of these.
    let mut run = site.open("known", &options(Some(6)));
    assert_eq!(run.next_step(), 4);
    train(&mut run, 6);
    assert_eq!(run.finish().unwrap().next_batch, Some(6));
    assert_eq!(names(&run), ["000002", "final", "final"]);
    let mut run = site.open("unknown", &options(None));
    train(&mut run, 4);
    run.finish().unwrap();
    assert_eq!(names(&run), ["000002", "000004", "final"]);
}

#[test]
fn periodic_and_final_checkpoints_have_their_own_lifetimes_and_weights() {
    let site = Site::new("run-lifetimes");
    let day = Ttl::After(Duration::from_secs(24 * 3600));
    let kept = RunOptions { sampler_weights: false, ttl: day, ..options() };
    let mut run = site.open("kept", &kept);
    train(&mut run, 3);
    run.finish().unwrap();
    let of_kept = ["sampler_weights/final until deleted", "weights/000002", "weights/final until deleted"];
    assert_eq!(site.checkpoints(), of_kept);
    assert!(run.checkpoints()[0].sampler_path.is_none() && run.checkpoints()[1].sampler_path.is_some());
    let mut run = site.open("short", &RunOptions { ttl: Ttl::Never, final_ttl: day, ..options() });
    train(&mut run, 3);
    run.finish().unwrap();
    let mut all = site.checkpoints();
    all.retain(|it| !of_kept.contains(&it.as_str()) || it == "weights/000002");
    let of_short = [
        "sampler_weights/000002 until deleted",
        "sampler_weights/final",
        "weights/000002",
        "weights/000002 until deleted",
        "weights/final",
    ];
    assert_eq!(all, of_short);
}

#[test]
fn a_run_begins_with_saved_weights_and_a_new_optimizer() {
    let site = Site::new("run-start");
    let mut first = site.open("first", &options());
    let before = train(&mut first, 5);
    let start = first.finish().unwrap().state_path;
    // The adapter is that of the weights.
    let lora = LoraConfig { rank: 7, ..LoraConfig::default() };
    let options = RunOptions { start: start.clone(), lora, ..options() };
    let mut second = site.open("second", &options);
    assert_eq!(second.next_step(), 0);
    let after = train(&mut second, 3);
    assert!(after[0] < before[4], "{before:?} {after:?}");
    let info = site.service.create_rest_client();
    let state = second.finish().unwrap().state_path.unwrap();
    let rank =
        |path: &tinkex::types::TrainingPath| info.get_weights_info_by_tinker_path(path).unwrap().lora_rank;
    assert_eq!((rank(&state), rank(&start.unwrap())), (Some(2), Some(2)));
    drop(second);
    // A resumed run goes on from its own checkpoint.
    assert_eq!(site.open("second", &options).next_step(), 3);
}

#[test]
fn a_checkpoint_outside_of_the_schedule_is_saved_once_and_resumed_from() {
    let site = Site::new("run-stopped");
    let options = RunOptions { save_every: 4, ..options() };
    let mut run = site.open("run", &options);
    train(&mut run, 3);
    for _ in 0..2 {
        run.checkpoint().unwrap();
        run.record_checkpoints().unwrap();
        assert_eq!(names(&run), ["000003"]);
    }
    train(&mut run, 4);
    // The periodic checkpoint contains the same steps.
    run.checkpoint().unwrap();
    run.record_checkpoints().unwrap();
    assert_eq!(names(&run), ["000003", "000004"]);
    let folder = run.folder().to_owned();
    drop(run);
    let last = CheckpointLog::open(&folder).unwrap().last_resumable().cloned().unwrap();
    assert_eq!((last.next_batch, last.is_final), (Some(4), false));
    let run = site.open("run", &options);
    assert_eq!(run.next_step(), 4);
}
