//! The engine that encodes: the only file that names the crate `tokenizers`.

use std::fmt;

use serde_json::{Value, json};
use tokenizers::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer};

use super::alphabet;
use super::plan::Plan;
use crate::error::{Error, Result};
use crate::sync::unwind;

/// Longest text in bytes. The engine counts bytes in 32 bits, and normalization may make a text longer.
const LONGEST: usize = 1 << 30;

/// Encodes text by a plan.
pub(super) struct Engine {
    tokenizer: PipelineTokenizer,
    /// The id of each token by its number in the engine, whose numbers have no gaps.
    ids: Vec<i32>,
    has_markers: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("n_tokens", &self.ids.len()).finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(plan: &Plan) -> Result<Self> {
        let mut ids: Vec<i32> = plan.vocabulary.tokens().iter().map(|(_, id)| *id).collect();
        // The engine finds added tokens in its vocabulary by their text, and numbers the others in the order given.
        let expected: Vec<(u32, &str)> = plan
            .added
            .iter()
            .map(|token| {
                let number = plan
                    .vocabulary
                    .tokens()
                    .binary_search_by_key(&token.id, |(_, id)| *id)
                    .ok()
                    .filter(|number| alphabet::letters(&plan.vocabulary.tokens()[*number].0) == token.content)
                    .unwrap_or_else(|| {
                        ids.push(token.id);
                        ids.len() - 1
                    });
                (number as u32, token.content.as_str())
            })
            .collect();
        let text = document(plan, &expected);
        let tokenizer = unwind::catch(|| tokenizers::from_json(&text))?
            .map_err(|error| Error::invalid("tokenizer", format!("cannot be used: {error}")))?;
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        for (number, content) in &expected {
            if added.get(number).map(|token| token.content.as_str()) != Some(content) {
                let problem = format!("{content:?} is the same marker as another one after normalization");
                return Err(Error::invalid("added_tokens", problem));
            }
        }
        Ok(Engine { tokenizer, ids, has_markers: !plan.added.is_empty() })
    }

    /// Encodes a text; with `markers`, texts of added tokens become these tokens.
    pub(super) fn encode(&self, text: &str, markers: bool) -> Result<Vec<i32>> {
        if LONGEST < text.len() {
            let problem = format!("has {} bytes; at most {LONGEST} can be encoded at once", text.len());
            return Err(Error::invalid("text", problem));
        }
        // All markers are special in the engine (see `document`), so that this option concerns them all.
        let options = EncodeOptions {
            encode_special_tokens: self.has_markers && !markers,
            ..EncodeOptions::no_specials()
        };
        let mut tokens: Vec<PipelineToken> = Vec::new();
        unwind::catch(|| self.tokenizer.encode_into(text, &options, &mut tokens))?
            .map_err(|error| Error::invalid("text", format!("cannot be encoded: {error}")))?;
        let id = |token: &PipelineToken| self.ids.get(token.id() as usize).copied();
        let ids: Option<Vec<i32>> = tokens.iter().map(id).collect();
        ids.ok_or_else(|| Error::invalid("text", "was encoded into a token outside of the vocabulary"))
    }
}

/// The plan in the engine's own format, version 2.0. `added` has the number and the text of each added token.
fn document(plan: &Plan, added: &[(u32, &str)]) -> String {
    let tokens = plan.vocabulary.tokens();
    let letters: Vec<String> = tokens.iter().map(|(bytes, _)| alphabet::letters(bytes)).collect();
    let quoted: Vec<String> = letters.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
    let vocabulary: Vec<String> = quoted.iter().enumerate().map(|(i, text)| format!("{text}:{i}")).collect();
    let merge =
        |(left, right): &(u32, u32)| format!("[{},{}]", quoted[*left as usize], quoted[*right as usize]);
    let merges: Vec<String> = plan.merges.iter().map(merge).collect();
    let splits: Vec<Value> = plan
        .patterns
        .iter()
        .map(|pattern| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        })
        .collect();
    let markers: Vec<Value> = added
        .iter()
        .zip(&plan.added)
        .map(|((number, _), token)| {
            json!({
                "id": number, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
                "rstrip": token.rstrip, "normalized": token.normalized, "special": true,
            })
        })
        .collect();
    let normalizer = if plan.nfc { json!({"type": "NFC"}) } else { Value::Null };
    let pre_tokenizer = match &splits[..] {
        [split] => split.clone(),
        splits => json!({"type": "Sequence", "pretokenizers": splits}),
    };
    // The model is written by hand: it is as large as the file itself.
    format!(
        r#"{{"version":"2.0","truncation":null,"padding":null,"added_tokens":{},"normalizer":{normalizer},
"pre_tokenizer":{pre_tokenizer},"post_processor":null,"decoder":null,"model":{{"type":"BPE","unk_token":null,
"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
"ignore_merges":{},"byte_level":true,"vocab":{{{}}},"merges":[{}]}}}}"#,
        Value::from(markers),
        plan.ignore_merges,
        vocabulary.join(","),
        merges.join(","),
    )
}
