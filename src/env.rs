//! Reads environment variables. Outside of tests, no other module reads them.
//!
//! Values are trimmed, and an empty value counts as unset (PROTOCOL §1.2).

use std::path::PathBuf;

/// A source of environment variables: the environment of the process, or fixed values in tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Env {
    get: fn(&str) -> Option<String>,
}

impl Env {
    /// The environment of the process.
    pub(crate) fn process() -> Self {
        Env { get: |name| std::env::var(name).ok() }
    }

    /// An environment without variables.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn empty() -> Self {
        Env { get: |_| None }
    }

    #[cfg(test)]
    pub(crate) fn of(get: fn(&str) -> Option<String>) -> Self {
        Env { get }
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = (self.get)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_string())
    }

    /// The credential: an API key or a JWT.
    pub(crate) fn api_key(&self) -> Option<String> {
        self.text("TINKER_API_KEY")
    }

    /// The shell command line that prints a credential.
    pub(crate) fn credential_command(&self) -> Option<String> {
        self.text("TINKER_CREDENTIAL_CMD")
    }

    /// The home folder, which contains the stored keys.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.text(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).map(PathBuf::from)
    }

    /// The folder of the libraries of Hugging Face.
    #[cfg(feature = "text")]
    fn hf_home(&self) -> Option<PathBuf> {
        let path = |name: &str| self.text(name).map(PathBuf::from);
        let cache = || path("XDG_CACHE_HOME").or_else(|| Some(self.home()?.join(".cache")));
        path("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))
    }

    /// The folder of the Hugging Face hub's cache.
    #[cfg(feature = "text")]
    pub(crate) fn hf_hub_cache(&self) -> Option<PathBuf> {
        self.text("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(self.hf_home()?.join("hub")))
    }

    /// The token of the Hugging Face hub.
    #[cfg(feature = "hub")]
    pub(crate) fn hf_token(&self) -> Option<String> {
        self.text("HF_TOKEN")
    }

    /// The file into which `hf auth login` writes the token.
    #[cfg(feature = "hub")]
    pub(crate) fn hf_token_file(&self) -> Option<PathBuf> {
        self.text("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(self.hf_home()?.join("token")))
    }

    /// The URL of the hub.
    #[cfg(feature = "hub")]
    pub(crate) fn hf_endpoint(&self) -> Option<String> {
        self.text("HF_ENDPOINT")
    }

    /// True if the hub must not be asked.
    #[cfg(feature = "hub")]
    pub(crate) fn hf_offline(&self) -> bool {
        self.text("HF_HUB_OFFLINE").as_deref().is_some_and(is_yes)
    }

    /// The proxy for a server, from the first of its variables that is set: the name of the variable and the URL of the
    /// proxy. `https` is true for a server whose URL has the scheme `https`. `HTTPS_PROXY` or `HTTP_PROXY` takes
    /// precedence over `ALL_PROXY`.
    pub(crate) fn proxy(&self, https: bool) -> Option<(&'static str, String)> {
        let names = if https {
            ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        } else {
            ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        };
        names.into_iter().find_map(|name| Some((name, self.text(name)?)))
    }

    /// The hosts that are reached without a proxy, from a comma-separated list.
    pub(crate) fn no_proxy(&self) -> Vec<String> {
        let text = self.text("NO_PROXY").or_else(|| self.text("no_proxy")).unwrap_or_default();
        text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_string).collect()
    }

    /// The base URL of the service.
    pub(crate) fn base_url(&self) -> Option<String> {
        self.text("TINKER_BASE_URL")
    }

    /// The project of new sessions and of copies of checkpoints.
    pub(crate) fn project_id(&self) -> Option<String> {
        self.text("TINKER_PROJECT_ID")
    }

    /// The tags of the session, from a comma-separated list without duplicates.
    pub(crate) fn tags(&self) -> Option<Vec<String>> {
        let text = self.text("TINKER_TAGS")?;
        let mut tags: Vec<String> = Vec::new();
        for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.into());
            }
        }
        Some(tags)
    }

    /// True if the variable turns telemetry on (`1`, `true`, `yes` or `on`), false for any other value, `None` if it is
    /// not set.
    pub(crate) fn telemetry(&self) -> Option<bool> {
        Some(is_yes(&self.text("TINKER_TELEMETRY")?))
    }

    /// Client id and secret of Cloudflare Access.
    pub(crate) fn cloudflare(&self) -> Option<(String, String)> {
        Some((self.text("CLOUDFLARE_ACCESS_CLIENT_ID")?, self.text("CLOUDFLARE_ACCESS_CLIENT_SECRET")?))
    }
}

fn is_yes(text: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|yes| text.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_values_count_as_unset_and_tags_are_listed_once() {
        let env = Env::of(|name| match name {
            "TINKER_API_KEY" => Some("  ".into()),
            "TINKER_BASE_URL" => Some(" http://x ".into()),
            "TINKER_TAGS" => Some("a, b,,a".into()),
            _ => None,
        });
        assert_eq!(env.api_key(), None);
        assert_eq!(env.base_url().as_deref(), Some("http://x"));
        assert_eq!(env.tags(), Some(vec!["a".into(), "b".into()]));
        assert_eq!(Env::empty().tags(), None);
    }

    #[test]
    fn four_values_turn_telemetry_on_and_all_others_off() {
        assert_eq!(Env::empty().telemetry(), None);
        for (get, expected) in [
            ((|_| Some(" ".into())) as fn(&str) -> Option<String>, None),
            (|_| Some("1".into()), Some(true)),
            (|_| Some("True".into()), Some(true)),
            (|_| Some("YES".into()), Some(true)),
            (|_| Some("on".into()), Some(true)),
            (|_| Some("0".into()), Some(false)),
            (|_| Some("enabled".into()), Some(false)),
        ] {
            assert_eq!(Env::of(get).telemetry(), expected);
        }
    }
}
