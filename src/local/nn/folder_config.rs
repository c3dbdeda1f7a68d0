//! Reads the `config.json` of a model.

use serde_json::Value;

use super::config::ModelConfig;
use super::rope::RopeScaling;

/// Limit of every size. It keeps products of two sizes from overflowing.
const MAX_SIZE: u64 = 1 << 24;

/// The families that are supported.
const FAMILIES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// The family, the shape and the tokens that end an answer.
///
/// # Errors
/// A value is missing, of the wrong type, or means something that is not supported. The text begins with its path.
pub(super) fn read(config: &Value) -> Result<(String, ModelConfig, Vec<u32>), String> {
    let family = config["model_type"].as_str().ok_or("model_type: must be a string")?;
    if !FAMILIES.contains(&family) {
        return Err(format!(
            "model_type: {family:?} is not supported; supported are {}",
            FAMILIES.join(", ")
        ));
    }
    refuse_unsupported(config)?;
    let (hidden, heads) = (size(config, "hidden_size")?, size(config, "num_attention_heads")?);
    let kv_heads = optional(config, "num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(format!("num_key_value_heads: {kv_heads} does not divide the {heads} heads"));
    }
    let head_dim = match optional(config, "head_dim")? {
        Some(it) => it,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(format!("head_dim: is missing, and {heads} heads do not divide {hidden}")),
    };
    if !head_dim.is_multiple_of(2) {
        return Err(format!("head_dim: must be even, is {head_dim}"));
    }
    let vocab = size(config, "vocab_size")?;
    let eps = match &config["rms_norm_eps"] {
        Value::Null => 1e-6,
        value => number(value, "rms_norm_eps")?,
    };
    let norm_eps = eps as f32;
    if norm_eps == 0.0 || !norm_eps.is_finite() {
        return Err(format!("rms_norm_eps: {eps:e} is not in the range of 32-bit floats"));
    }
    let (rope_theta, rope_scaling) = rope(config)?;
    let shape = ModelConfig {
        vocab,
        live_vocab: vocab,
        hidden,
        layers: size(config, "num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        mlp: size(config, "intermediate_size")?,
        rope_theta,
        rope_scaling,
        norm_eps,
        max_len: size(config, "max_position_embeddings")?,
        tied_head: config["tie_word_embeddings"].as_bool().unwrap_or(false),
    };
    Ok((family.to_owned(), shape, eos(config).unwrap_or_default()))
}

/// The ids of `eos_token_id`, which is a number or a list; `None` without one.
pub(super) fn eos(config: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match &config["eos_token_id"] {
        Value::Array(ids) => ids.iter().map(id).collect(),
        value => Some(vec![id(value)?]),
    }
}

/// Refuses what would change the results of the model.
fn refuse_unsupported(config: &Value) -> Result<(), String> {
    let act = config["hidden_act"].as_str().unwrap_or("silu");
    if act != "silu" {
        return Err(format!("hidden_act: {act:?} is not supported, only \"silu\""));
    }
    if !config["quantization_config"].is_null() {
        return Err("quantization_config: quantized weights are not supported; use those in bf16".into());
    }
    for (name, problem) in [
        ("mlp_bias", "biases of the MLP are not supported"),
        ("use_sliding_window", "sliding windows are not supported"),
    ] {
        if config[name].as_bool() == Some(true) {
            return Err(format!("{name}: {problem}"));
        }
    }
    let layers = config["layer_types"].as_array().into_iter().flatten().enumerate();
    for (i, layer) in layers {
        if layer != "full_attention" {
            return Err(format!("layer_types[{i}]: {layer} is not supported, only \"full_attention\""));
        }
    }
    Ok(())
}

/// The base and the scaling of the rotary frequencies: in `rope_parameters`, or in `rope_theta` and `rope_scaling` as
/// older versions write them.
fn rope(config: &Value) -> Result<(f64, RopeScaling), String> {
    let new = &config["rope_parameters"];
    let (path, scaling) = match new {
        Value::Object(_) => ("rope_parameters", new),
        _ => ("rope_scaling", &config["rope_scaling"]),
    };
    let theta = match (&new["rope_theta"], &config["rope_theta"]) {
        (Value::Null, Value::Null) => 10_000.0,
        (Value::Null, old) => number(old, "rope_theta")?,
        (new, _) => number(new, "rope_parameters.rope_theta")?,
    };
    for (path, parent) in [("rope_parameters.partial_rotary_factor", new), ("partial_rotary_factor", config)]
    {
        if parent["partial_rotary_factor"].as_f64().is_some_and(|it| it != 1.0) {
            return Err(format!("{path}: heads that are rotated in part are not supported"));
        }
    }
    let field = |name: &str| number(&scaling[name], &format!("{path}.{name}"));
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear(field("factor")?),
        "llama3" => {
            let (low, high) = (field("low_freq_factor")?, field("high_freq_factor")?);
            if high <= low {
                return Err(format!("{path}.high_freq_factor: must be above low_freq_factor"));
            }
            let original = field("original_max_position_embeddings")?;
            RopeScaling::Llama3 { factor: field("factor")?, low, high, original }
        }
        other => {
            let problem = format!("{other:?} is not supported; supported are default, linear and llama3");
            return Err(format!("{path}.rope_type: {problem}"));
        }
    };
    Ok((theta, scaling))
}

