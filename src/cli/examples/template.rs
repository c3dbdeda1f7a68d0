//! The format of conversations: a renderer that is built in, or the chat template of a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tinkex::chat::{Example, Message, Renderer, TemplateOptions, TemplateRenderer, TrainOnWhat};
use tinkex::tokenizer::Tokenizer;
use tinkex::types::{ModelInput, Stop};
use tinkex::{ErrorKind, Result, ServiceClient};

use super::encoder::digest_of;
use super::options::DataOptions;
use super::roles::{TemplateRoles, with_own_names};
use crate::failure::Failure;
use crate::nearby_files;

/// The source of a format.
const EXAMPLE: &str = "--template role_colon, another renderer, or a file with a chat template";

/// Writes conversations in the format of a model.
#[derive(Clone, Debug)]
pub(crate) enum Template {
    BuiltIn(Renderer),
    Jinja { renderer: Box<TemplateRenderer>, digest: String },
}

impl Template {
    /// The template of the options, or else that of the model.
    pub(crate) fn of(
        options: &DataOptions,
        model: Option<&str>,
        tokenizer: &Arc<dyn Tokenizer>,
    ) -> std::result::Result<Self, Failure> {
        let by_name = |name: &str| Renderer::new(name, tokenizer.clone()).map(Template::BuiltIn);
        if let Some(wanted) = &options.template {
            if Renderer::names().contains(&wanted.as_str()) {
                return Ok(by_name(wanted)?);
            }
            if !Path::new(wanted).exists() {
                let mut remedy = format!("one of {}", Renderer::names().join(", "));
                if let Some(file) = nearby_files::remedy(Path::new(wanted)) {
                    remedy = format!("{file}; or {remedy}");
                }
                let problem = format!("--template: {wanted:?} is neither a file nor a renderer");
                return Err(Failure::usage(problem).with_remedy(remedy));
            }
            return Template::of_path(Path::new(wanted), tokenizer);
        }
        // The folder of a tokenizer may have the template of the model.
        let folder = options.tokenizer.as_deref().map(Path::new).filter(|path| path.is_dir());
        match (model.map(Renderer::recommended_names), folder) {
            (Some(Ok(names)), _) => Ok(by_name(names.first().copied().unwrap_or_default())?),
            (_, Some(folder)) => Template::of_path(folder, tokenizer),
            _ if options.tokenizer.as_deref() == Some("bytes") => Ok(by_name("role_colon")?),
            (Some(Err(error)), None) => Err(Failure::from(error).with_remedy(EXAMPLE)),
            (None, None) => {
                Err(Failure::usage("the format of conversations is not known, because no model was named")
                    .with_remedy(format!("-m Qwen/Qwen3-8B, or another model; or {EXAMPLE}")))
            }
        }
    }

    /// A file with a template in Jinja, a `tokenizer_config.json`, or a folder that has one of them.
    fn of_path(path: &Path, tokenizer: &Arc<dyn Tokenizer>) -> std::result::Result<Self, Failure> {
        let options = TemplateOptions::default();
        let file = file_in(path);
        let digest = digest_of(&file);
        let text = || {
            std::fs::read_to_string(&file)
                .map_err(|error| Failure::text(format!("{}: cannot be read: {error}", file.display())))
        };
        let renderer = match own_text(path).as_deref().and_then(with_own_names) {
            Some(template) => {
                // The tokens that the template may write are those beside it.
                let config = if is_json(&file) { Some(file.clone()) } else { config_beside(path) };
                let config = config.and_then(|path| std::fs::read(path).ok());
                let config = config.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
                match config.filter(Value::is_object) {
                    Some(mut config) => {
                        config["chat_template"] = template.into();
                        let config = config.to_string();
                        TemplateRenderer::from_tokenizer_config(&config, tokenizer.clone(), &options)?
                    }
                    None => TemplateRenderer::new(&template, tokenizer.clone(), &options)?,
                }
            }
            None if path.is_dir() => TemplateRenderer::from_dir(path, tokenizer.clone(), &options)?,
            None if is_json(&file) => {
                TemplateRenderer::from_tokenizer_config(&text()?, tokenizer.clone(), &options)?
            }
            None => TemplateRenderer::new(&text()?, tokenizer.clone(), &options)?,
        };
        Ok(Template::Jinja { renderer: Box::new(renderer), digest })
    }

