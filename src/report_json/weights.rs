//! Weights: their shape, their files, where these are on the disk, and the samplers that use them. The URLs are secrets.

use serde_json::{Map, Value, json};

use super::time;
use crate::download::Downloaded;
use crate::types::{ArchiveUrl, ExternalWeightsUrls, SamplerInfo, SignedUrl, WeightsInfo};

pub fn weights_info(info: &WeightsInfo) -> Value {
    json!({
        "base_model": info.base_model,
        "optimizer_config": { "type": info.optimizer },
        "is_lora": info.is_lora,
        "lora_rank": info.lora_rank,
        "train_unembed": info.train_unembed,
        "train_mlp": info.train_mlp,
        "train_attn": info.train_attn,
    })
}

pub fn archive_url(archive: &ArchiveUrl) -> Value {
    json!({ "url": archive.url.expose(), "expires": time(archive.expires.as_ref()) })
}

/// The URL of each file, by its path within the checkpoint.
pub fn external_urls(files: &ExternalWeightsUrls) -> Value {
    let file = |(name, url): (&String, &SignedUrl)| (name.clone(), Value::from(url.expose()));
    let urls: Map<String, Value> = files.urls.iter().map(file).collect();
    json!({ "urls": urls, "expires": time(files.expires.as_ref()) })
}

/// A checkpoint on the disk.
pub fn downloaded(downloaded: &Downloaded) -> Value {
    let destination = &downloaded.destination;
    let absolute = std::path::absolute(destination).unwrap_or_else(|_| destination.clone());
    json!({
        "checkpoint_path": downloaded.path.as_str(),
        "destination": absolute.display().to_string(),
        "file_size_bytes": downloaded.size_bytes,
        "file_count": downloaded.n_files,
    })
}

pub fn sampler(sampler: &SamplerInfo) -> Value {
    json!({
        "sampler_id": sampler.sampler_id,
        "base_model": sampler.base_model,
        "model_path": sampler.model_path,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_samplers_have_all_their_fields() {
        let info = WeightsInfo {
            base_model: Some("a/model".into()),
            optimizer: "adamw".into(),
            is_lora: Some(true),
            lora_rank: Some(8),
            train_unembed: Some(false),
            train_mlp: Some(true),
            train_attn: None,
        };
        let shown = json!({
            "base_model": "a/model", "optimizer_config": { "type": "adamw" }, "is_lora": true, "lora_rank": 8,
            "train_unembed": false, "train_mlp": true, "train_attn": null,
        });
        assert_eq!(weights_info(&info), shown);
        let base = SamplerInfo { sampler_id: "s:sample:0".into(), ..SamplerInfo::default() };
        let shown = json!({ "sampler_id": "s:sample:0", "base_model": null, "model_path": null });
        assert_eq!(sampler(&base), shown);
    }

    #[test]
    fn a_download_is_shown_with_its_absolute_place() {
        let downloaded_to = |destination: &str| Downloaded {
            path: "tinker://r/weights/a".parse().unwrap(),
            destination: destination.into(),
            size_bytes: 7,
            n_files: 2,
        };
        let folder = std::env::current_dir().unwrap();
        let shown = json!({
            "checkpoint_path": "tinker://r/weights/a", "destination": folder.join("a").display().to_string(),
            "file_size_bytes": 7, "file_count": 2,
        });
        assert_eq!(downloaded(&downloaded_to("./a")), shown);
        assert_eq!(downloaded(&downloaded_to(shown["destination"].as_str().unwrap())), shown);
    }

    #[test]
    fn urls_are_shown_with_their_signature() {
        let url = "https://files.example.com/a?sig=1";
        let archive: ArchiveUrl =
            serde_json::from_value(json!({ "url": url, "expires": "2026-11-20 13:00:00+00:00" })).unwrap();
        assert_eq!(archive_url(&archive), json!({ "url": url, "expires": "2026-11-20T13:00:00Z" }));
        let files: ExternalWeightsUrls =
            serde_json::from_value(json!({ "urls": { "adapter/config.json": url } })).unwrap();
        assert_eq!(external_urls(&files), json!({ "urls": { "adapter/config.json": url }, "expires": null }));
    }
}
