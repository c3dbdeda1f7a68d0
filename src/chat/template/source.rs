//! Where the chat template of a model is written down.

use std::path::Path;

use crate::chat::json::Json;
use crate::error::{Error, Result};

const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// A template, and the texts of tokens that it may write.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Source {
    pub(super) template: String,
    /// Variables such as `bos_token`, with the text of the token.
    pub(super) tokens: Vec<(&'static str, String)>,
}

/// Reads the text of a `tokenizer_config.json`.
pub(super) fn of_config(text: &str, name: Option<&str>) -> Result<Source> {
    let config = read(text)?;
    Ok(Source { template: template(&config, name)?, tokens: tokens(&config)? })
}

/// Reads the folder of a model.
pub(super) fn of_dir(folder: &Path, name: Option<&str>) -> Result<Source> {
    let config = match file(&folder.join(CONFIG))? {
        Some(text) => Some(read(&text)?),
        None => None,
    };
    let tokens = config.as_ref().map(tokens).transpose()?.unwrap_or_default();
    let named = name.filter(|name| *name != "default");
    let path = match named {
        Some(name) => folder.join("additional_chat_templates").join(format!("{name}.jinja")),
        None => folder.join(TEMPLATE),
    };
    if let Some(template) = file(&path)? {
        return Ok(Source { template, tokens });
    }
    match config {
        Some(config) => Ok(Source { template: template(&config, name)?, tokens }),
        None => {
            let problem = format!("has neither {TEMPLATE} nor {CONFIG}");
            Err(Error::invalid(folder.display().to_string(), problem))
        }
    }
}

fn read(text: &str) -> Result<Json> {
    Json::read(text).map_err(|error| Error::invalid(CONFIG, format!("not valid JSON: {error}")))
}

/// Reads a file, or `None` if there is none.
fn file(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::invalid(path.display().to_string(), format!("cannot be read: {error}"))),
    }
}

/// The template of a name: a text is the one template that there is, a list has several.
fn template(config: &Json, name: Option<&str>) -> Result<String> {
    let invalid = |path: &str, problem: String| Error::invalid(format!("{CONFIG}: {path}"), problem);
    let wanted = name.unwrap_or("default");
    match config.get("chat_template") {
        None | Some(Json::Null) => Err(invalid(
            "chat_template",
            "is missing; the model may have a file chat_template.jinja instead".into(),
        )),
        Some(Json::Text(template)) if wanted == "default" => Ok(template.clone()),
        Some(Json::Text(_)) => {
            Err(invalid("chat_template", format!("is one template, not a list that has the name {wanted:?}")))
        }
        Some(Json::List(list)) => {
            let mut names = Vec::new();
            for (i, entry) in list.iter().enumerate() {
                let field = |field: &str| {
                    entry.get(field).and_then(Json::as_text).ok_or_else(|| {
                        invalid(&format!("chat_template[{i}].{field}"), "must be a text".into())
                    })
                };
                let (name, template) = (field("name")?, field("template")?);
                if name == wanted {
                    return Ok(template.to_owned());
                }
                names.push(name);
            }
            let problem = format!("has no template {wanted:?}; it has {}", names.join(", "));
            Err(invalid("chat_template", problem))
        }
        Some(_) => Err(invalid("chat_template", "must be a text or a list of templates".into())),
    }
}

/// The tokens with a role: each is a text, or an object with the text.
fn tokens(config: &Json) -> Result<Vec<(&'static str, String)>> {
    let mut tokens = Vec::new();
    for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
        let token = match config.get(name) {
            None | Some(Json::Null) => continue,
            Some(Json::Text(text)) => Some(text.as_str()),
            Some(other) => other.get("content").and_then(Json::as_text),
        };
        let token = token.ok_or_else(|| {
            Error::invalid(
                format!("{CONFIG}: {name}"),
                "must be a text, or an object with the text `content`",
            )
        })?;
        tokens.push((name, token.to_owned()));
    }
    Ok(tokens)
}
