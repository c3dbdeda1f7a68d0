//! What all commands share: the global options, stdout, signals, and the connection to a server or to the engine.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tinkex::local::Access;
use tinkex::{Error, ErrorKind, RestClient, ServiceClient, ServiceClientBuilder};

use super::args::{Color, Global};
use super::doubts::Doubts;
use super::engine::{self, EngineMonitor, Engines, Lost};
use super::failure::Failure;
use super::output::Out;
use super::sessions::{Session, Sessions};
use super::shell_word::quoted;
use super::signals::Stop;
use super::{logger, notes, project, similar, wording};

/// Time limit of a request that a command can do without.
const BRIEFLY: Duration = Duration::from_secs(10);

/// What all commands share.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) global: Global,
    pub(crate) out: Out,
    pub(crate) stop: Stop,
    /// Set when the engine of another program has ended.
    pub(crate) lost: Lost,
    pub(crate) engines: Engines,
    /// Whether the engine of `--local` may begin with a new folder.
    pub(crate) may_create_engine: bool,
    /// Whether a new folder of the engine is removed at the end.
    pub(crate) is_dry_run: bool,
    /// The project is that of the variable, which gives way to that of a run.
    pub(crate) is_project_of_environment: bool,
    /// What may explain a failure.
    pub(crate) doubts: Doubts,
    /// What is ended with the command.
    pub(crate) sessions: Sessions,
}

/// A client of a server.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) service: ServiceClient,
    /// The engine of `--local`.
    pub(crate) engine: Option<Arc<Access>>,
}

impl Connection {
    /// Refuses a base model that the engine of `--local` does not have, before its tokenizer is looked for elsewhere.
    pub(crate) fn check_model(&self, model: &str) -> Result<(), Failure> {
        if self.engine.is_none() || model.contains("://") {
            return Ok(());
        }
        let names = self.models()?;
        if names.iter().any(|name| name == model) {
            return Ok(());
        }
        Err(Failure::text(format!("the engine has no model {model:?}; it has {}", names.join(", ")))
            .with_remedy("-m with one of these, the folder of a run, or a server instead of --local"))
    }

    /// A failure at the beginning of the work with a model: says that the server does not have the model if that is the
    /// reason, and which one was probably meant.
    pub(crate) fn explained(&self, model: &str, failure: Failure) -> Failure {
        let may_be_of_model = match &failure {
            // A server that cannot work, for which the library has waited long enough, need not be asked for its models.
            Failure::Api { error, .. } => {
                let is_down = error.http_status().is_some_and(|it| (502..=504).contains(&it))
                    || error.endpoint().is_some_and(|it| it.ends_with("create_session"));
                !error.is_connection() && !error.is_timeout() && !is_down
            }
            Failure::Text { .. } | Failure::Usage { .. } => true,
            _ => false,
        };
        if model.contains("://") {
            return self.not_for_sampling(model, &failure).unwrap_or(failure);
        }
        if !may_be_of_model {
            return failure;
        }
        match self.models() {
            Ok(names) if names.is_empty() || names.iter().any(|name| name == model) => failure,
            // The engine says the same in its own words.
            Ok(_) if failure.summary().starts_with("the engine has no model") => failure,
            Ok(names) => unlisted(model, &names, &failure),
            Err(_) => failure,
        }
    }

    /// The failure of sampling from a state of the training, or from one that does not exist, with the weights of its run
    /// that are for sampling.
    fn not_for_sampling(&self, path: &str, failure: &Failure) -> Option<Failure> {
        let (run, name) = path.strip_prefix("tinker://")?.split_once("/weights/")?;
        let is_refused =
            matches!(failure, Failure::Api { error, .. } if error.is_user_error() && !error.is_not_found());
        if !is_refused {
            return None;
        }
        let listed = self.service.create_rest_client().list_checkpoints(run);
        let is_missing = listed.as_ref().is_ok_and(|all| all.iter().all(|it| it.tinker_path != path));
        let checkpoints = listed.unwrap_or_default();
        let samplers = || checkpoints.iter().filter(|it| it.tinker_path.contains("/sampler_weights/"));
        let same = samplers().find(|it| it.tinker_path.ends_with(&format!("/sampler_weights/{name}")));
        let newest = || samplers().max_by_key(|it| it.time.as_ref().map(ToString::to_string));
        let known: Vec<&str> = samplers().map(|it| it.tinker_path.as_str()).collect();
        let near = same.is_none().then(|| similar::names(path, &known).first().copied()).flatten();
        let sampler = near.or_else(|| same.or_else(newest).map(|it| it.tinker_path.as_str()));
        if is_missing {
            let problem = format!("{path} does not exist: the run has no checkpoint of this name");
            return Some(Failure::usage(problem).with_remedy(match sampler {
                Some(sampler) => format!("-m {sampler}"),
                None => format!("`tinkex checkpoint list --run-id {run}` lists those of the run"),
            }));
        }
        let remedy = match sampler {
            Some(sampler) => format!("-m {sampler}"),
            None => {
                format!(
                    "the run has no weights to sample from: `tinkex train chats.jsonl --from {path}` makes some"
                )
            }
        };
        let problem = format!("{path} is a state of the training, which has no weights to sample from");
        Some(Failure::usage(problem).with_remedy(remedy))
    }

