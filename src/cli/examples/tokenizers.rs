//! Loads tokenizers.

use std::path::Path;
use std::sync::Arc;

use tinkex::tokenizer::{Bpe, ByteTokenizer, HubOptions, Tokenizer, TokenizerSource};

use crate::failure::Failure;
use crate::nearby_files;

/// Loads the tokenizer of a name or path, or else that of a model.
pub(crate) fn load(wanted: Option<&str>, model: Option<&str>) -> Result<Arc<dyn Tokenizer>, Failure> {
    let path = wanted.map(Path::new).filter(|path| path.exists());
    if let Some(path) = path {
        let bpe = if path.is_dir() {
            Bpe::from_dir(path)?
        } else {
            let bytes = std::fs::read(path)
                .map_err(|error| Failure::text(format!("{}: cannot be read: {error}", path.display())))?;
            Bpe::from_tokenizer_json(&bytes)?
        };
        return Ok(Arc::new(bpe));
    }
    let name = match (wanted, model) {
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => {
            return Err(Failure::usage("the tokenizer is not known, because no model was named")
                .with_remedy(
                    "-m Qwen/Qwen3-8B, or another model; --tokenizer bytes, or another tokenizer; or --local",
                ));
        }
    };
    if name == "bytes" || name.split(':').next() == Some("tinkex/nano") {
        return Ok(Arc::new(ByteTokenizer));
    }
    let may_be_name = name.split('/').count() == 2 && !name.starts_with(['.', '/', '~']);
    let source = match (TokenizerSource::of(name, None), wanted) {
        (Ok(source), None) => source,
        (Ok(source), Some(_)) if may_be_name => source,
        (_, Some(_)) => {
            let failure = Failure::usage(format!(
                "--tokenizer: {name:?} is neither a file, a folder, `bytes` nor organisation/name on the Hugging Face hub"
            ));
            return Err(nearby_files::explained(failure, Path::new(name)));
        }
        (Err(error), None) => {
            return Err(Failure::from(error)
                .with_remedy("--tokenizer bytes, a folder, or a name on the hub such as Qwen/Qwen3-8B"));
        }
    };
    let loaded = Bpe::download(&source, &HubOptions::default());
    let bpe = loaded.map_err(|error| {
        Failure::from(error)
            .with_remedy("--tokenizer with a folder that has a copy, as the program `hf` makes one")
    })?;
    Ok(Arc::new(bpe))
}
