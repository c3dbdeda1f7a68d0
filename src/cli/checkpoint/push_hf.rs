//! `tinkex checkpoint push-hf`: prints the commands that download a checkpoint and upload it with the program `hf` of the
//! hub, which knows the hub's protocol for large files.

use serde_json::json;
use tinkex::types::CheckpointPath;

use super::download::name_of;
use super::parse_path;
use crate::connection::App;
use crate::failure::Failure;
use crate::shell_word::quoted;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the checkpoint
    #[arg(value_name = "PATH", value_parser = parse_path)]
    path: CheckpointPath,
    /// Repository, such as user/name [default: named after the base model and the run]
    #[arg(short, long, value_name = "REPO")]
    repo: Option<String>,
    /// Create a public repository
    #[arg(long)]
    public: bool,
    /// Branch or revision of the repository
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// Message of the commit
    #[arg(long, value_name = "TEXT")]
    commit_message: Option<String>,
    /// Open a pull request
    #[arg(long)]
    create_pr: bool,
    /// Upload only files that match; may be given several times
    #[arg(long, value_name = "PATTERN")]
    allow_pattern: Vec<String>,
    /// Leave out files that match; may be given several times
    #[arg(long, value_name = "PATTERN")]
    ignore_pattern: Vec<String>,
    /// Accepted for compatibility: no model card is added
    #[arg(long, hide = true)]
    no_model_card: bool,
}

pub(crate) fn run(args: &Args, app: &App) -> Result<(), Failure> {
    let (repo, revision) = match &args.repo {
        Some(repo) => (repo.clone(), args.revision.clone()),
        None => {
            let connection = app.connect()?;
            let rest = connection.service.create_rest_client();
            let base = rest.get_weights_info_by_tinker_path(args.path.clone())?.base_model;
            let revision = args.revision.clone().unwrap_or_else(|| sanitized(&args.path.checkpoint_id()));
            (default_repo(base.as_deref(), args.path.run_id()), Some(revision))
        }
    };
    let commands = commands(args, &repo, revision.as_deref(), &app.place());
    let json = json!({
        "checkpoint_path": args.path.as_str(),
        "repo_id": repo,
        "revision": revision,
        "public": args.public,
        "commands": commands,
    });
    app.hint("nothing was uploaded; run these commands:");
    app.out.value(&json, || commands.join(" && \\\n  "))
}

fn default_repo(base_model: Option<&str>, run_id: &str) -> String {
    let base = base_model.and_then(|it| it.rsplit('/').next()).unwrap_or("model");
    sanitized(&format!("tinker-{base}-{run_id}"))
}

/// A text with the characters that names of the hub may have.
fn sanitized(text: &str) -> String {
    let is_allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.');
    let text: String = text.chars().map(|it| if is_allowed(it) { it } else { '-' }).collect();
    text.trim_matches(['-', '.']).chars().take(96).collect()
}

/// `place` has the options with which the checkpoint is found.
fn commands(args: &Args, repo: &str, revision: Option<&str>, place: &str) -> Vec<String> {
    let folder = name_of(&args.path, false);
    let download = ["tinkex", "checkpoint", "download", args.path.as_str(), "-o", "."].map(str::to_owned);
    let mut upload = ["hf", "upload", repo, &folder, "."].map(str::to_owned).to_vec();
    let mut option = |name: &str, value: Option<&str>| {
        upload.push(name.to_owned());
        upload.extend(value.map(str::to_owned));
    };
    if !args.public {
        option("--private", None);
    }
    if let Some(revision) = revision {
        option("--revision", Some(revision));
    }
    if let Some(text) = &args.commit_message {
        option("--commit-message", Some(text));
    }
    if args.create_pr {
        option("--create-pr", None);
    }
    args.allow_pattern.iter().for_each(|it| option("--include", Some(it)));
    args.ignore_pattern.iter().for_each(|it| option("--exclude", Some(it)));
    vec![line(&download) + place, line(&upload)]
}

fn line(words: &[String]) -> String {
    words.iter().map(|it| quoted(it)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_quoted_for_a_shell() {
        let args = Args {
            path: "tinker://s:train:0/sampler_weights/final".parse().unwrap(),
            repo: None,
            public: false,
            revision: None,
            commit_message: Some("it's done".into()),
            create_pr: true,
            allow_pattern: vec!["*.safetensors".into()],
            ignore_pattern: vec![],
            no_model_card: false,
        };
        assert_eq!(
            commands(&args, "me/model", Some("v1"), " --local=engine"),
            [
                "tinkex checkpoint download tinker://s:train:0/sampler_weights/final -o . --local=engine",
                "hf upload me/model s_train_0_sampler_weights_final . --private --revision v1 \
                 --commit-message 'it'\\''s done' --create-pr --include '*.safetensors'",
            ]
        );
        assert_eq!(default_repo(Some("Qwen/Qwen3-8B"), "s:train:0"), "tinker-Qwen3-8B-s-train-0");
    }
}
