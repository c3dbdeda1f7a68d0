//! Addresses of checkpoints.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

const SCHEME: &str = "tinker://";

/// Where a training state is: `tinker://<run>/weights/<name>` (PROTOCOL §6.8).
///
/// # Example: the wrong kind of path says which call makes the right one
/// ```
/// use tinkex::types::TrainingPath;
///
/// let path: TrainingPath = "tinker://s:train:0/weights/step-10".parse()?;
/// assert_eq!((path.run_id(), path.name()), ("s:train:0", "step-10"));
/// let wrong = "tinker://s:train:0/sampler_weights/step-10".parse::<TrainingPath>().unwrap_err();
/// assert!(wrong.to_string().contains("save_state"));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrainingPath(Parts);

/// Where weights to sample from are: `tinker://<run>/sampler_weights/<name>`. Some servers leave out the middle part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SamplerPath(Parts);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    text: String,
    /// The end of the run id, and the start of the name, in `text`.
    run_end: usize,
    name_start: usize,
}

impl Parts {
    fn run_id(&self) -> &str {
        &self.text[SCHEME.len()..self.run_end]
    }

    fn name(&self) -> &str {
        &self.text[self.name_start..]
    }
}

/// Splits a path; the middle part is `None` in the two-part form.
fn parse(text: &str) -> Result<(Parts, Option<&str>)> {
    let fail = |problem: &str| Err(Error::invalid("path", format!("{text:?} {problem}")));
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return fail("does not start with tinker://");
    };
    let segments: Vec<&str> = rest.split('/').collect();
    if segments.iter().any(|it| it.is_empty()) {
        return fail("has an empty part; it must be tinker://<run>/<weights|sampler_weights>/<name>");
    }
    let (run, middle, name) = match segments[..] {
        [run, name] => (run, None, name),
        [run, middle, name] => (run, Some(middle), name),
        _ => return fail("must be tinker://<run>/<weights|sampler_weights>/<name>"),
    };
    let run_end = SCHEME.len() + run.len();
    Ok((Parts { text: text.into(), run_end, name_start: text.len() - name.len() }, middle))
}

impl FromStr for TrainingPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (parts, middle) = parse(text)?;
        let problem = match middle {
            Some("weights") => return Ok(TrainingPath(parts)),
            Some("sampler_weights") => {
                "holds weights for sampling only; a state to train on comes from save_state"
            }
            Some("external_weights") => "holds exported weights; a state to train on comes from save_state",
            _ => "must be tinker://<run>/weights/<name>",
        };
        Err(Error::invalid("path", format!("{text:?} {problem}")))
    }
}

impl FromStr for SamplerPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (parts, middle) = parse(text)?;
        let problem = match middle {
            Some("sampler_weights") | None => return Ok(SamplerPath(parts)),
            Some("weights") => {
                "holds a training state; weights to sample from come from save_weights_for_sampler"
            }
            Some("external_weights") => {
                "holds exported weights; weights to sample from come from save_weights_for_sampler"
            }
            _ => "must be tinker://<run>/sampler_weights/<name>",
        };
        Err(Error::invalid("path", format!("{text:?} {problem}")))
    }
}

macro_rules! path {
    ($name:ident) => {
        impl $name {
            /// The path as text.
            pub fn as_str(&self) -> &str {
                &self.0.text
            }

            /// The id of the training run that saved it. It may contain colons.
            pub fn run_id(&self) -> &str {
                self.0.run_id()
            }

            /// The name under which it was saved.
            pub fn name(&self) -> &str {
                self.0.name()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self> {
                text.parse()
            }
        }

        impl TryFrom<&String> for $name {
            type Error = Error;

            fn try_from(text: &String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<&$name> for $name {
            fn from(path: &$name) -> Self {
                path.clone()
            }
        }
    };
}

path!(TrainingPath);
path!(SamplerPath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_forms_of_a_path_are_refused() {
        for text in [
            "",
            "weights/x",
            "/etc/passwd",
            "http://run/weights/x",
            "tinker://run",
            "tinker://run//x",
            "tinker:///weights/x",
            "tinker://run/weights/x/y",
            "tinker://run/weights/",
            "tinker://run/other/x",
        ] {
            assert!(text.parse::<TrainingPath>().is_err(), "{text}");
            assert!(text.parse::<SamplerPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_two_part_path_is_a_sampler_path() {
        let path: SamplerPath = "tinker://model_1/s1".parse().expect("a sampler path");
        assert_eq!((path.run_id(), path.name(), path.as_str()), ("model_1", "s1", "tinker://model_1/s1"));
        assert!("tinker://model_1/s1".parse::<TrainingPath>().is_err());
    }
}
