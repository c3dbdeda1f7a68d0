//! `tinkex doctor`: examines the connection to a server, and with `--verbs` every method and option of the clients.

mod date;
mod finding;
mod probes;
mod target;
mod verbs;

use std::time::Duration;

use serde_json::{Value, json};
use tinkex::local::Access;
use tinkex::{ErrorKind, ServiceClient};

use self::finding::{Finding, Mark};
use self::probes::Prober;
use self::target::Target;
use super::args::{Format, Global};
use super::connection::{App, Connection};
use super::failure::Failure;
use super::output::Records;
use super::table::Column;
use super::{foreign, printable, wording};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also call every method with every option, which trains and saves a little on the server
    #[arg(long)]
    verbs: bool,
    /// Model for --verbs [env: TINKEX_BASE_MODEL] [default: the first of the server]
    #[arg(short, long, value_name = "NAME", requires = "verbs")]
    model: Option<String>,
    /// Do not ask before --verbs
    #[arg(short, long, requires = "verbs")]
    yes: bool,
}

/// Time limit of each check of the connection.
const LIMIT: Duration = Duration::from_secs(10);
/// Time limit of each check of a method.
const VERB_LIMIT: Duration = Duration::from_secs(30);

const COLUMNS: [Column; 4] = [
    Column::never_cut("Mark"),
    Column::never_cut("Check"),
    Column::never_cut("Result"),
    Column::never_cut("Remedy"),
];

pub(crate) fn run(args: Args, app: &App) -> Result<(), Failure> {
    let (findings, connection) = examine(app);
    let has_failed = findings.iter().any(|it| it.mark == Mark::Fail);
    if !args.verbs {
        report(app, &findings)?;
        return if has_failed { Err(Failure::Negative) } else { Ok(()) };
    }
    if has_failed {
        report(app, &findings)?;
        app.note("the methods are not examined before the connection works");
        return Err(Failure::Negative);
    }
    if app.global.local.is_none() {
        let question =
            "This trains a small adapter and saves checkpoints, which are deleted at the end. Go on?";
        if !app.confirm(question, args.yes)? {
            return Ok(());
        }
    }
    if !app.out.is_json() {
        report(app, &findings)?;
    }
    examine_verbs(args, app, connection, &findings)
}

/// The checks of the connection, in the order in which one depends on another.
fn examine(app: &App) -> (Vec<Finding>, Option<Connection>) {
    let limit = app.global.timeout.unwrap_or(LIMIT).min(LIMIT);
    let mut findings = Vec::new();
    let is_engine = app.global.local.is_some();
    let connect = |key: Option<&str>| {
        app.connect_with(|builder| {
            let builder = builder.timeouts(|it| {
                it.submit = limit;
                it.exchange = limit;
                it.operation = limit;
            });
            if let Some(key) = key { builder.api_key(key) } else { builder }
        })
    };
    let connection = match connect(None) {
        Ok(connection) => Some(connection),
        Err(failure) => {
            findings.push(of_failure("settings", &failure));
            None
        }
    };
    let credential = if is_engine {
        let engine = connection.as_ref().and_then(|it| it.engine.as_deref());
        let text = match engine {
            Some(Access::Running(running)) => format!("of the engine of process {}", running.process()),
            _ => "of the engine in this process".to_owned(),
        };
        let key = engine.map(|it| it.api_key().to_owned());
        target::Credential { finding: Finding::ok("credential", text), key }
    } else {
        target::credential(&app.global)
    };
    if credential.finding.mark == Mark::Fail {
        // One line is enough for one cause.
        findings.clear();
    }
    findings.insert(0, credential.finding);
    findings.extend(app.global.local.as_ref().and_then(|dir| target::engine_folder(dir.as_deref())));
    // Without a credential the address can still be examined.
    let probe = if connection.is_none() { connect(Some("tml-none")).ok() } else { None };
    let url = connection.as_ref().or(probe.as_ref()).map(|it| it.service.dump().base_url);
    if let Some(target) = url.as_deref().and_then(Target::parse) {
        network(&target, is_engine, limit, credential.key.as_deref(), connection.as_ref(), &mut findings);
    }
    findings.extend(machine());
    (findings, connection)
}

