//! Tests of the engine thread, without a server.

use super::*;
use crate::local::cpu::Cpu;
use crate::local::engine::Engine;
use crate::local::nn::ModelConfig;

/// Path of a new folder for temporary files.
fn folder() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("tinkex-engine-{}-{:016x}", std::process::id(), fastrand::u64(..)))
}

/// The state of an engine thread without a server, with two models.
fn worker() -> Worker {
    let panics = PanicTexts::new();
    let pool = || {
        let texts = panics.sender();
        let built = rayon::ThreadPoolBuilder::new().num_threads(1).panic_handler(move |payload| {
            texts.send(payload.downcast_ref::<&str>().unwrap_or(&"").to_string()).expect("room")
        });
        built.build().expect("a pool")
    };
    let (pool, quick_pool) = (pool(), pool());
    let base = Cpu::default().seeded(&ModelConfig::nano(), 0);
    let store = Arc::new(Store::open(folder()).expect("a folder"));
    let mut worker = Worker {
        snapshots: Arc::new(Snapshots::new(store.scratch(), 1, store.room())),
        catalogue: Arc::new(Catalogue::in_memory()),
        store,
        futures: Arc::new(Futures::new(0)),
        pool,
        quick_pool,
        panics,
        stop: Arc::default(),
        trainers: HashMap::new(),
        max_memory: u64::MAX,
        base_memory: 0,
    };
    for model_id in ["a", "b"] {
        let spec = LoraSpec { rank: 2, seed: 0, train_attn: true, train_mlp: false, train_unembed: false };
        assert!(matches!(worker.create(model_id.into(), base.clone(), spec, None), Outcome::Json(_)));
    }
    worker
}

fn failure(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed { error, .. } => error,
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn a_panic_in_a_job_loses_only_the_model_of_the_job() {
    let mut worker = worker();
    let error = failure(worker.with_trainer("a", |_| panic!("a broken kernel")));
    assert!(error.contains("a broken kernel") && error.contains("model a is lost"), "{error}");
    assert!(failure(worker.with_trainer("a", |_| Outcome::Json("1".into()))).contains("cannot be used"));
    assert!(matches!(worker.with_trainer("b", |_| Outcome::Json("1".into())), Outcome::Json(_)));
    assert!(failure(worker.with_trainer("c", |_| Outcome::Json("1".into()))).contains("is not loaded"));
}

#[test]
fn the_end_of_the_engine_thread_fails_pending_requests() {
    let worker = worker();
    let futures = worker.futures.clone();
    let pending = futures.create(None, None);
    let queue = Arc::new(Queue::new(1, 1));
    let work = Work::Refused { error: "wrong".into() };
    let refused = futures.create(None, None);
    queue.push("s", [Job { ticket: Some(refused.clone()), work }]);
    queue.close();
    worker.run(&queue);
    assert!(format!("{:?}", futures.now(&refused.id)).contains("wrong"));
    assert!(format!("{:?}", futures.now(&pending.id)).contains("the engine has stopped"));
}