/// A size, which must be there.
fn size(config: &Value, name: &str) -> Result<usize, String> {
    optional(config, name)?.ok_or_else(|| format!("{name}: is missing"))
}

/// A size, or `None` if it is missing or null.
fn optional(config: &Value, name: &str) -> Result<Option<usize>, String> {
    match &config[name] {
        Value::Null => Ok(None),
        value => match value.as_u64() {
            Some(it) if (1..=MAX_SIZE).contains(&it) => Ok(Some(it as usize)),
            _ => Err(format!("{name}: must be a whole number in 1..={MAX_SIZE}, is {value}")),
        },
    }
}

/// A number above zero.
fn number(value: &Value, path: &str) -> Result<f64, String> {
    match value.as_f64() {
        Some(it) if it.is_finite() && 0.0 < it => Ok(it),
        _ => Err(format!("{path}: must be a number above 0, is {value}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn valid() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
            "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 100, "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "eos_token_id": [7, 8],
        })
    }

    #[test]
    fn old_and_new_spellings_of_the_rotary_settings_are_read() {
        let (family, config, eos) = read(&valid()).unwrap();
        assert_eq!((family.as_str(), config.head_dim, config.rope_theta), ("llama", 16, 5e5));
        assert_eq!((config.rope_scaling, eos), (RopeScaling::None, vec![7, 8]));
        let mut new = valid();
        let scaling = json!({
            "rope_type": "llama3", "rope_theta": 1e6, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        });
        new["rope_parameters"] = scaling.clone();
        let (_, config, _) = read(&new).unwrap();
        assert_eq!(config.rope_theta, 1e6);
        let expected = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 128.0 };
        assert_eq!(config.rope_scaling, expected);
        let mut old = valid();
        old["rope_scaling"] = scaling;
        assert_eq!(read(&old).unwrap().1.rope_scaling, expected);
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_path() {
        for (name, value, expected) in [
            ("model_type", json!("mixtral"), "model_type: \"mixtral\" is not supported"),
            ("model_type", json!(null), "model_type: must be a string"),
            ("hidden_act", json!("gelu"), "hidden_act: \"gelu\""),
            ("hidden_size", json!(0), "hidden_size: must be a whole number"),
            ("hidden_size", json!(u64::MAX), "hidden_size: must be a whole number"),
            ("hidden_size", json!("64"), "hidden_size: must be a whole number"),
            ("vocab_size", json!(null), "vocab_size: is missing"),
            ("num_key_value_heads", json!(3), "num_key_value_heads: 3 does not divide"),
            ("num_attention_heads", json!(6), "head_dim: is missing"),
            ("head_dim", json!(15), "head_dim: must be even"),
            ("rms_norm_eps", json!(-1), "rms_norm_eps: must be a number above 0"),
            ("rms_norm_eps", json!(1e-46), "rms_norm_eps: 1e-46 is not in the range"),
            ("rms_norm_eps", json!(1e39), "rms_norm_eps: 1e39 is not in the range"),
            ("rope_theta", json!("big"), "rope_theta: must be a number"),
            ("rope_scaling", json!({"rope_type": "yarn"}), "rope_scaling.rope_type: \"yarn\""),
            ("rope_scaling", json!({"type": "linear"}), "rope_scaling.factor: must be a number"),
            (
                "rope_parameters",
                json!({"partial_rotary_factor": 0.5}),
                "rope_parameters.partial_rotary_factor",
            ),
            ("quantization_config", json!({"bits": 4}), "quantization_config: quantized"),
            ("mlp_bias", json!(true), "mlp_bias: biases"),
            ("use_sliding_window", json!(true), "use_sliding_window: sliding"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "layer_types[1]: \"sliding"),
        ] {
            let mut config = valid();
            config[name] = value;
            let error = read(&config).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
