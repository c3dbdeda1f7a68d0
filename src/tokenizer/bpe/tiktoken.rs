//! Reads ranks in the format of tiktoken: one line for each token, its bytes in Base64 and its rank.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::plan::{Added, Plan, Vocabulary, check_added, check_pattern};
use crate::error::{Error, Result};

/// The ranks as a vocabulary; the rank of a token is its id. `file` is the name of the file in errors.
pub(super) fn vocabulary(file: &str, ranks: &[u8]) -> Result<Vocabulary> {
    let mut tokens = Vec::new();
    for (i, line) in ranks.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let wrong = |problem: &str| {
            let shown: String = String::from_utf8_lossy(line).chars().take(60).collect();
            Error::invalid(format!("{file}: line {}", i + 1), format!("{problem}: {shown:?}"))
        };
        let (token, rank) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(' '))
            .ok_or_else(|| wrong("is not Base64, a space and a rank"))?;
        let bytes = STANDARD.decode(token).map_err(|_| wrong("the token is not valid Base64"))?;
        let rank = rank.trim().parse::<i32>().ok().filter(|rank| 0 <= *rank);
        tokens.push((bytes, rank.ok_or_else(|| wrong("the rank is not a number from 0 to 2147483647"))?));
    }
    let vocabulary =
        Vocabulary::new(tokens, |bytes| format!("{file}: token {:?}", String::from_utf8_lossy(bytes)))?;
    vocabulary.check_bytes(file)?;
    Ok(vocabulary)
}

/// All pairs of tokens that form a token, ordered by the rank of that token.
///
/// With ranks alone, two neighbours merge if together they are a token, and those with the lowest rank merge first.
fn merges(vocabulary: &Vocabulary) -> Vec<(u32, u32)> {
    let mut merges = Vec::new();
    for (bytes, _) in vocabulary.tokens() {
        let first = merges.len();
        for middle in 1..bytes.len() {
            let (left, right) = bytes.split_at(middle);
            if let (Some(left), Some(right)) = (vocabulary.position(left), vocabulary.position(right)) {
                merges.push((left, right));
            }
        }
        merges[first..].sort_unstable();
    }
    merges
}

/// Makes the plan of a tokenizer from ranks, the pattern that splits the text, and markers.
pub(super) fn plan(file: &str, ranks: &[u8], pattern: &str, added: Vec<Added>) -> Result<Plan> {
    check_pattern(pattern, "pattern")?;
    let vocabulary = vocabulary(file, ranks)?;
    check_added(&added, &vocabulary, |i| format!("specials[{:?}]", added[i].content))?;
    let merges = merges(&vocabulary);
    Ok(Plan { nfc: false, patterns: vec![pattern.into()], vocabulary, merges, ignore_merges: true, added })
}

/// Special markers by name and id.
pub(super) fn specials(specials: &BTreeMap<String, i32>) -> Result<Vec<Added>> {
    let mut added = Vec::with_capacity(specials.len());
    for (content, id) in specials {
        if *id < 0 {
            let problem = format!("is {id}; an id from 0 to 2147483647 is needed");
            return Err(Error::invalid(format!("specials[{content:?}]"), problem));
        }
        added.push(Added::special(content, *id));
    }
    Ok(added)
}