    /// The names of the base models of the server.
    fn models(&self) -> Result<Vec<String>, Failure> {
        let models = self.service.create_rest_client().get_server_capabilities()?.supported_models;
        Ok(models.into_iter().filter_map(|it| it.model_name).collect())
    }
}

/// A server may accept a model that it does not list: so the reason of the failure is told, too.
fn unlisted(model: &str, known: &[String], failure: &Failure) -> Failure {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let similar = similar::names(model, &known);
    let failure = Failure::text(format!("the server lists no model {model:?}: {}", failure.summary()));
    if similar.is_empty() {
        failure.with_remedy("`tinkex model list` shows the models")
    } else {
        failure.with_remedy(format!("did you mean {}? `tinkex model list` shows all", similar.join(" or ")))
    }
}

impl App {
    pub(crate) fn new(mut global: Global, may_create_engine: bool) -> Result<Self, Failure> {
        // The library knows the variable for new sessions alone; here it also limits lists, and what is deleted.
        let of_environment = project::of_environment()?.filter(|_| global.project.is_none());
        let is_project_of_environment = of_environment.is_some();
        global.project = global.project.or(of_environment);
        logger::start(global.quiet, global.verbose);
        if global.quiet {
            notes::be_quiet();
        }
        let stdout_has_color = use_color(global.color, std::io::stdout().is_terminal());
        let out = Out::new(global.format, stdout_has_color);
        let stop = Stop::register()?;
        let app = App {
            global,
            out,
            stop,
            lost: Lost::default(),
            engines: Engines::default(),
            may_create_engine,
            is_dry_run: false,
            is_project_of_environment,
            doubts: Doubts::default(),
            sessions: Sessions::default(),
        };
        wording::server_is_at(app.place());
        Ok(app)
    }

