//! Chooses the repository of a model's tokenizer.

use crate::error::{Error, Result};

/// The repository of a tokenizer on the Hugging Face hub, and its revision.
///
/// # Example: the tokenizer of a model of the service
/// ```
/// use tinkex::tokenizer::TokenizerSource;
///
/// let source = TokenizerSource::of("Qwen/Qwen3-8B", None)?;
/// assert_eq!((source.repo.as_str(), source.revision), ("Qwen/Qwen3-8B", None));
/// # Ok::<(), tinkex::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TokenizerSource {
    /// `organisation/name`.
    pub repo: String,
    /// A commit, branch or tag. `None` is the newest commit.
    pub revision: Option<String>,
}

/// The official SDK reads these tokenizers at fixed revisions, because it runs the Python program in the repository.
const PINNED: [(&str, &str); 4] = [
    ("moonshotai/Kimi-K2-Thinking", "612681931a8c906ddb349f8ad0f582cb552189cd"),
    ("moonshotai/Kimi-K2.5", "4d01dfe0332d63057c186e0b262165819efb6611"),
    ("moonshotai/Kimi-K2.6", "b5aabbfb20227ed42becbf5541dbffd213942c58"),
    ("moonshotai/Kimi-K3", "f831ab66814297da540d832a5235f8e904f29d06"),
];

/// A copy of the tokenizer of Llama 3 that everybody may download.
const LLAMA3: &str = "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer";

impl TokenizerSource {
    /// The tokenizer of a model of the service. `tokenizer_id` is the one that the server reports for the model
    /// (`get_info`); it takes precedence over the model's name.
    ///
    /// A suffix `:…` of the name is ignored, and of `organisation/model/variant` the variant.
    ///
    /// # Errors
    /// `InvalidInput`: a name that is not `organisation/model`, or a model of Thinking Machines, whose tokenizers are not
    /// on the hub.
    pub fn of(model: &str, tokenizer_id: Option<&str>) -> Result<Self> {
        let name = model.split(':').next().unwrap_or_default();
        let mut repo = match tokenizer_id.map(str::trim).filter(|id| !id.is_empty()) {
            Some(id) => id.to_string(),
            None if name.starts_with("meta-llama/Llama-3") => LLAMA3.to_string(),
            None => name.split('/').take(2).collect::<Vec<_>>().join("/"),
        };
        if ["TML/", "thinkingmachines/"].iter().any(|private| repo.starts_with(private)) {
            let problem =
                format!("the tokenizer {repo:?} is not on the Hugging Face hub; load it from files");
            return Err(Error::invalid("model", problem));
        }
        if repo == "moonshotai/Kimi-K2.5-Text-Only" {
            repo = "moonshotai/Kimi-K2.5".into();
        }
        let parts: Vec<&str> = repo.split('/').collect();
        if parts.len() != 2 || parts.iter().any(|part| part.trim().is_empty()) {
            return Err(Error::invalid("model", format!("is not a model organisation/name: {model:?}")));
        }
        let pinned = PINNED.iter().find(|(known, _)| *known == repo);
        Ok(TokenizerSource { revision: pinned.map(|(_, revision)| revision.to_string()), repo })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn models_have_the_tokenizers_that_the_official_sdk_loads() {
        for (model, tokenizer_id, repo, revision) in [
            ("Qwen/Qwen3-8B", None, "Qwen/Qwen3-8B", ""),
            ("Qwen/Qwen3-8B:fast", None, "Qwen/Qwen3-8B", ""),
            ("openai/gpt-oss-120b/variant", None, "openai/gpt-oss-120b", ""),
            ("openai/gpt-oss-120b/variant:peft", None, "openai/gpt-oss-120b", ""),
            ("meta-llama/Llama-3.1-8B", None, LLAMA3, ""),
            ("meta-llama/Llama-3.1-8B", Some("a/b"), "a/b", ""),
            ("meta-llama/Llama-4", None, "meta-llama/Llama-4", ""),
            ("Qwen/Qwen3-8B", Some(" "), "Qwen/Qwen3-8B", ""),
            ("moonshotai/Kimi-K2-Thinking", None, "moonshotai/Kimi-K2-Thinking", "612681931a8c"),
            ("moonshotai/Kimi-K2.5", None, "moonshotai/Kimi-K2.5", "4d01dfe"),
            ("moonshotai/Kimi-K2.5-Text-Only", None, "moonshotai/Kimi-K2.5", "4d01dfe"),
            ("x/y", Some("moonshotai/Kimi-K2.6"), "moonshotai/Kimi-K2.6", "b5aabbf"),
            ("moonshotai/Kimi-K3/variant", None, "moonshotai/Kimi-K3", "f831ab6"),
        ] {
            let source = TokenizerSource::of(model, tokenizer_id).unwrap();
            assert_eq!(source.repo, repo, "{model} {tokenizer_id:?}");
            let found = source.revision.unwrap_or_default();
            assert!(
                found.starts_with(revision) && found.is_empty() == revision.is_empty(),
                "{model}: {found}"
            );
        }
    }

    #[test]
    fn names_that_are_not_on_the_hub_are_refused() {
        for (model, tokenizer_id) in [
            ("", None),
            ("gpt2", None),
            ("/x", None),
            (":fast", None),
            ("thinkingmachines/Inkling", None),
            ("Qwen/Qwen3-8B", Some("TML/x")),
            ("Qwen/Qwen3-8B", Some("a/b/c")),
        ] {
            let error = TokenizerSource::of(model, tokenizer_id).unwrap_err();
            assert!(error.is_user_error() && error.to_string().starts_with("model: "), "{model:?}: {error}");
        }
    }
}
