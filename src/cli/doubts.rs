//! What is doubtful about the names on the command line. It is told only if the command fails: a server may know a model
//! that looks like something else here.

use std::sync::Arc;

use parking_lot::Mutex;
use tinkex::ErrorKind;

use super::args::Global;
use super::failure::Failure;

/// The doubts of a command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubts(Arc<Mutex<Vec<Doubt>>>);

/// A name that may be a mistake. `option` is where it was given, and `runs` are folders of runs that may be meant.
#[derive(Clone, Debug)]
pub(crate) enum Doubt {
    /// A folder that is not that of a run, in the place of a model.
    NotARun { name: String, option: &'static str, runs: Vec<String> },
    /// A model whose name is almost that of the folder of a run.
    Similar { name: String, option: &'static str, runs: Vec<String> },
    /// A run whose checkpoints are looked for where it was not trained. `own` and `asked` are the options that name the
    /// servers.
    Elsewhere { name: String, path: String, own: String, asked: String },
    /// A run whose last checkpoint may be gone.
    Gone(Box<Last>),
}

/// The last checkpoint of a run.
#[derive(Clone, Debug)]
pub(crate) struct Last {
    /// The run, as it is named on the command line.
    pub(crate) name: String,
    pub(crate) path: String,
    /// The name of the path in the list of the checkpoints.
    pub(crate) member: &'static str,
    /// The options with the server of the run.
    pub(crate) global: Global,
}

impl Doubts {
    pub(crate) fn add(&self, doubt: Doubt) {
        self.0.lock().push(doubt);
    }

    /// The failure with the doubt that explains it. `ask` asks the server of a run whether its last checkpoint is gone.
    pub(crate) fn explained(&self, failure: Failure, ask: impl Fn(&Last) -> Option<Failure>) -> Failure {
        let doubts = self.0.lock().clone();
        for doubt in doubts.iter().filter(|doubt| doubt.may_explain(&failure)) {
            let Doubt::Gone(last) = doubt else { return doubt.explained(failure) };
            if let Some(failure) = ask(last) {
                return failure;
            }
        }
        failure
    }
}

/// True if the command has said in its own words that something is not there.
fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Missing { .. })
}

impl Doubt {
    fn may_explain(&self, failure: &Failure) -> bool {
        let is_of = |kinds: fn(&ErrorKind) -> bool| match failure {
            Failure::Api { error, .. } => kinds(error.kind()),
            _ => false,
        };
        let may_fail_by_name = matches!(
            failure,
            Failure::Api { .. } | Failure::Text { .. } | Failure::Missing { .. } | Failure::Usage { .. }
        );
        match self {
            Doubt::NotARun { name, .. } | Doubt::Similar { name, .. } => {
                is_of(|kind| *kind == ErrorKind::Config)
                    || may_fail_by_name && failure.summary().contains(name.as_str())
            }
            // Servers have their own words for it.
            Doubt::Gone(last) => {
                is_of(|kind| *kind == ErrorKind::NotFound)
                    || failure.summary().contains(last.path.as_str()) && is_missing(failure)
            }
            Doubt::Elsewhere { path, .. } => {
                // A server of another kind may lack the endpoint.
                is_of(|kind| *kind == ErrorKind::Incompatible)
                    || failure.summary().contains(run_of(path))
                        && (is_of(|kind| *kind == ErrorKind::NotFound) || is_missing(failure))
            }
        }
    }

    fn explained(&self, failure: Failure) -> Failure {
        match self {
            Doubt::Gone(_) => failure,
            Doubt::NotARun { name, option, runs } => {
                let mut problem = format!(
                    "{name} is a folder, but not that of a training run: it has no checkpoints.jsonl"
                );
                if failure.summary().contains(name.as_str()) {
                    problem += &format!("; as the name of a model: {}", failure.summary());
                }
                Failure::usage(problem).with_remedy(remedy(option, runs).unwrap_or_else(|| {
                    "the folder of a run, which `tinkex train` has named, or a model of `tinkex model list`".into()
                }))
            }
            Doubt::Similar { name, option, runs } => {
                let remedies = [remedy(option, runs), failure.remedy()];
                let remedies: Vec<String> = remedies.into_iter().flatten().collect();
                let failure = if is_config(&failure) {
                    Failure::usage(format!(
                        "{name} is not the folder of a run, and a model of this name needs a server: {}",
                        failure.summary()
                    ))
                } else {
                    failure
                };
                if remedies.is_empty() { failure } else { failure.with_remedy(remedies.join("; or ")) }
            }
            Doubt::Elsewhere { name, own, asked, .. } => Failure::text(format!(
                "the run {name} was trained with{own}; its checkpoints are not where{asked} looks for them"
            ))
            .with_remedy(format!("leave{asked} out")),
        }
    }
}

/// True if the settings of the client are incomplete, such as the key.
fn is_config(failure: &Failure) -> bool {
    matches!(failure, Failure::Api { error, .. } if *error.kind() == ErrorKind::Config)
}

/// The id of the run in a path, which errors name.
fn run_of(path: &str) -> &str {
    path.trim_start_matches("tinker://").split(['/', ':']).next().unwrap_or(path)
}

fn remedy(option: &str, runs: &[String]) -> Option<String> {
    let (last, others) = runs.split_last()?;
    let what = if others.is_empty() { "the folder of a run" } else { "folders of runs" };
    let names: Vec<String> = others.iter().chain([last]).map(|it| format!("{option} {it}")).collect();
    Some(format!("{}, {what}", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_explained_by_the_doubt_that_it_is_about() {
        let doubts = Doubts::default();
        doubts.add(Doubt::Similar {
            name: "cap".into(),
            option: "-m",
            runs: vec!["runs/cap".into(), "capital".into()],
        });
        doubts.add(Doubt::NotARun { name: "my".into(), option: "-m", runs: Vec::new() });
        let explained = |failure: Failure| {
            let failure = doubts.explained(failure, |_| None);
            (failure.summary(), failure.remedy().unwrap_or_default())
        };
        let (summary, remedy) = explained(Failure::text("no model \"cap\"").with_remedy("another model"));
        assert_eq!(summary, "no model \"cap\"");
        assert_eq!(remedy, "-m runs/cap or -m capital, folders of runs; or another model");
        let (summary, _) = explained(Failure::text("no model \"my\""));
        assert!(summary.starts_with("my is a folder, but not that of a training run"), "{summary}");
        assert_eq!(explained(Failure::text("the disk is full")), ("the disk is full".into(), String::new()));
    }
}