fn network(
    target: &Target,
    is_engine: bool,
    limit: Duration,
    key: Option<&str>,
    connection: Option<&Connection>,
    findings: &mut Vec<Finding>,
) {
    findings.push(target.finding());
    let proxies = target::proxy_variables();
    let is_proxied = !is_engine && target::is_proxied(target, &proxies);
    findings.push(match (&proxies[..], is_proxied) {
        ([], _) => Finding::ok("proxy", "none"),
        (names, true) => Finding::ok("proxy", format!("used: {}", names.join(", "))),
        (names, false) => Finding::ok("proxy", format!("not used for this host: {}", names.join(", "))),
    });
    if is_proxied {
        findings.push(Finding::skip("DNS", "left to the proxy"));
    } else {
        match probes::resolve(target, limit) {
            Ok((addresses, finding)) => {
                findings.push(finding);
                findings.push(probes::connect(&addresses, limit));
            }
            Err(finding) => findings.push(finding),
        }
        if findings.last().is_some_and(|it| it.mark == Mark::Fail) {
            return;
        }
    }
    let prober = Prober::new(target, is_engine, limit);
    let answer = match prober.health() {
        Ok(answer) => answer,
        Err(finding) => return findings.push(finding),
    };
    findings.push(if target.is_https {
        Finding::ok("TLS", "the certificate is trusted")
    } else {
        Finding::skip("TLS", "not used with http://")
    });
    findings.push(finding::clock(answer.clock_ahead));
    findings.push(finding::round_trip(answer.times));
    let is_tinker = answer.status != 404;
    findings.push(if is_tinker {
        let health = answer.body.as_ref().and_then(|it| it["status"].as_str()).unwrap_or("no status");
        let name = answer.server.map(|it| format!(", {}", cut(&it))).unwrap_or_default();
        Finding::ok("server", format!("HTTP {}, {}{name}", answer.status, cut(health)))
    } else {
        Finding::fail("server", "HTTP 404 for /api/v1/healthz", foreign::REMEDY)
    });
    if let Some(connection) = connection {
        account(&connection.service, findings);
    }
    findings.push(match key.map(|key| prober.flags(key)) {
        None => Finding::skip("flags", "the credential comes from a command"),
        Some(Err(problem)) => Finding::skip("flags", format!("not told: {}", cut(&problem))),
        Some(Ok(flags)) => Finding::ok("flags", on(&flags)),
    });
}

/// Whether the server takes the key, and its models.
fn account(service: &ServiceClient, findings: &mut Vec<Finding>) {
    let models = match service.create_rest_client().get_server_capabilities() {
        Ok(capabilities) => capabilities.supported_models,
        Err(error) if *error.kind() == ErrorKind::Auth => {
            let remedy = "`tinkex auth login`, or set TINKER_API_KEY";
            return findings.push(Finding::fail("key", format!("refused: {}", cut(error.message())), remedy));
        }
        Err(error) => {
            const AGAIN: &str =
                "try again; if it stays, report it with the output of `tinkex doctor -f json`";
            let remedy = foreign::remedy(&error).unwrap_or_else(|| AGAIN.to_owned());
            return findings.push(Finding::fail("models", cut(&wording::line(&error)), remedy));
        }
    };
    findings.push(Finding::ok("key", "accepted"));
    let n_trainable = models.iter().filter(|it| it.trainable != Some(false)).count();
    let is_named = |name: &str| models.iter().any(|it| it.model_name.as_deref() == Some(name));
    let text = match models.len() {
        1 => models[0].model_name.clone().unwrap_or_default(),
        n => format!("{n}, {n_trainable} of them trainable"),
    };
    if models.is_empty() {
        findings.push(Finding::fail("models", "none", "ask the operator of the server for access to models"));
    } else {
        let kind = if is_named("tinkex/nano") { " (the engine of tinkex)" } else { "" };
        findings.push(Finding::ok("models", cut(&text) + kind));
    }
    if let Some(longest) = models.iter().filter_map(|it| it.max_context_length).max() {
        findings.push(Finding::ok("limits", format!("{longest} tokens of context")));
    }
}

/// What the machine has room for.
fn machine() -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(folder) = std::env::current_dir()
        && let Some(free) = probes::free_space(&folder)
    {
        findings.push(finding::disk(&cut(&folder.display().to_string()), free));
    }
    if let Some(n) = probes::max_open_files() {
        findings.push(if n < 256 {
            Finding::new("open files", Mark::Warn, format!("at most {n}")).with_remedy("ulimit -n 4096")
        } else {
            Finding::ok("open files", format!("at most {n}"))
        });
    }
    findings
}

/// Where the credential is, and of which kind, unless there is none.
pub(crate) fn credential_source(global: &Global) -> Option<String> {
    let finding = target::credential(global).finding;
    (finding.mark != Mark::Fail).then_some(finding.text)
}

fn of_failure(check: &'static str, failure: &Failure) -> Finding {
    let (message, remedy) = match failure {
        Failure::Api { error, remedy } => (wording::message(error), remedy.clone()),
        Failure::Text { message, remedy }
        | Failure::Missing { message, remedy }
        | Failure::Usage { message, remedy } => (message.clone(), remedy.clone()),
        other => (format!("{other:?}"), None),
    };
    Finding::fail(check, cut(&message), remedy.unwrap_or_default())
}

