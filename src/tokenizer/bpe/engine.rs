//! The engine that encodes: the only file that names the crate `tokenizers`.

use std::collections::BTreeMap;
use std::fmt;

use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::bpe::{BpeConfig, PipelineBPE};
use tokenizers::normalizers::NFC;
use tokenizers::pipeline::{
    EncodeOptions, NormalizerChain, PipelineModel, PipelineNormalizer, PipelinePostProcessor,
    PipelinePreTokenizer, PipelineToken, PipelineTokenizer,
};
use tokenizers::pre_tokenizers::sequence::PipelineSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

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
        let tokenizer = unwind::catch(|| build(plan))?
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
        // All markers are special in the engine (see `build`), so that this option concerns them all.
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

/// Makes the engine's tokenizer. Its tokens have their positions in the vocabulary as ids.
///
/// The engine's reader of files is not used: it refuses patterns for which it has no code of its own.
fn build(plan: &Plan) -> tokenizers::Result<PipelineTokenizer> {
    let letters: Vec<String> =
        plan.vocabulary.tokens().iter().map(|(bytes, _)| alphabet::letters(bytes)).collect();
    let normalizers = if plan.nfc { vec![PipelineNormalizer::NFC(NFC)] } else { vec![] };
    let mut added = AddedVocabulary::new();
    added.add_tokens(
        plan.added.iter().map(|token| AddedToken {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: true,
        }),
        letters.len(),
        |text| plan.vocabulary.position(&alphabet::bytes(text)?),
        Some(&NormalizerChain(&normalizers)),
    )?;
    let split = |pattern: &String| {
        let pattern = SplitPattern::Regex(pattern.clone());
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PipelinePreTokenizer::Split)
    };
    let mut splits = plan.patterns.iter().map(split).collect::<tokenizers::Result<Vec<_>>>()?;
    let pre_tokenizer = match splits.pop() {
        Some(split) if splits.is_empty() => split,
        last => {
            PipelinePreTokenizer::Sequence(PipelineSequence::new(splits.into_iter().chain(last).collect()))
        }
    };
    let text = |position: u32| letters[position as usize].clone();
    let model = PipelineBPE::from_config(BpeConfig {
        vocab: letters.iter().zip(0..).map(|(text, position)| (text.clone(), position)).collect(),
        merges: plan.merges.iter().map(|(left, right)| (text(*left), text(*right))).collect(),
        byte_level: true,
        ignore_merges: plan.ignore_merges,
        ..BpeConfig::default()
    })?;
    Ok(PipelineTokenizer::from_parts(
        added,
        normalizers,
        pre_tokenizer,
        PipelineModel::BPE(model),
        PipelinePostProcessor::default(),
        None,
        BTreeMap::new(),
        None,
        None,
    ))
}
