//! Paths of checkpoints.

use std::fmt;
use std::str::FromStr;

use super::CheckpointType;
use crate::error::{Error, Result};

const SCHEME: &str = "tinker://";
const FORM: &str = "must be tinker://<run>/<weights|sampler_weights|external_weights>/<name>";

/// Path of a training state: `tinker://<run>/weights/<name>` (PROTOCOL §6.8).
///
/// # Example: the error for another kind of path names the call that makes the right kind
/// ```
/// use tinkex::types::TrainingPath;
///
/// let path: TrainingPath = "tinker://s:train:0/weights/step-10".parse()?;
/// assert_eq!((path.run_id(), path.name()), ("s:train:0", "step-10"));
/// let wrong = "tinker://s:train:0/sampler_weights/step-10".parse::<TrainingPath>().unwrap_err();
/// assert!(wrong.to_string().contains("save_state"));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrainingPath(Parts);

/// Path of weights for sampling: `tinker://<run>/sampler_weights/<name>`. Some servers leave out the middle segment.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SamplerPath(Parts);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    text: String,
    /// Index in `text` of the end of the run id.
    run_end: usize,
    /// Index in `text` of the start of the name.
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

/// Path of exported weights: `tinker://<run>/external_weights/<name>`. They can be downloaded, but not trained or
/// sampled from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExternalPath(Parts);

/// Path of a checkpoint of any kind, for calls that accept all kinds.
///
/// # Example: the parts of a path
/// ```
/// use tinkex::types::{CheckpointPath, CheckpointType};
///
/// let path: CheckpointPath = "tinker://s:train:0/sampler_weights/final".parse()?;
/// assert_eq!(path.checkpoint_type(), CheckpointType::Sampler);
/// assert_eq!((path.run_id(), path.checkpoint_id().as_str()), ("s:train:0", "sampler_weights/final"));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CheckpointPath {
    /// Weights and optimizer state for training.
    Training(TrainingPath),
    /// Weights for sampling.
    Sampler(SamplerPath),
    /// Exported weights.
    External(ExternalPath),
}

/// Splits a path. The middle segment is `None` for a path of two segments, `tinker://<run>/<name>`.
fn parse(text: &str) -> Result<(Parts, Option<&str>)> {
    let fail = |problem: &str| Err(Error::invalid("path", format!("{text:?} {problem}")));
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return fail("does not start with tinker://");
    };
    let segments: Vec<&str> = rest.split('/').collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return fail(&format!("has an empty segment; it {FORM}"));
    }
    // Servers and clients use segments as names of folders and files: refuse references to other folders.
    let is_unsafe = |segment: &&&str| matches!(**segment, "." | "..") || segment.contains(char::is_control);
    if let Some(segment) = segments.iter().find(is_unsafe) {
        return fail(&format!("has the invalid segment {segment:?}; it {FORM}"));
    }
    let (run, middle, name) = match segments[..] {
        [run, name] => (run, None, name),
        [run, middle, name] => (run, Some(middle), name),
        _ => return fail(FORM),
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
                "holds weights for sampling only; save_state makes a state for training"
            }
            Some("external_weights") => "holds exported weights; save_state makes a state for training",
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
            Some("weights") => "holds a training state; save_weights_for_sampler makes weights for sampling",
            Some("external_weights") => {
                "holds exported weights; save_weights_for_sampler makes weights for sampling"
            }
            _ => "must be tinker://<run>/sampler_weights/<name>",
        };
        Err(Error::invalid("path", format!("{text:?} {problem}")))
    }
}

impl SamplerPath {
    /// Returns true if the path has two segments, `tinker://<run>/<name>`.
    pub(crate) fn is_short(&self) -> bool {
        self.0.run_end + 1 == self.0.name_start
    }
}

impl FromStr for ExternalPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (parts, middle) = parse(text)?;
        let problem = match middle {
            Some("external_weights") => return Ok(ExternalPath(parts)),
            Some("weights") => "holds a training state; save_weights_external makes exported weights",
            Some("sampler_weights") | None => {
                "holds weights for sampling; save_weights_external makes exported weights"
            }
            _ => "must be tinker://<run>/external_weights/<name>",
        };
        Err(Error::invalid("path", format!("{text:?} {problem}")))
    }
}

impl FromStr for CheckpointPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (parts, middle) = parse(text)?;
        match middle {
            Some("weights") => Ok(CheckpointPath::Training(TrainingPath(parts))),
            Some("sampler_weights") | None => Ok(CheckpointPath::Sampler(SamplerPath(parts))),
            Some("external_weights") => Ok(CheckpointPath::External(ExternalPath(parts))),
            _ => Err(Error::invalid("path", format!("{text:?} {FORM}"))),
        }
    }
}

