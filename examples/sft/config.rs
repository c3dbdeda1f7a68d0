//! What a run is made of, in its `config.json`, so that it does not continue as another one.

use std::error::Error;
use std::path::Path;

use serde_json::Value;

/// The settings that a run keeps, as their names in `config.json` and in errors.
const KEPT: [(&str, &str); 8] = [
    ("model_name", "base model"),
    ("renderer_name", "renderer"),
    ("lora_rank", "rank"),
    ("data_fnv1a", "file of chats (by its digest)"),
    ("data_bytes", "file of chats (by its length)"),
    ("learning_rate", "learning rate"),
    ("batch_size", "batch size"),
    ("seed", "seed"),
];

/// Refuses to continue the run in a folder with other settings, or with fewer steps, which would change its learning
/// rates. A key that the file lacks is not compared.
pub(crate) fn check_same_run(folder: &Path, config: &Value) -> Result<(), Box<dyn Error>> {
    let path = folder.join("config.json");
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&path)?;
    let saved: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let hint = "give another folder, or the settings of that run";
    for (key, name) in KEPT {
        if let Some(before) = saved.get(key)
            && *before != config[key]
        {
            return Err(format!(
                "{} is of a run with another {name}: {before}, not {}; {hint}",
                path.display(),
                config[key]
            )
            .into());
        }
    }
    let (before, now) = (saved["max_steps"].as_u64(), config["max_steps"].as_u64());
    if now < before {
        let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
        return Err(format!(
            "{} is of a run of {before} steps, and cannot end after {now}; {hint}",
            path.display()
        )
        .into());
    }
    Ok(())
}

/// A digest that tells one file of chats from another: FNV-1a of 64 bits, as hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}