/// The flags that are on, and the number of all.
fn on(flags: &Value) -> String {
    let Some(flags) = flags.as_object() else { return "none".into() };
    let on: Vec<&str> =
        flags.iter().filter(|(_, it)| it.as_bool() == Some(true)).map(|(name, _)| name.as_str()).collect();
    let on = if on.is_empty() { "none".to_owned() } else { on.join(", ") };
    cut(&format!("on: {on}; {} in all", flags.len()))
}

/// A text of a server on one line of bounded length.
fn cut(text: &str) -> String {
    let text = printable::line(text);
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn report(app: &App, findings: &[Finding]) -> Result<(), Failure> {
    if app.out.format() == Format::Table {
        return findings.iter().try_for_each(|finding| {
            app.out.line(&format!("{}  {:<11} {}", mark(finding.mark, app), finding.check, finding.text))?;
            if finding.remedy.is_empty() {
                Ok(())
            } else {
                app.out.line(&format!("      try: {}", finding.remedy))
            }
        });
    }
    let rows = findings
        .iter()
        .map(|it| vec![it.mark.name().to_owned(), it.check.to_owned(), it.text.clone(), it.remedy.clone()]);
    let json = as_json(findings);
    app.out.records(&Records { columns: &COLUMNS, rows: rows.collect(), json, list: "findings" })
}

/// The findings for a report of a fault.
fn as_json(findings: &[Finding]) -> Value {
    let list: Vec<_> = findings.iter().map(Finding::json).collect();
    let n = |mark| findings.iter().filter(|it| it.mark == mark).count();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "system": { "os": std::env::consts::OS, "arch": std::env::consts::ARCH },
        "n_warn": n(Mark::Warn),
        "n_fail": n(Mark::Fail),
        "findings": list,
    })
}

/// The mark in four columns, in color if the terminal has any.
fn mark(mark: Mark, app: &App) -> String {
    let color = match mark {
        Mark::Ok => "32",
        Mark::Warn => "33",
        Mark::Fail => "31",
        Mark::Skip => "2",
    };
    if app.out.has_color() {
        format!("\x1b[{color}m{:<4}\x1b[0m", mark.name())
    } else {
        format!("{:<4}", mark.name())
    }
}

/// Calls every method. The lines are written as the checks end.
fn examine_verbs(
    args: Args,
    app: &App,
    connection: Option<Connection>,
    findings: &[Finding],
) -> Result<(), Failure> {
    let Some(connection) = connection else { return Err(Failure::text("the server cannot be reached")) };
    let model = args.model.or_else(|| std::env::var("TINKEX_BASE_MODEL").ok().filter(|it| !it.is_empty()));
    let engine = connection.engine.as_ref().map(|it| (it.url().to_owned(), it.api_key().to_owned()));
    let (url, command) = (app.global.base_url.clone(), app.global.credential_command.clone());
    let project = app.global.project.clone();
    let connect = move || {
        let mut builder = ServiceClient::builder();
        if let Some((url, key)) = &engine {
            builder = builder.base_url(url).api_key(key).no_proxy();
        } else if let Some(command) = &command {
            builder = builder.credential_command(command);
        }
        if let Some(url) = &url {
            builder = builder.base_url(url);
        }
        if let Some(project) = &project {
            builder = builder.project_id(project);
        }
        builder
    };
    let limit = app.global.timeout.unwrap_or(VERB_LIMIT);
    let (mut client, mut stdout) = ("", Ok(()));
    let mut lines = Vec::new();
    let is_json = app.out.is_json();
    let report = verbs::examine(connect, model, limit, |line| {
        if is_json {
            lines.push(json!({
                "client": line.client,
                "method": line.name,
                "mark": line.mark.name(),
                "reason": line.reason,
                "seconds": line.took.as_secs_f64(),
            }));
            return;
        }
        let head = if line.client == client { String::new() } else { format!("\n{}\n", line.client) };
        client = line.client;
        if stdout.is_ok() {
            stdout = app.out.line(&format!("{head}{line}"));
        }
    });
    stdout?;
    let report = report.map_err(Failure::text)?;
    let n_broken = report.count(verbs::Mark::Broken);
    let mut json = as_json(findings);
    json["methods"] = lines.into();
    json["n_broken"] = n_broken.into();
    app.out.value(&json, || format!("\n{report}"))?;
    if n_broken == 0 { Ok(()) } else { Err(Failure::Negative) }
}
