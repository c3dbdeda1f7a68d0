//! Exported adapters: PEFT loads them and computes the probabilities of the engine (`tests/golden/engine.py --exported`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::types::{AdamParams, Datum, LoraConfig, LossFn, ModelInput, SampleOptions, SamplingParams, Ttl};

/// Environment variable with a folder, to which the adapters are written for the script.
const KEEP: &str = "TINKEX_TEST_KEEP_ADAPTERS";

/// The folders of `tests/golden/engine`. The head of `qwen2` is tied to its embeddings.
const MODELS: [&str; 3] = ["llama", "qwen2", "qwen3"];
const TOKENS: [i32; 16] = [1, 40, 7, 80, 11, 33, 90, 5, 3, 62, 19, 77, 24, 8, 51, 2];

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|it| f32::from_le_bytes(*it)).collect();
    file.tensors().into_iter().map(|(name, it)| (name, (it.shape().to_vec(), values(it.data())))).collect()
}

fn furthest(ours: impl IntoIterator<Item = f32>, theirs: impl IntoIterator<Item = f32>) -> f32 {
    ours.into_iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Trains an adapter of all matrices for some steps, and returns the files of its export and the log-probabilities of
/// all tokens at each position of [`TOKENS`] but the first, by the engine.
fn export(service: &ServiceClient, model: &str) -> (BTreeMap<String, Vec<u8>>, Vec<Vec<f32>>) {
    let lora = LoraConfig { rank: 4, seed: Some(7), ..LoraConfig::default() };
    assert!(lora.train_attn && lora.train_mlp && lora.train_unembed);
    let training = service.create_lora_training_client(&format!("tiny/{model}"), lora).unwrap();
    let n = TOKENS.len();
    let datum = Datum::new(ModelInput::from_ints(TOKENS))
        .with("target_tokens", TOKENS[1..].iter().chain(&[9]).map(|it| i64::from(*it)).collect::<Vec<_>>())
        .with("weights", vec![1.0f32; n]);
    // Steps of plain gradients as far as possible: with a large epsilon, a small difference of a gradient stays small.
    let adam = AdamParams { learning_rate: 2e-2, eps: 1e-2, ..AdamParams::default() };
    for _ in 0..6 {
        training.forward_backward(vec![datum.clone()], LossFn::CrossEntropy).wait().unwrap();
        training.optim_step(adam).wait().unwrap();
    }
    let path = training.save_weights_external("out", Ttl::Never, &[]).wait().unwrap().path;
    let urls = service.create_rest_client().get_external_weights_urls(&path).unwrap().urls;
    let fetch = |url: &str| ureq::get(url).call().unwrap().body_mut().read_to_vec().unwrap();
    let files = urls.iter().map(|(name, url)| (name.clone(), fetch(url.expose()))).collect();
    let sampler = training.save_weights_and_get_sampling_client().unwrap();
    let params = SamplingParams { max_tokens: Some(1), ..SamplingParams::default() };
    let options = SampleOptions { topk_prompt_logprobs: 96, ..SampleOptions::default() };
    let sample = sampler.sample_with(&ModelInput::from_ints(TOKENS), 1, &params, &options).wait().unwrap();
    let rows = sample.topk_prompt_logprobs.unwrap();
    let rows = rows.into_iter().flatten().map(|row| {
        let mut by_token = vec![f32::NAN; 96];
        row.into_iter().for_each(|it| by_token[it.token as usize] = it.logprob);
        by_token
    });
    (files, rows.collect())
}

fn log_softmax(row: &[f32]) -> Vec<f32> {
    let total = row.iter().map(|it| f64::from(*it).exp()).sum::<f64>().ln() as f32;
    row.iter().map(|it| it - total).collect()
}

#[test]
fn peft_computes_with_an_exported_adapter_what_the_engine_computes() {
    let models = MODELS.map(|it| (format!("tiny/{it}"), golden("engine").join(it))).into();
    let server = Server::start(Options { threads: 2, models, ..Options::default() }).unwrap();
    let connect = ServiceClient::builder().without_environment();
    let service = connect.base_url(server.url()).api_key(server.api_key()).build().unwrap();
    for model in MODELS {
        let (files, ours) = export(&service, model);
        if let Some(folder) = std::env::var_os(KEEP) {
            let folder = Path::new(&folder).join(model);
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
            std::fs::write(folder.join("tokens.json"), json!([TOKENS]).to_string()).unwrap();
            continue;
        }
        let read = |name: &str| std::fs::read(golden("engine_exported").join(model).join(name)).unwrap();
        let config = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(config(&files["adapter_config.json"]), config(&read("adapter_config.json")), "{model}");
        // The file is the one that PEFT has loaded, but for the rounding of another processor.
        let (new, known) =
            (tensors(&files["adapter_model.safetensors"]), tensors(&read("adapter_model.safetensors")));
        assert!(new.keys().eq(known.keys()), "{model}: {:?} {:?}", new.keys(), known.keys());
        for (name, (shape, values)) in &new {
            assert_eq!(shape, &known[name].0, "{model} {name}");
            let far = furthest(values.iter().copied(), known[name].1.iter().copied());
            assert!(far < 1e-4, "{model} {name}: {far}");
            let size = values.iter().map(|it| it.abs()).fold(0.0, f32::max);
            assert!(1e-3 < size, "{model} {name} was not trained: {size}");
        }
        let theirs: Vec<Vec<f32>> = serde_json::from_slice(&read("logits.json")).unwrap();
        assert_eq!((ours.len(), theirs.len()), (TOKENS.len() - 1, TOKENS.len()), "{model}");
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let far = furthest(ours.iter().copied(), log_softmax(theirs));
            assert!(far < 1e-3, "{model} {i}: {far}");
        }
    }
}