impl CheckpointPath {
    /// Path of a run's checkpoint with the id `weights/<name>`, `sampler_weights/<name>` or `external_weights/<name>`.
    ///
    /// # Errors
    /// A checkpoint id that is not one of these three, such as the name alone; a malformed run id.
    pub fn of(training_run_id: &str, checkpoint_id: &str) -> Result<Self> {
        let wrong =
            |path: &str, text: &str, problem: &str| Err(Error::invalid(path, format!("{text:?} {problem}")));
        if training_run_id.is_empty() || training_run_id.contains('/') {
            return wrong("training_run_id", training_run_id, "is not the id of a training run");
        }
        match checkpoint_id.split_once('/') {
            Some((segment, name)) if is_segment(segment) && !name.is_empty() && !name.contains('/') => {
                format!("{SCHEME}{training_run_id}/{checkpoint_id}").parse()
            }
            _ => wrong(
                "checkpoint_id",
                checkpoint_id,
                "must be <weights|sampler_weights|external_weights>/<name>, as in the path of the checkpoint",
            ),
        }
    }

    /// Content of the checkpoint.
    pub fn checkpoint_type(&self) -> CheckpointType {
        match self {
            CheckpointPath::Training(_) => CheckpointType::Training,
            CheckpointPath::Sampler(_) => CheckpointType::Sampler,
            CheckpointPath::External(_) => CheckpointType::External,
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.parts().text
    }

    /// Id of the training run that saved the checkpoint. It may contain colons.
    pub fn run_id(&self) -> &str {
        self.parts().run_id()
    }

    /// Name of the checkpoint.
    pub fn name(&self) -> &str {
        self.parts().name()
    }

    /// Id of the checkpoint within the run, such as `weights/step-10`.
    pub fn checkpoint_id(&self) -> String {
        match self {
            CheckpointPath::Training(path) => path.checkpoint_id(),
            CheckpointPath::Sampler(path) => path.checkpoint_id(),
            CheckpointPath::External(path) => path.checkpoint_id(),
        }
    }

    fn parts(&self) -> &Parts {
        match self {
            CheckpointPath::Training(path) => &path.0,
            CheckpointPath::Sampler(path) => &path.0,
            CheckpointPath::External(path) => &path.0,
        }
    }
}

impl fmt::Debug for CheckpointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for CheckpointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_segment(text: &str) -> bool {
    matches!(text, "weights" | "sampler_weights" | "external_weights")
}

macro_rules! from_text {
    ($name:ident) => {
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

macro_rules! path {
    ($name:ident, $segment:literal, $kind:ident) => {
        impl $name {
            /// The path as text.
            pub fn as_str(&self) -> &str {
                &self.0.text
            }

            /// Id of the training run that saved the checkpoint. It may contain colons.
            pub fn run_id(&self) -> &str {
                self.0.run_id()
            }

            /// Name of the checkpoint.
            pub fn name(&self) -> &str {
                self.0.name()
            }

            /// Id of the checkpoint within the run.
            pub fn checkpoint_id(&self) -> String {
                format!(concat!($segment, "/{}"), self.name())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl From<$name> for CheckpointPath {
            fn from(path: $name) -> Self {
                CheckpointPath::$kind(path)
            }
        }

        impl From<&$name> for CheckpointPath {
            fn from(path: &$name) -> Self {
                CheckpointPath::$kind(path.clone())
            }
        }

        impl TryFrom<CheckpointPath> for $name {
            type Error = Error;

            fn try_from(path: CheckpointPath) -> Result<Self> {
                path.as_str().parse()
            }
        }

        impl TryFrom<&CheckpointPath> for $name {
            type Error = Error;

            fn try_from(path: &CheckpointPath) -> Result<Self> {
                path.as_str().parse()
            }
        }

        from_text!($name);
    };
}

path!(TrainingPath, "weights", Training);
path!(SamplerPath, "sampler_weights", Sampler);
path!(ExternalPath, "external_weights", External);
from_text!(CheckpointPath);

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
            "tinker://run/weights/..",
            "tinker://../x",
            "tinker://run/weights/a\nb",
        ] {
            assert!(text.parse::<TrainingPath>().is_err(), "{text}");
            assert!(text.parse::<SamplerPath>().is_err(), "{text}");
            assert!(text.parse::<ExternalPath>().is_err(), "{text}");
            assert!(text.parse::<CheckpointPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_error_for_another_kind_of_path_names_the_call_that_makes_the_right_kind() {
        let problem = |error: Error| error.violation().expect("a violation").problem.clone();
        for kind in ["weights", "sampler_weights", "external_weights"] {
            let text = format!("tinker://s:train:0/{kind}/x");
            let all = [
                ("weights", "save_state", text.parse::<TrainingPath>().err()),
                ("sampler_weights", "save_weights_for_sampler", text.parse::<SamplerPath>().err()),
                ("external_weights", "save_weights_external", text.parse::<ExternalPath>().err()),
            ];
            for (right, verb, error) in all {
                match error {
                    None => assert_eq!(right, kind),
                    Some(error) => {
                        assert!(right != kind && problem(error).contains(verb), "{text} for {right}")
                    }
                }
            }
        }
    }

    #[test]
    fn a_path_is_parsed_from_text_or_made_of_run_and_checkpoint_id() {
        for (text, id, kind) in [
            ("tinker://s:train:0/weights/x", "weights/x", CheckpointType::Training),
            ("tinker://s:train:0/sampler_weights/x", "sampler_weights/x", CheckpointType::Sampler),
            ("tinker://s:train:0/external_weights/x", "external_weights/x", CheckpointType::External),
        ] {
            let path: CheckpointPath = text.parse().expect("a path");
            assert_eq!((path.checkpoint_id().as_str(), path.checkpoint_type()), (id, kind));
            assert_eq!(CheckpointPath::of("s:train:0", id).expect("a path"), path);
        }
        let two: CheckpointPath = "tinker://model_1/s1".parse().expect("a sampler path");
        assert_eq!(
            (two.checkpoint_id().as_str(), two.as_str()),
            ("sampler_weights/s1", "tinker://model_1/s1")
        );
        for wrong in ["", "x", "weights", "weights/", "weights/x/y", "other/x", "/x"] {
            assert!(CheckpointPath::of("r", wrong).is_err(), "{wrong}");
        }
        assert!(
            CheckpointPath::of("", "weights/x").is_err() && CheckpointPath::of("a/b", "weights/x").is_err()
        );
    }

    #[test]
    fn the_debug_text_of_a_path_is_the_path() {
        let text = "tinker://s:train:0/weights/step-10";
        let (path, any) = (text.parse::<TrainingPath>().expect("a path"), text.parse::<CheckpointPath>());
        assert_eq!(format!("{path:?} {:?}", any.expect("a path")), format!("{text:?} {text:?}"));
        let short: SamplerPath = "tinker://model_1/s1".parse().expect("a path");
        assert_eq!(format!("{short:?}"), "\"tinker://model_1/s1\"");
    }

    #[test]
    fn a_path_of_two_segments_is_a_sampler_path() {
        let path: SamplerPath = "tinker://model_1/s1".parse().expect("a sampler path");
        assert_eq!((path.run_id(), path.name(), path.as_str()), ("model_1", "s1", "tinker://model_1/s1"));
        assert!("tinker://model_1/s1".parse::<TrainingPath>().is_err());
    }

    #[test]
    fn every_path_is_displayed_as_parsed_and_can_be_made_of_its_parts() {
        let middle = proptest::sample::select(vec!["weights", "sampler_weights", "external_weights"]);
        proptest::proptest!(|(run in "[^/\\p{Cc}.]{1,20}", middle in middle, name in "[^/\\p{Cc}]{0,19}[^/\\p{Cc}.]")| {
            let text = format!("tinker://{run}/{middle}/{name}");
            let path: CheckpointPath = text.parse().expect("a path");
            assert_eq!((path.as_str(), path.to_string().as_str()), (text.as_str(), text.as_str()));
            assert_eq!((path.run_id(), path.name()), (run.as_str(), name.as_str()));
            assert_eq!(CheckpointPath::of(path.run_id(), &path.checkpoint_id()).expect("a path"), path);
            let short: SamplerPath = format!("tinker://{run}/{name}").parse().expect("a path");
            assert_eq!((short.run_id(), short.name()), (run.as_str(), name.as_str()));
            let [training, sampler, external] = [
                text.parse::<TrainingPath>().is_ok(),
                text.parse::<SamplerPath>().is_ok(),
                text.parse::<ExternalPath>().is_ok(),
            ];
            assert_eq!(u8::from(training) + u8::from(sampler) + u8::from(external), 1);
        });
    }
}
