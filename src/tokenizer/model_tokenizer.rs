//! The tokenizer of a model that a server names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ByteTokenizer, Tokenizer, TokenizerSource};
use crate::error::{Error, Result};

/// The engine's own model.
const NANO: &str = "tinkex/nano";

/// The place of a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The tokenizer of bytes, which is part of this crate.
    Bytes,
    /// A folder on this machine, which the embedded engine and other servers on this machine report.
    Folder(PathBuf),
    /// A repository of the hub.
    Hub(TokenizerSource),
}

/// Loads the tokenizer of a model. `tokenizer_id` is the one that the server reports for it.
///
/// # Errors
/// A feature is missing, or the tokenizer is unknown or cannot be loaded.
pub(crate) fn tokenizer_of(model: Option<&str>, tokenizer_id: Option<&str>) -> Result<Arc<dyn Tokenizer>> {
    match place_of(model, tokenizer_id)? {
        Place::Bytes => Ok(Arc::new(ByteTokenizer)),
        place => load(place),
    }
}

fn place_of(model: Option<&str>, tokenizer_id: Option<&str>) -> Result<Place> {
    let name = model.map(|model| model.split(':').next().unwrap_or_default());
    if name == Some(NANO) {
        return Ok(Place::Bytes);
    }
    if let Some(folder) = tokenizer_id.map(Path::new).filter(|path| path.is_absolute()) {
        if folder.is_dir() {
            return Ok(Place::Folder(folder.into()));
        }
        let text = format!(
            "the server reports the folder {}, which is not on this machine: load a copy with Bpe::from_dir, or the \
             model's own tokenizer by its name",
            folder.display()
        );
        return Err(Error::invalid("tokenizer_id", text));
    }
    let id = tokenizer_id.map(str::trim).filter(|id| !id.is_empty());
    if model.is_none() && id.is_none() {
        let text = "the server did not report the name of the model: load the tokenizer by the model's name";
        return Err(Error::invalid("model", text));
    }
    TokenizerSource::of(model.unwrap_or_default(), id).map(Place::Hub)
}

#[cfg(not(feature = "text"))]
fn load(place: Place) -> Result<Arc<dyn Tokenizer>> {
    let place = match place {
        Place::Folder(folder) => folder.display().to_string(),
        Place::Hub(source) => source.repo,
        Place::Bytes => return Ok(Arc::new(ByteTokenizer)),
    };
    Err(Error::config(format!(
        "the tokenizer {place} needs the feature `text` of tinkex, and the feature `hub` to be downloaded: switch them \
         on in Cargo.toml, or encode with another program and pass the token ids"
    )))
}

#[cfg(feature = "text")]
fn load(place: Place) -> Result<Arc<dyn Tokenizer>> {
    loaded::LOADED.get(place, loaded::read)
}

#[cfg(feature = "text")]
mod loaded {
    //! The tokenizers that this process has loaded.

    use std::time::{Duration, Instant};

    use super::super::Bpe;
    use super::super::in_flight::InFlight;
    use super::*;
    use crate::sync::StaticMutex;

    /// Largest number of tokenizers that are kept.
    pub(super) const MOST: usize = 32;

    /// Limit of the wait for another thread that loads the same tokenizer: that of a download, and the time to read it.
    const LONGEST_LOAD: Duration = Duration::from_secs(900);

    pub(super) static LOADED: Loaded = Loaded::new();

    /// Loads each tokenizer once, also if several threads need it at the same time. A failure is not kept.
    pub(super) struct Loaded {
        /// The tokenizers, oldest first.
        kept: StaticMutex<Vec<(Place, Arc<Bpe>)>>,
        in_flight: InFlight<Place, Arc<Bpe>>,
    }

    impl Loaded {
        pub(super) const fn new() -> Self {
            Loaded { kept: StaticMutex::new(Vec::new()), in_flight: InFlight::new() }
        }

        pub(super) fn get(
            &self,
            place: Place,
            read: impl FnOnce(&Place) -> Result<Bpe>,
        ) -> Result<Arc<dyn Tokenizer>> {
            if let Some(known) = self.known(&place) {
                return Ok(known);
            }
            let loaded = self.in_flight.run(place.clone(), Instant::now() + LONGEST_LOAD, || {
                // Another thread may have finished since the first look.
                if let Some(known) = self.known(&place) {
                    return Ok(known);
                }
                let loaded = Arc::new(read(&place)?);
                let dropped = {
                    let mut kept = self.kept.lock();
                    kept.push((place.clone(), loaded.clone()));
                    (MOST < kept.len()).then(|| kept.remove(0))
                };
                // Frees large tables: without the lock.
                drop(dropped);
                Ok(loaded)
            })?;
            Ok(loaded)
        }

