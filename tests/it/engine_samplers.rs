//! What samplers cost the engine, and when it is given back.

use serde_json::json;
use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput};
use tinkex::{CloseStatus, ServiceClient};

use crate::util::alone;
use crate::util::engine::Client;

/// How much memory this process has, in MiB.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() / 1024
}

/// With `TINKEX_SNAPSHOTS=10000` it makes as many as the engine promises to bear.
#[cfg(target_os = "linux")]
#[test]
fn a_sampler_after_every_step_costs_no_memory_and_each_keeps_its_weights() {
    const TEST: &str =
        "engine_samplers::a_sampler_after_every_step_costs_no_memory_and_each_keeps_its_weights";
    alone(TEST, || {
        let most = std::env::var("TINKEX_SNAPSHOTS").map_or(150, |it| it.parse().unwrap());
        let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
        let connect = ServiceClient::builder().without_environment();
        let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
        let lora = LoraConfig { rank: 32, ..LoraConfig::default() };
        let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
        let text = ModelInput::from_ints([72, 105, 33]);
        let mut told = Vec::new();
        let mut before = 0;
        for i in 0..most {
            training
                .forward_backward(vec![Datum::cross_entropy(&[1, 2], &[3])], LossFn::CrossEntropy)
                .wait()
                .unwrap();
            training.optim_step(AdamParams { learning_rate: 1e-3, ..Default::default() }).wait().unwrap();
            let sampler = training.save_weights_and_get_sampling_client().unwrap();
            if i % (most / 10) == 0 {
                told.push((sampler.compute_logprobs(&text).wait().unwrap(), sampler));
            }
            if i == 20 {
                before = resident();
            }
        }
        let grown = resident().saturating_sub(before);
        // Beside the samplers there are the results of all requests, which are kept for two minutes, also after the session.
        let most_mib = 60 + most / 100;
        assert!(grown < most_mib, "{most} samplers took {grown} MiB beyond {before}");
        assert_ne!(told[0].0, told[9].0, "training changes them");
        for (logprobs, sampler) in &told {
            assert_eq!(logprobs, &sampler.compute_logprobs(&text).wait().unwrap());
        }
        drop((training, told));
        service.close(CloseStatus::Success).unwrap();
        let after = resident();
        assert!(after < before + most_mib, "{after} MiB after the session, {before} at its start");
        let line = format!(
            "{most} samplers: {before} MiB at 20, {grown} more at the end, {after} after the session\n"
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    });
}

#[test]
fn sessions_that_ended_long_ago_are_forgotten() {
    let client = Client::new();
    let mut ids = Vec::new();
    for _ in 0..1100 {
        let (_, made) = client.post("create_session", &json!({"tags": [], "type": "create_session"}));
        let id = made["session_id"].as_str().unwrap().to_string();
        let (status, _) =
            client.post(&format!("sessions/{id}/finish"), &json!({"reason": {"type": "success"}}));
        assert_eq!(status, 200);
        ids.push(id);
    }
    let (_, listed) = client.get("sessions?limit=1");
    assert_eq!(
        listed["cursor"]["total_count"],
        1024 + 1,
        "the ended ones and the one that is alive: {listed}"
    );
    let trace = |id: &str| client.get(&format!("sessions/{id}/trace_export"));
    assert_eq!(trace(&ids[0]), (404, json!({"detail": format!("session {} does not exist", ids[0])})));
    let (status, text) = trace(&ids[1000]);
    assert!(status == 404 && text["detail"].as_str().unwrap().contains("no longer kept"), "{text}");
    assert_eq!(client.get(&format!("sessions/{}", ids[1000])).0, 200);
}