    /// The name of the renderer, or the digest of the chat template.
    pub(crate) fn name(&self) -> String {
        match self {
            Template::BuiltIn(renderer) => renderer.name().to_owned(),
            Template::Jinja { digest, .. } => digest.clone(),
        }
    }

    pub(crate) fn stop(&self) -> Stop {
        match self {
            Template::BuiltIn(renderer) => renderer.get_stop_sequences(),
            Template::Jinja { renderer, .. } => renderer.get_stop_sequences(),
        }
    }

    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<ModelInput> {
        match self {
            Template::BuiltIn(renderer) => renderer.build_generation_prompt(messages),
            Template::Jinja { renderer, .. } => renderer.build_generation_prompt(messages),
        }
    }

    pub(crate) fn examples(&self, messages: &[Message], what: TrainOnWhat) -> Result<Vec<Example>> {
        match self {
            Template::BuiltIn(renderer) => renderer.build_supervised_examples(messages, what),
            Template::Jinja { renderer, .. } => renderer.build_supervised_examples(messages, what),
        }
    }

    /// Messages that say whether they are trained, as one example.
    pub(crate) fn one(&self, messages: &[Message]) -> std::result::Result<Example, String> {
        let what = TrainOnWhat::Customized;
        match self {
            Template::BuiltIn(renderer) => {
                let example = renderer.build_supervised_example(messages, what);
                example.map_err(|error| error.message().to_owned())
            }
            Template::Jinja { renderer, .. } => {
                let examples = renderer.build_supervised_examples(messages, what);
                let mut examples = examples.map_err(|error| error.message().to_owned())?;
                match (examples.pop(), examples.len()) {
                    (Some(example), 0) => Ok(example),
                    _ => {
                        Err("the chat template writes these answers as several examples; give one answer"
                            .into())
                    }
                }
            }
        }
    }

    /// Makes a message of the tokens that a model wrote.
    pub(crate) fn parse(&self, tokens: &[i32]) -> Result<Message> {
        match self {
            Template::BuiltIn(renderer) => Ok(renderer.parse_response(tokens)?.0),
            Template::Jinja { renderer, .. } => Ok(renderer.parse_response(tokens)?.0),
        }
    }
}

/// The roles that the template of `--template` has under the names of other programs.
pub(crate) fn template_roles(template: Option<&str>) -> TemplateRoles {
    let path = template.filter(|it| !Renderer::names().contains(it)).map(Path::new);
    path.and_then(own_text).map(|text| TemplateRoles::of(&text)).unwrap_or_default()
}

/// The file with the template, if the path is a folder.
fn file_in(path: &Path) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let jinja = path.join("chat_template.jinja");
    if jinja.exists() { jinja } else { path.join(CONFIG) }
}

/// The settings of the tokenizer in a folder, if the path is one.
fn config_beside(path: &Path) -> Option<PathBuf> {
    Some(path.join(CONFIG)).filter(|it| it.is_file())
}

const CONFIG: &str = "tokenizer_config.json";

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "json")
}

/// The template in Jinja of a file or a folder, if there is a single one.
fn own_text(path: &Path) -> Option<String> {
    let file = file_in(path);
    let text = std::fs::read_to_string(&file).ok()?;
    if !is_json(&file) {
        return Some(text);
    }
    let config: Value = serde_json::from_str(&text).ok()?;
    config.get("chat_template")?.as_str().map(str::to_owned)
}

/// The base model of a model or of saved weights.
pub(crate) fn base_model_of(service: &ServiceClient, model: &str) -> std::result::Result<String, Failure> {
    if !model.contains("://") {
        return Ok(model.to_owned());
    }
    let rest = service.create_rest_client();
    let known = match rest.get_weights_info_by_tinker_path(model) {
        Ok(info) => info.base_model,
        // Servers that lack the endpoint may know the run.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Incompatible) => {
            match rest.get_training_run_by_tinker_path(model) {
                Ok(run) => run.base_model,
                Err(_) => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    known.ok_or_else(|| {
        Failure::text(format!("{model}: the server does not tell the base model of these weights"))
    })
}

/// The renderer that the training run of saved weights names in its metadata, as the cookbook writes it.
pub(crate) fn renderer_of_run(service: &ServiceClient, path: &str) -> Option<String> {
    if !path.contains("://") {
        return None;
    }
    let run = service.create_rest_client().get_training_run_by_tinker_path(path).ok()?;
    run.user_metadata.get("renderer_name").filter(|name| Renderer::names().contains(&name.as_str())).cloned()
}