        fn known(&self, place: &Place) -> Option<Arc<Bpe>> {
            self.kept.lock().iter().find(|(known, _)| known == place).map(|(_, loaded)| loaded.clone())
        }
    }

    pub(super) fn read(place: &Place) -> Result<Bpe> {
        match place {
            Place::Bytes => {
                Err(Error::invalid("model", "has the tokenizer of bytes, which is not in a file"))
            }
            Place::Folder(folder) => Bpe::from_dir(folder),
            #[cfg(feature = "hub")]
            Place::Hub(source) => Bpe::download(source, &super::super::HubOptions::default()),
            #[cfg(not(feature = "hub"))]
            Place::Hub(source) => Bpe::from_hf_cache(&source.repo, source.revision.as_deref()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_tokenizer_follows_from_what_the_server_reports() {
        let folder = std::env::temp_dir();
        let folder = folder.to_str().unwrap();
        let hub = |repo: &str| Place::Hub(TokenizerSource { repo: repo.into(), revision: None });
        for (model, id, expected) in [
            (Some("tinkex/nano"), None, Place::Bytes),
            (Some("tinkex/nano"), Some(folder), Place::Bytes),
            (Some("Qwen/Qwen3-8B"), Some(folder), Place::Folder(folder.into())),
            (Some("Qwen/Qwen3-8B:fast"), None, hub("Qwen/Qwen3-8B")),
            (Some("x/y"), Some("a/b"), hub("a/b")),
            (Some("x/y"), Some(" "), hub("x/y")),
            (None, Some("a/b"), hub("a/b")),
        ] {
            assert_eq!(place_of(model, id).unwrap(), expected, "{model:?} {id:?}");
        }
        for (model, id, problem) in [
            (None, None, "did not report the name"),
            (Some("x/y"), Some("/no/such/folder"), "/no/such/folder, which is not on this machine"),
            (Some("thinkingmachines/x"), None, "is not on the Hugging Face hub"),
        ] {
            let error = place_of(model, id).unwrap_err();
            assert!(error.is_user_error() && error.to_string().contains(problem), "{error}");
        }
        assert_eq!(tokenizer_of(Some("tinkex/nano"), None).unwrap().encode("hi").unwrap(), [104, 105]);
    }

    #[test]
    #[cfg(not(feature = "text"))]
    fn the_missing_feature_is_named() {
        let error = tokenizer_of(Some("Qwen/Qwen3-8B"), None).unwrap_err();
        assert!(error.is_user_error() && error.to_string().contains("feature `text`"), "{error}");
    }

    #[cfg(feature = "text")]
    mod with_text {
        use std::collections::BTreeMap;
        use std::sync::atomic::{AtomicUsize, Ordering};

        use base64::prelude::{BASE64_STANDARD, Engine as _};

        use super::super::loaded::{Loaded, MOST};
        use super::*;
        use crate::tokenizer::Bpe;

        fn small() -> Bpe {
            let line = |byte: u8| format!("{} {byte}\n", BASE64_STANDARD.encode([byte]));
            let ranks: String = (0..=255).map(line).collect();
            Bpe::from_tiktoken(ranks.as_bytes(), r"\p{L}+|\s+|[^\s\p{L}]+", &BTreeMap::new()).unwrap()
        }

        fn place(n: usize) -> Place {
            Place::Folder(format!("/{n}").into())
        }

        #[test]
        fn a_tokenizer_is_loaded_once_for_all_threads_and_the_oldest_of_many_is_dropped() {
            let (loaded, reads) = (Loaded::new(), AtomicUsize::new(0));
            let get = |n: usize| {
                loaded.get(place(n), |_| {
                    reads.fetch_add(1, Ordering::Relaxed);
                    Ok(small())
                })
            };
            let start = std::sync::Barrier::new(20);
            std::thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(|| {
                        start.wait();
                        get(0).unwrap();
                    });
                }
            });
            assert_eq!(reads.load(Ordering::Relaxed), 1);
            (1..=MOST).for_each(|n| drop(get(n).unwrap()));
            get(MOST).unwrap();
            assert_eq!(reads.load(Ordering::Relaxed), 1 + MOST);
            get(0).unwrap();
            assert_eq!(reads.load(Ordering::Relaxed), 2 + MOST);
        }

        #[test]
        fn a_failure_is_not_kept() {
            let loaded = Loaded::new();
            let failed = loaded.get(place(0), |_| Err(Error::config("not yet")));
            assert!(failed.unwrap_err().to_string().contains("not yet"));
            assert!(loaded.get(place(0), |_| Ok(small())).is_ok());
        }
    }
}
