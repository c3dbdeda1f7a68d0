//! Addresses of checkpoints.

use std::fmt;
use std::str::FromStr;

use super::CheckpointType;
use crate::error::{Error, Result};

const SCHEME: &str = "tinker://";
const FORM: &str = "must be tinker://<run>/<weights|sampler_weights|external_weights>/<name>";

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
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrainingPath(Parts);

/// Where weights to sample from are: `tinker://<run>/sampler_weights/<name>`. Some servers leave out the middle part.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SamplerPath(Parts);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// Where exported weights are: `tinker://<run>/external_weights/<name>`. They can be downloaded, not trained or sampled
/// from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExternalPath(Parts);

/// A checkpoint of any kind, for the calls that do not care which.
///
/// # Example: what a path names
/// ```
/// use tinkex::types::{CheckpointPath, CheckpointType};
///
/// let path: CheckpointPath = "tinker://s:train:0/sampler_weights/final".parse()?;
/// assert_eq!(path.checkpoint_type(), CheckpointType::Sampler);
/// assert_eq!((path.run_id(), path.checkpoint_id().as_str()), ("s:train:0", "sampler_weights/final"));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheckpointPath {
    /// A state to train on.
    Training(TrainingPath),
    /// Weights to sample from.
    Sampler(SamplerPath),
    /// Exported weights.
    External(ExternalPath),
}

/// Splits a path; the middle part is `None` in the two-part form.
fn parse(text: &str) -> Result<(Parts, Option<&str>)> {
    let fail = |problem: &str| Err(Error::invalid("path", format!("{text:?} {problem}")));
    let Some(rest) = text.strip_prefix(SCHEME) else {
        return fail("does not start with tinker://");
    };
    let segments: Vec<&str> = rest.split('/').collect();
    if segments.iter().any(|it| it.is_empty()) {
        return fail(&format!("has an empty part; it {FORM}"));
    }
    let leads_elsewhere = |it: &&str| matches!(*it, "." | "..") || it.contains(char::is_control);
    if let Some(part) = segments.iter().find(|it| leads_elsewhere(it)) {
        return fail(&format!("has the part {part:?}, which is no name; it {FORM}"));
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

impl SamplerPath {
    /// The middle part is left out.
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
            Some("weights") => "holds a training state; exported weights come from save_weights_external",
            Some("sampler_weights") | None => {
                "holds weights for sampling; exported weights come from save_weights_external"
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
    /// The checkpoint of a run, from its id: `weights/<name>`, `sampler_weights/<name>` or `external_weights/<name>`.
    ///
    /// # Errors
    /// An id of another form, such as the name alone.
    pub fn of(training_run_id: &str, checkpoint_id: &str) -> Result<Self> {
        let wrong =
            |path: &str, text: &str, problem: &str| Err(Error::invalid(path, format!("{text:?} {problem}")));
        if training_run_id.is_empty() || training_run_id.contains('/') {
            return wrong("training_run_id", training_run_id, "is no id of a training run");
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

    /// What it holds.
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

    /// The id of the training run that saved it. It may contain colons.
    pub fn run_id(&self) -> &str {
        self.parts().run_id()
    }

    /// The name under which it was saved.
    pub fn name(&self) -> &str {
        self.parts().name()
    }

    /// Its id within the run, such as `weights/step-10`.
    pub fn checkpoint_id(&self) -> String {
        match self {
            CheckpointPath::Training(it) => it.checkpoint_id(),
            CheckpointPath::Sampler(it) => it.checkpoint_id(),
            CheckpointPath::External(it) => it.checkpoint_id(),
        }
    }

    fn parts(&self) -> &Parts {
        match self {
            CheckpointPath::Training(it) => &it.0,
            CheckpointPath::Sampler(it) => &it.0,
            CheckpointPath::External(it) => &it.0,
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

            /// The id of the training run that saved it. It may contain colons.
            pub fn run_id(&self) -> &str {
                self.0.run_id()
            }

            /// The name under which it was saved.
            pub fn name(&self) -> &str {
                self.0.name()
            }

            /// Its id within the run.
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
    fn the_wrong_kind_of_path_says_which_call_makes_the_right_one() {
        let problem = |it: Error| it.violation().expect("a violation").problem.clone();
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
                    Some(it) => assert!(right != kind && problem(it).contains(verb), "{text} for {right}"),
                }
            }
        }
    }

    #[test]
    fn a_checkpoint_is_known_by_its_path_and_by_its_id() {
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
    fn a_two_part_path_is_a_sampler_path() {
        let path: SamplerPath = "tinker://model_1/s1".parse().expect("a sampler path");
        assert_eq!((path.run_id(), path.name(), path.as_str()), ("model_1", "s1", "tinker://model_1/s1"));
        assert!("tinker://model_1/s1".parse::<TrainingPath>().is_err());
    }

    #[test]
    fn every_path_is_written_as_it_was_read_and_can_be_put_together_again() {
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
