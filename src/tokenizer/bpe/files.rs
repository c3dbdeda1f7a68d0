//! Reads the folder of a model.

use std::path::Path;

use super::json::{self, Place};
use super::plan::Added;
use super::{Bpe, tiktoken};
use crate::error::{Error, Result};

/// The name of the file in errors.
const CONFIG: &str = "tokenizer_config.json";

/// The pattern of Kimi models, which no file but a Python program contains: runs of Han characters stand alone, and
/// letters of words are not Han.
const KIMI_PATTERN: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Number of ids after the ranks of a Kimi model that are reserved for markers.
const KIMI_RESERVED: i32 = 256;

/// What `tokenizer_config.json` says.
#[derive(Default)]
struct Config {
    bos: Option<String>,
    eos: Option<String>,
    added: Vec<Added>,
    is_kimi: bool,
}

/// Reads the tokenizer of a model's folder.
pub(super) fn read_dir(folder: &Path) -> Result<Bpe> {
    let config = match read(&folder.join(CONFIG))? {
        Some(bytes) => Some(config(&bytes)?),
        None => None,
    };
    if let Some(bytes) = read(&folder.join(json::FILE))? {
        let config = config.unwrap_or_default();
        return finish(Bpe::new(json::plan(&bytes, config.added)?)?, config.bos, config.eos);
    }
    let name = ranks_file(folder)?;
    let config = config.ok_or_else(|| {
        Error::invalid(folder.display().to_string(), format!("has {name}, but {CONFIG} is missing beside it"))
    })?;
    if !config.is_kimi {
        let problem =
            format!("does not name the tokenizer of a Kimi model, so that the pattern of {name} is unknown");
        return Err(Error::invalid(format!("{CONFIG}: auto_map"), problem));
    }
    let ranks = read(&folder.join(&name))?.unwrap_or_default();
    let bpe = kimi(&name, &ranks, config.added)?;
    finish(bpe, config.bos, config.eos)
}

/// The name of the file with ranks.
fn ranks_file(folder: &Path) -> Result<String> {
    let here = || folder.display().to_string();
    let unreadable = |error: std::io::Error| Error::invalid(here(), format!("cannot be read: {error}"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if name == "tiktoken.model" || name.ends_with(".tiktoken") {
            names.push(name);
        }
    }
    names.sort();
    match &names[..] {
        [name] => Ok(name.clone()),
        [] => {
            Err(Error::invalid(here(), "has neither tokenizer.json nor tiktoken.model nor a file *.tiktoken"))
        }
        _ => Err(Error::invalid(here(), format!("has several files with ranks: {}", names.join(", ")))),
    }
}

/// Reads a file, or `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::invalid(path.display().to_string(), format!("cannot be read: {error}"))),
    }
}

fn config(bytes: &[u8]) -> Result<Config> {
    let document = json::parse(CONFIG, bytes)?;
    let file = Place::new(CONFIG, &document);
    let mut added = Vec::new();
    let decoder = file.get("added_tokens_decoder");
    if !decoder.is_null() {
        let entries = decoder.value().as_object().ok_or_else(|| decoder.error("is not an object"))?;
        for key in entries.keys() {
            let entry = decoder.get(key);
            let id = key.parse::<i32>().ok().filter(|id| 0 <= *id);
            added.push(json::token(&entry, id.ok_or_else(|| entry.error("its name is not an id"))?)?);
        }
    }
    // The Python program that reads the ranks.
    let module = file.get("auto_map").get("AutoTokenizer");
    let module = module.value().as_str().or_else(|| module.value().get(0)?.as_str());
    Ok(Config {
        bos: role(&file.get("bos_token"))?,
        eos: role(&file.get("eos_token"))?,
        added,
        is_kimi: module == Some("tokenization_kimi.TikTokenTokenizer"),
    })
}

/// The text of a token with a role: a text, or an object with the text.
fn role(place: &Place<'_>) -> Result<Option<String>> {
    if place.is_null() {
        return Ok(None);
    }
    let content = if place.value().is_object() { place.get("content") } else { place.clone() };
    Ok(Some(content.text()?.to_string()))
}

fn kimi(name: &str, ranks: &[u8], mut added: Vec<Added>) -> Result<Bpe> {
    let vocabulary = tiktoken::vocabulary(name, ranks)?;
    // Fits: ranks are different and at most `i32::MAX`, and a file of so many lines is refused before.
    let first = i32::try_from(vocabulary.tokens().len()).unwrap_or(i32::MAX);
    for id in first..first.saturating_add(KIMI_RESERVED) {
        if !added.iter().any(|token| token.id == id) {
            added.push(Added::special(format!("<|reserved_token_{id}|>"), id));
        }
    }
    Bpe::new(tiktoken::plan(name, ranks, KIMI_PATTERN, added)?)
}

fn finish(mut bpe: Bpe, bos: Option<String>, eos: Option<String>) -> Result<Bpe> {
    let known = |bpe: &Bpe, name: &str, token: &str| bpe.known(&format!("{CONFIG}: {name}"), token);
    if let Some(token) = bos {
        bpe.bos = Some(known(&bpe, "bos_token", &token)?);
    }
    if let Some(token) = eos {
        bpe.eos = Some(known(&bpe, "eos_token", &token)?);
    }
    Ok(bpe)
}
