//! From examples to training data, with a report of what a limit of length did.

use std::fmt;

use rayon::prelude::*;

use crate::chat::{Example, Reduction};
use crate::error::{Error, Result};
use crate::types::Datum;

/// Training data and what became of the examples. Its `Display` says it in a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prepared {
    /// The data, in the order of the examples.
    pub data: Vec<Datum>,
    /// Number of examples that are kept whole.
    pub n_whole: usize,
    /// Number of examples that are kept but cut.
    pub n_cut: usize,
    /// Indices of the examples that are left out, because nothing would be trained of them.
    pub dropped: Vec<usize>,
    /// The limit of length.
    pub max_length: Option<usize>,
}

/// Makes training data of examples; see [`Example::datum`]. An example of which nothing would be trained is left out and
/// counted.
///
/// # Errors
/// `InvalidInput` if no example is left.
///
/// # Example: an example that is too long is cut and counted
/// ```
/// use tinkex::chat::{Example, Reduction};
/// use tinkex::types::ModelInput;
///
/// let example = Example::new(ModelInput::from_ints([1, 2, 3, 4]), vec![1.0; 4])?;
/// let prepared = tinkex::data::to_data(&[example], Some(3), Reduction::Mean)?;
/// assert_eq!(prepared.to_string(), "1 example: 0 kept whole, 1 cut to 3 tokens, 0 left out (nothing to train on)");
/// # Ok::<(), tinkex::Error>(())
/// ```
pub fn to_data(examples: &[Example], max_length: Option<usize>, reduction: Reduction) -> Result<Prepared> {
    // The only faults that an example can still have are that it is too short and that it has no weight.
    let all: Vec<Option<Datum>> =
        examples.par_iter().map(|example| example.datum(max_length, reduction).ok()).collect();
    let max = max_length.unwrap_or(usize::MAX);
    let mut prepared = Prepared { data: Vec::new(), n_whole: 0, n_cut: 0, dropped: Vec::new(), max_length };
    for (i, (datum, example)) in all.into_iter().zip(examples).enumerate() {
        match datum {
            Some(_) if max < example.n_tokens() => prepared.n_cut += 1,
            Some(_) => prepared.n_whole += 1,
            None => prepared.dropped.push(i),
        }
        prepared.data.extend(datum);
    }
    if examples.is_empty() {
        let problem = "must not be empty; a conversation of which nothing is trained, such as one without a message of the \
                       assistant, makes no example";
        return Err(Error::invalid("examples", problem));
    }
    if prepared.data.is_empty() {
        return Err(Error::invalid("examples", format!("nothing is left to train on: {prepared}")));
    }
    Ok(prepared)
}

impl fmt::Display for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_dropped = self.dropped.len();
        let n = self.n_whole + self.n_cut + n_dropped;
        let examples = if n == 1 { "example" } else { "examples" };
        write!(f, "{n} {examples}: {} kept whole, {} cut", self.n_whole, self.n_cut)?;
        if let Some(max) = self.max_length {
            write!(f, " to {max} tokens")?;
        }
        write!(f, ", {n_dropped} left out (nothing to train on)")
    }
}