    /// Says something on stderr, unless `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.global.quiet {
            notes::write(text);
        }
    }

    /// Says something on stderr if a person reads it, unless `--quiet`.
    pub(crate) fn hint(&self, text: &str) {
        if notes::are_read() {
            self.note(text);
        }
    }

    /// True if [`confirm`](Self::confirm) can ask.
    pub(crate) fn can_ask(&self) -> bool {
        std::io::stdin().is_terminal() && notes::are_read()
    }

    /// Asks a question that is answered with y or n; `yes` is the option that answers it. Without a terminal nobody can
    /// answer.
    pub(crate) fn confirm(&self, question: &str, yes: bool) -> Result<bool, Failure> {
        if yes {
            return Ok(true);
        }
        if !self.can_ask() {
            return Err(Failure::usage(format!("cannot ask \"{question}\" without a terminal"))
                .with_remedy("add --yes"));
        }
        notes::write(&format!("{question} [y/N]"));
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::text(format!("cannot read the answer: {error}")))?;
        Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    /// The options by which another command finds the same server, each with a space before it.
    pub(crate) fn place(&self) -> String {
        let dir = self.global.local.as_ref().map(|dir| dir.as_ref().map(|it| it.display().to_string()));
        place_of(dir.as_ref().map(Option::as_deref), self.global.base_url.as_deref())
    }

    /// Connects to the server, or to the engine of `--local`. Sends nothing yet.
    pub(crate) fn connect(&self) -> Result<Connection, Failure> {
        self.connect_with(|builder| builder)
    }

    /// As [`connect`](Self::connect), for what a command can do without: a server that does not answer such a request must
    /// not delay the command by its many retries.
    pub(crate) fn connect_briefly(&self) -> Result<Connection, Failure> {
        self.connect_with(|builder| {
            builder.timeouts(|it| (it.submit, it.exchange) = (BRIEFLY, it.exchange.min(BRIEFLY)))
        })
    }

    /// A client for what a command can do without; `rest` is its own one.
    pub(crate) fn rest_briefly(&self, rest: &RestClient) -> RestClient {
        if self.global.local.is_some() {
            return rest.clone();
        }
        self.connect_briefly().map_or_else(|_| rest.clone(), |it| it.service.create_rest_client())
    }

    /// As [`connect`](Self::connect), with further settings of the client.
    pub(crate) fn connect_with(
        &self,
        change: impl FnOnce(ServiceClientBuilder) -> ServiceClientBuilder,
    ) -> Result<Connection, Failure> {
        let global = &self.global;
        wording::server_is_at(self.place());
        let engine = match &global.local {
            Some(dir) => Some(self.engines.open(dir.clone(), self.may_create_engine, self.is_dry_run)?),
            None => None,
        };
        let mut builder = ServiceClient::builder();
        if let Some(engine) = &engine {
            wording::engine_is_at(engine.url());
            builder = builder.base_url(engine.url()).api_key(engine.api_key()).no_proxy();
        }
        if let Some(url) = &global.base_url {
            builder = builder.base_url(url);
        }
        if let Some(bundle) = ca_bundle().filter(|_| engine.is_none()) {
            builder = builder.ca_bundle(bundle);
        }
        // Keys of servers other than the service have any form.
        let names_server = std::env::var_os("TINKER_BASE_URL").is_some_and(|it| !it.is_empty());
        builder = builder.allow_any_key(global.base_url.is_some() || names_server);
        if let Some(project) = &global.project {
            builder = builder.project_id(project);
        }
        if let Some(command) = global.credential_command.as_ref().filter(|_| engine.is_none()) {
            builder = builder.credential_command(command);
        }
        if let Some(limit) = global.timeout {
            builder = builder.timeouts(|it| {
                it.operation = limit;
                for part in [&mut it.connect, &mut it.first_contact, &mut it.exchange, &mut it.submit] {
                    *part = limit.min(*part);
                }
            });
        }
        let running = match engine.as_deref() {
            Some(Access::Running(running)) => Some(running),
            _ => None,
        };
        if let Some(running) = running {
            self.hint(&format!("the engine of this folder is that of process {}", running.process()));
            builder = builder.timeouts(|it| it.finish = engine::FINISH);
        }
        let builder = change(builder).timeouts(|it| logger::limits_are(it));
        let service = builder.build().map_err(|error| {
            let lacks_bundle = error.message().contains("the CA bundle");
            let lacks_key = lacks_key(&error);
            let is_config = *error.kind() == ErrorKind::Config;
            let has_bad_key = is_config && error.message().contains("must start with tml-");
            let has_bad_address = is_config && error.message().contains("the base URL");
            let failure = Failure::from(error);
            if let Some(url) = global.base_url.as_ref().filter(|_| has_bad_address) {
                Failure::usage(format!("--base-url {url}: {}", failure.summary()))
                    .with_remedy("an address such as http://127.0.0.1:8000, which ends before /api/v1")
            } else if has_bad_address {
                failure.with_remedy("an address such as http://127.0.0.1:8000 for --base-url or TINKER_BASE_URL")
            } else if has_bad_key {
                failure.with_remedy(
                    "a key of the service in TINKER_API_KEY, or `tinkex auth login`; or the server of this key, as in --base-url http://127.0.0.1:8000",
                )
            } else if lacks_key {
                failure.with_remedy("`tinkex auth login`, or set TINKER_API_KEY; or --local, to work offline")
            } else if lacks_bundle {
                failure.with_remedy("the variable SSL_CERT_FILE names it: a file of certificates as PEM")
            } else {
                failure
            }
        })?;
        let monitor = running.map(|running| EngineMonitor::start(running, &service, &self.lost));
        let session = Session { service: service.clone(), _monitor: monitor, _engine: engine.clone() };
        self.sessions.add(session, &self.stop)?;
        Ok(Connection { service, engine })
    }
}

/// True if there is no key for the server.
pub(crate) fn lacks_key(error: &Error) -> bool {
    *error.kind() == ErrorKind::Config && error.message().contains("no API key")
}

/// The file of the certificates to trust, if the user names one as for other programs.
pub(crate) fn ca_bundle() -> Option<PathBuf> {
    std::env::var_os("SSL_CERT_FILE").filter(|it| !it.is_empty()).map(PathBuf::from)
}

/// The options that name the engine of a folder, or the engine of the default folder, or else the server at an address.
pub(crate) fn place_of(local: Option<Option<&str>>, base_url: Option<&str>) -> String {
    match (local, base_url) {
        (Some(Some(dir)), _) => format!(" --local={}", quoted(dir)),
        (Some(None), _) => " --local".into(),
        (None, Some(url)) => format!(" --base-url={}", quoted(url)),
        (None, None) => String::new(),
    }
}

/// Whether texts to a stream have colors.
pub(crate) fn use_color(asked: Color, is_terminal: bool) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|it| !it.is_empty() && it != "0");
    match asked {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty()) => false,
        Color::Auto => is_set("CLICOLOR_FORCE") || is_terminal,
    }
}
