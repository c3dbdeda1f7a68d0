//! Folders of models.

use std::path::PathBuf;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("tinkex-bpe-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_folder_of_a_model_names_bos_and_eos_and_may_add_markers() {
    let config = json!({
        "bos_token": null,
        "eos_token": {"content": "<end>", "lstrip": false},
        "added_tokens_decoder": {"300": {"content": "<end>", "special": true},
                                 "500": {"content": "<more>", "special": true}},
    });
    let folder = Folder::new(
        "model",
        &[("tokenizer.json", &small().to_string()), ("tokenizer_config.json", &config.to_string())],
    );
    let bpe = Bpe::from_dir(&folder.0).unwrap();
    assert_eq!((bpe.bos_id(), bpe.eos_id()), (None, Some(300)));
    assert_eq!(bpe.encode("he<more>").unwrap(), [256, 500]);
}

#[test]
fn the_folder_of_a_kimi_model_has_ranks_and_reserved_markers() {
    let config = json!({
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", null]},
        "added_tokens_decoder": {"256": {"content": "[BOS]", "special": true},
                                 "257": {"content": "[EOS]", "special": true},
                                 "260": {"content": "<think>", "special": false}},
    });
    let ranks = vocabularies_of_bytes();
    let folder =
        Folder::new("kimi", &[("tiktoken.model", &ranks), ("tokenizer_config.json", &config.to_string())]);
    let bpe = Bpe::from_dir(&folder.0).unwrap();
    assert_eq!((bpe.bos_id(), bpe.eos_id()), (Some(256), Some(257)));
    assert_eq!(bpe.encode("a<think><|reserved_token_511|>").unwrap(), [97, 260, 511]);
    assert_eq!((bpe.n_tokens(), bpe.is_special(260), bpe.is_special(511)), (512, false, true));
}

#[test]
fn an_incomplete_folder_is_refused() {
    let (ranks, file) = (vocabularies_of_bytes(), small().to_string());
    let (ranks, file) = (ranks.as_str(), file.as_str());
    for (files, problem) in [
        (&[][..], "has neither tokenizer.json nor tiktoken.model"),
        (&[("a.tiktoken", ranks)][..], "tokenizer_config.json is missing beside it"),
        (
            &[("a.tiktoken", ranks), ("b.tiktoken", ranks)][..],
            "has several files with ranks: a.tiktoken, b.tiktoken",
        ),
        (
            &[("a.tiktoken", ranks), ("tokenizer_config.json", "{}")][..],
            "tokenizer_config.json: auto_map: does not name",
        ),
        (
            &[("tokenizer.json", file), ("tokenizer_config.json", "{")][..],
            "tokenizer_config.json: is not valid JSON",
        ),
        (
            &[("tokenizer.json", file), ("tokenizer_config.json", r#"{"eos_token": "<x>"}"#)][..],
            "tokenizer_config.json: eos_token: is \"<x>\", which is not a marker",
        ),
        (
            &[
                ("tokenizer.json", file),
                ("tokenizer_config.json", r#"{"added_tokens_decoder": {"9": {"content": "<end>"}}}"#),
            ][..],
            "tokenizer_config.json: added_tokens_decoder.9: gives \"<end>\" the id 9, but tokenizer.json gives",
        ),
    ] {
        let folder = Folder::new("broken", files);
        let error = Bpe::from_dir(&folder.0).expect_err(problem).to_string();
        assert!(error.contains(problem), "{error}\nexpected {problem}");
    }
    assert!(Bpe::from_dir("/no/such/folder").is_err());
}
