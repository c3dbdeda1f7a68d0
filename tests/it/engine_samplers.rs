//! Memory that the engine uses for samplers and for ended sessions.

use serde_json::json;
use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput};
use tinkex::{CloseStatus, ServiceClient};

use crate::util::alone_with;
use crate::util::engine::Client;

/// Resident memory of this process, in MiB.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() / 1024
}

/// The environment variable `TINKEX_SNAPSHOTS` sets the number of samplers. The default is 150.
#[cfg(target_os = "linux")]
#[test]
fn a_sampler_after_every_step_costs_no_memory_and_each_keeps_its_weights() {
    const TEST: &str =
        "engine_samplers::a_sampler_after_every_step_costs_no_memory_and_each_keeps_its_weights";
    // Settings of glibc's allocator: it must return freed memory to the system, so that the resident memory is the
    // memory in use.
    let tunables =
        "glibc.malloc.arena_max=2:glibc.malloc.trim_threshold=65536:glibc.malloc.mmap_threshold=65536";
    alone_with(TEST, &[("GLIBC_TUNABLES", tunables)], || {
        let n_samplers = std::env::var("TINKEX_SNAPSHOTS").map_or(150, |it| it.parse().unwrap());
        let server = Server::start(Options { threads: 2, ..Options::default() }).unwrap();
        let connect = ServiceClient::builder().without_environment();
        let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
        let lora = LoraConfig { rank: 32, ..LoraConfig::default() };
        let training = service.create_lora_training_client("tinkex/nano", lora).unwrap();
        let text = ModelInput::from_ints([72, 105, 33]);
        let mut checked = Vec::new();
        let mut before = 0;
        for i in 0..n_samplers {
            training
                .forward_backward(vec![Datum::cross_entropy(&[1, 2], &[3])], LossFn::CrossEntropy)
                .wait()
                .unwrap();
            training.optim_step(AdamParams { learning_rate: 1e-3, ..Default::default() }).wait().unwrap();
            let sampler = training.save_weights_and_get_sampling_client().unwrap();
            if i % (n_samplers / 10) == 0 {
                checked.push((sampler.compute_logprobs(&text).wait().unwrap(), sampler));
            }
            if i == 20 {
                before = resident();
            }
        }
        let grown = resident().saturating_sub(before);
        // The limit allows some growth, because the engine keeps the results of all requests for two minutes, even
        // after the end of the session.
        let max_growth = 60 + n_samplers / 100;
        assert!(grown < max_growth, "{n_samplers} samplers took {grown} MiB beyond {before}");
        assert_ne!(checked[0].0, checked[9].0, "training does not change the weights");
        for (logprobs, sampler) in &checked {
            assert_eq!(logprobs, &sampler.compute_logprobs(&text).wait().unwrap());
        }
        drop((training, checked));
        service.close(CloseStatus::Success).unwrap();
        let after = resident();
        assert!(after < before + max_growth, "{after} MiB after the session, {before} at its start");
        let line = format!(
            "{n_samplers} samplers: {before} MiB at 20, {grown} more at the end, {after} after the session\n"
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    });
}

#[test]
fn only_the_latest_1024_ended_sessions_are_remembered() {
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
    assert_eq!(listed["cursor"]["total_count"], 1024 + 1, "ended sessions and one active session: {listed}");
    let trace = |id: &str| client.get(&format!("sessions/{id}/trace_export"));
    assert_eq!(trace(&ids[0]), (404, json!({"detail": format!("session {} does not exist", ids[0])})));
    let (status, text) = trace(&ids[1000]);
    assert!(status == 404 && text["detail"].as_str().unwrap().contains("no longer kept"), "{text}");
    assert_eq!(client.get(&format!("sessions/{}", ids[1000])).0, 200);
}
